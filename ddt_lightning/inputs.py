"""Inputs of verbs: groups of options, and the model to load; with errors that name the option."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from ddt_lightning.judges import find_judge
from ddt_lightning.model_folder import find_part, holds
from ddt_lightning.pretrained import find_model

if TYPE_CHECKING:
    from ddt_lightning.pipeline import Pipeline


@dataclass(frozen=True)
class Loading:
    """Options of a model: its folders, device and batch.

    Args:
        model: name of a shipped model such as scenes; or a model folder, with tokenizer/, lm/ and vocab/; or the folder
            of a run; or hf://OWNER/NAME, which is fetched from the Hugging Face hub.
        tokenizer: tokenizer folder, or the run of one, where the model folder has none (as after pretraining).
        renderer: renderer folder, or the run of one, where the model folder has none; `none` decodes by diffusion even
            where it has. Whole images are then drawn in one step.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: images at a time.
    """

    model: str = "scenes"
    tokenizer: str | None = None
    renderer: str | None = None
    device: str = "auto"
    batch: int = 64


@dataclass(frozen=True)
class Coding:
    """Options of a tokenizer that runs over shards.

    Args:
        vae: folder of the diffusers AutoencoderKL that makes the latents; none for a tokenizer of pixels.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: samples at a time.
        processes: worker processes, a shard at a time each.
    """

    vae: str | None = None
    device: str = "auto"
    batch: int = 64
    processes: int = 2


@dataclass(frozen=True)
class Networks:
    """Frozen networks that look at images, by their files.

    Args:
        inception: torch-fidelity's Inception weights, for FID, KID, precision and recall; without them these are left
            out.
        encoder: encoder that `ddt study encoder` wrote; the shipped one, of scenes, if not given.
        backbone: EfficientNet-Lite0's weights, or `efficientnet_lite0` of `make judges`, for distances by features of
            an ImageNet classifier; without them these are left out.
        lpips: torchvision's weights of AlexNet or VGG-16, or `alexnet` or `vgg16` of `make judges`, for LPIPS; without
            them it is left out.
    """

    inception: str | None = None
    encoder: str | None = None
    backbone: str | None = None
    lpips: str | None = None

    def __post_init__(self) -> None:
        for name in ("backbone", "lpips"):
            object.__setattr__(self, name, find_judge(getattr(self, name), f"--{name}"))


Item = TypeVar("Item")


def positive(option: str, value: int) -> int:
    """`value`, if it is at least 1.

    Raises:
        ValueError: naming the option.
    """
    if value < 1:
        raise ValueError(f"`--{option}` ({value}) must be at least 1.")
    return value


def progress(items: Sequence[Item], label: str) -> Iterable[Item]:
    """A progress bar over `items` on stderr; none for a single item, or where that is not a terminal."""
    return tqdm(items, desc=label, disable=len(items) < 2 or not sys.stderr.isatty())


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def find_parts(loading: Loading, llm: bool) -> tuple[Path, Path]:
    """The model folder and the tokenizer folder; refuses what lacks a part, before anything heavy is imported.

    Raises:
        FileNotFoundError: naming the option and the part.
    """
    folder = find_model(loading.model)
    folder = folder / "release" if (folder / "release").is_dir() else folder
    for part in ("lm", "vocab") if llm else ():
        if not holds(part, folder):
            raise FileNotFoundError(
                f"`--model` ({loading.model}) has no {part}/: name a model folder, or run `make demo`."
            )
    if loading.tokenizer is not None:
        return folder, find_part("tokenizer", loading.tokenizer)
    if not holds("tokenizer", folder):
        raise FileNotFoundError(
            f"`--model` ({loading.model}) has no tokenizer/: name a model folder, or its tokenizer with `--tokenizer`."
        )
    return folder, folder / "tokenizer"


def load_pipeline(loading: Loading, *, llm: bool = True) -> "Pipeline":
    """The pipeline of a model folder, with or without the language model; errors as `find_parts`, `pick_device`."""
    folder, tokenizer = find_parts(loading, llm)
    from transformers.utils.logging import disable_progress_bar

    from ddt_lightning.pipeline import Pipeline

    disable_progress_bar()  # loading takes a second; its bar is written to files and pipes too
    renderer: bool | Path = loading.renderer != "none"
    if renderer and loading.renderer is not None:
        renderer = find_part("renderer", loading.renderer)
    device = pick_device(loading.device)
    return Pipeline.from_pretrained(folder, device, tokenizer=tokenizer, llm=llm, renderer=renderer)


def pick_device(device: str) -> str:
    """The device that `--device` means.

    Raises:
        ValueError: where it does not exist.
    """
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` ({device}) is not there: {' '.join(str(error).split())[:120]}") from None
    return name
