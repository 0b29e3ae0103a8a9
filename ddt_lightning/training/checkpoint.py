"""Weights in and out of a run: strict loading for `init_from`, and the list of what a run folder holds.

A run folder holds `config.yaml`, `metrics.csv`, `checkpoints/last.ckpt` (to continue the run; the one before it is
`last-before.ckpt`) and, once training has ended, `release/` (plain safetensors folders, to start others from).
"""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddt_lightning.model_folder import find_part

AVERAGED = "averaged."
"""Before the names of weights' averages in a distributed checkpoint."""
INDEX = ".metadata"  # torch's name for the index of a sharded checkpoint


def last_checkpoint(run_dir: str | Path) -> Path:
    """Path of the checkpoint that a run continues from."""
    return Path(run_dir) / "checkpoints" / "last.ckpt"


def read_checkpoint(path: Path, option: str = "ckpt_path") -> dict[str, Any]:
    """What the file of a checkpoint holds: numbers and tensors, which stay on the disk until they are used.

    Args:
        path: the file.
        option: the option that names it, for errors.

    Raises:
        ValueError: it is damaged, or holds more than numbers; nothing in it is ever run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"`{option}` ({path}) is damaged, or is no checkpoint of numbers alone: {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"`{option}` ({path}) is no checkpoint: it holds a {type(found).__name__}.")
    return found


def read_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint, a file or the folder of a sharded one, holds beside weights; errors as `read_checkpoint`."""
    return read_checkpoint(path / "meta.pt" if path.is_dir() else path)


def resume_step(path: Path) -> int:
    """Optimizer step of a checkpoint; errors as `read_checkpoint`."""
    found = read_meta(path)
    if "global_step" not in found:
        raise ValueError(f"`ckpt_path` ({path}) is no checkpoint of a run: it names no step.")
    return int(found["global_step"])


def read_weights(path: str | Path, part: str, prefix: str) -> dict[str, Tensor]:
    """Weights of a Lightning checkpoint, or of a released folder.

    Args:
        path: a `.ckpt` file or the folder of a sharded one, a run folder, a release folder or the part's own folder.
        part: folder name of the part, e.g. `tokenizer`.
        prefix: name of the part inside a `.ckpt`, e.g. `tokenizer.`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the checkpoint holds no such part, is damaged, or holds more than numbers.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`init_from` ({path}) does not exist.")
    sharded = (path / INDEX).is_file()
    if path.is_file() or sharded:
        state = gathered_weights(path) if sharded else read_checkpoint(path, "init_from").get("state_dict", {})
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not weights:
            raise ValueError(f"`init_from` ({path}) holds no weights named {prefix}*.")
        return weights
    return read_folder(find_part(part, path, "init_from"))


def gathered_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of the folder of a sharded checkpoint, however many processes wrote it, gathered by this one.

    Of weights that were averaged over steps, the averages.
    """
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(value.size, dtype=value.properties.dtype)
        for name, value in stored.items()
        if name.startswith("state_dict.") and isinstance(value, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # that is meant
        load(state, storage_reader=reader, no_dist=True)
    found = {name.removeprefix("state_dict."): value for name, value in state.items()}
    averages = {name.removeprefix(AVERAGED): value for name, value in found.items() if name.startswith(AVERAGED)}
    return {name: value for name, value in found.items() if not name.startswith(AVERAGED)} | averages


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder: of its `model.safetensors`, or of the files that its index names.

    Raises:
        FileNotFoundError: neither is there, or one of those files is missing.
    """
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(f"`init_from` ({folder}) lacks the weights {missing[0]}: copy all of its files.")
    return {key: value for name in sorted(names) for key, value in load_file(folder / name).items()}


def exported_facts(path: str | Path) -> dict[str, Any]:
    """Facts about its ids in the config.json of an exported language model (`ddt`); nothing for other weights."""
    path = Path(path)
    if path.is_file():
        return {}
    config = find_part("lm", path, "init_from") / "config.json"
    found: dict[str, Any] = json.loads(config.read_text()).get("ddt") or {}
    return found


def load_strictly(net: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Load weights into a network; every name and shape must fit. One of two tied weights may be left out.

    Raises:
        ValueError: one line that names the first missing, unexpected or misshapen weight.
    """
    state = net.state_dict()
    present = {value.data_ptr() for name, value in state.items() if name in weights}
    missing = sorted(name for name in state.keys() - weights.keys() if state[name].data_ptr() not in present)
    unexpected = sorted(weights.keys() - state.keys())
    misshapen = [name for name in sorted(state.keys() & weights.keys()) if state[name].shape != weights[name].shape]
    if missing or unexpected or misshapen:
        first = (
            f"{misshapen[0]} is {list(weights[misshapen[0]].shape)}, the model has {list(state[misshapen[0]].shape)}"
            if misshapen
            else f"{missing[0]} is missing"
            if missing
            else f"{unexpected[0]} is unknown"
        )
        raise ValueError(
            f"`init_from` ({source}) does not fit the model: {first} ({len(missing)} missing, {len(unexpected)} "
            f"unknown, {len(misshapen)} of another size). Use the sizes of its config.yaml."
        )
    net.load_state_dict(weights, strict=False)  # what is missing by now is tied
