"""Frozen scoring networks in transformers' format: a local folder in, a network in eval mode out.

Nothing is downloaded. transformers fills what a folder lacks with random weights and only warns; here that is an error,
because a random network would give a number that looks like a score.
"""

from pathlib import Path
from typing import Any

import torch


def load_frozen(kind: Any, folder: str, option: str, device: str = "cpu", unused: str | None = None) -> Any:  # noqa: ANN401
    """A network of a local folder in float32, frozen, on a device.

    Args:
        kind: transformers' class, such as `CLIPModel`.
        folder: with config.json and the weights.
        option: what the user named it by, for errors.
        device: where it runs.
        unused: a module of the network that is taken off, so that its weights may lack.

    Raises:
        FileNotFoundError: there is no such folder, or no config.json in it.
        ValueError: the folder is of another network, or lacks weights.
    """
    from transformers.utils import logging  # seconds to import

    check_folder(folder, option)
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is an error below
    try:
        model, report = kind.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"`--{option}` ({folder}) does not load as a {kind.__name__}: {text}") from error
    finally:
        logging.set_verbosity(level)
    if unused:
        setattr(model, unused, None)
    # buffers are computed, so that a folder of an older version may lack them
    lacking = sorted(name for name, _ in model.named_parameters() if name in report["missing_keys"])
    if lacking:
        raise ValueError(
            f"`--{option}` ({folder}) is not a whole {kind.__name__}: it lacks {lacking[0]} ({len(lacking)} in all)."
        )
    return model.to(device).eval().requires_grad_(False)


def check_folder(folder: str, option: str) -> None:
    """Fail if a folder is none of transformers; cheap, so that it can be called before anything heavy is imported.

    Raises:
        FileNotFoundError: there is no such folder, or no config.json in it.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"`--{option}` ({folder}) is not a folder with config.json: name a local copy of a transformers model."
        )
