"""Checkpoints that are whole or not there, and the one before the newest: a damaged one costs an interval, not a run.

A checkpoint is written beside its place, flushed to the disk and renamed; Lightning writes to the folder of temporary
files first, and moving a file from there to another disk can end in half of it. The `last.ckpt` that a new one
replaces stays as `last-before.ckpt`. Both are read through before a run continues from one of them.
"""

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ddt_lightning.atomic import whole_file
from ddt_lightning.training.checkpoint import last_checkpoint, read_checkpoint, resume_step
from ddt_lightning.training.lost import LOADER

META = "meta.pt"  # Lightning's name for what a sharded checkpoint holds beside weights and optimisers


class KeptCheckpoints(TorchCheckpointIO):
    """Files of whole checkpoints."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401 - Lightning's own
    ) -> None:
        """Write a file that is whole or not there, and keep the one before it.

        Raises:
            OSError: it cannot be written; names the folder, what is free there, and what is left to go on from.
            RuntimeError: a process that loads data ended while it was written.
        """
        target = Path(path)
        try:
            with whole_file(target) as temporary:
                torch.save(dict(checkpoint), temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                keep_before(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            if LOADER.search(str(error)):  # a process for data that ends meanwhile is another matter
                raise
            raise unwritten(target, checkpoint, error) from None

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,  # noqa: ANN401 - Lightning's own
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file.

        Raises:
            ValueError: it is the folder of a sharded checkpoint.
        """
        if Path(path).is_dir():
            raise ValueError(
                f"`ckpt_path` ({path}) is a sharded checkpoint, and this call does not shard: go on with `--config "
                "stages/fsdp.yaml`, on one process or more."
            )
        return super().load_checkpoint(path, map_location, weights_only)


def before(target: Path) -> Path:
    """The place of the checkpoint before `last.ckpt`."""
    return target.with_name(f"{target.stem}-before{target.suffix}")


def keep_before(target: Path) -> None:
    """Move the checkpoint that is about to be replaced to its place, if it is the newest of a run."""
    if target.name == last_checkpoint("").name and target.exists():
        remove(before(target))
        target.replace(before(target))


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def unwritten(target: Path, checkpoint: Mapping[str, Any], error: Exception) -> OSError:
    """The error of a checkpoint that could not be saved."""
    folder = next((one for one in (target.parent, *target.parents) if one.is_dir()), Path("/"))
    free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    kept = [path for path in (target, before(target)) if path.exists()]
    rest = f"{kept[0]} (step {resume_step(kept[0])}) is the last one" if kept else "there is none before it"
    reason = " ".join(str(error).split())[:120]
    return OSError(
        f"`run_dir`: the checkpoint of step {checkpoint.get('global_step')} cannot be written to {target} ({reason}; "
        f"{free}); {rest}: make room or leave to write, and the same command goes on."
    )


def whole_checkpoint(run_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with those that are newer.

    Raises:
        ValueError: there are some, and all are damaged.
    """
    last = last_checkpoint(run_dir)
    problems: list[str] = []
    for path in (last, before(last)):
        if not path.exists():
            continue
        problem = damage(path)
        if not problem:
            return path, problems
        problems.append(problem)
    if problems:
        raise ValueError(f"{'; '.join(problems)}. Another `--run_dir` starts a new run.")
    return None, []


def damage(path: Path, option: str = "ckpt_path") -> str:
    """What is wrong with a checkpoint, a file or the folder of a sharded one; "" for a whole one.

    All of a file is read, a second for every gigabyte or so, for its sums to be compared.
    """
    if path.is_dir():
        return folder_damage(path, option)
    if not path.stat().st_size:
        return f"`{option}` ({path}) is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            return f"`{option}` ({path}) is damaged: the sum of {broken} is wrong"
        read_checkpoint(path, option)
    except zipfile.BadZipFile:
        return f"`{option}` ({path}) is cut off, or is no checkpoint"
    except ValueError as error:
        return str(error)
    return ""


def folder_damage(path: Path, option: str) -> str:
    """What is wrong with a sharded checkpoint: a file is missing or shorter than its index says."""
    from torch.distributed.checkpoint import FileSystemReader

    if not (path / META).is_file():
        return f"`{option}` ({path}) lacks {META}: it was not saved to its end"
    try:
        read_checkpoint(path / META, option)
        stored = FileSystemReader(path).read_metadata().storage_data or {}
    except Exception as error:  # a damaged index is a pickle of any kind of damage
        return f"`{option}` ({path}) is damaged: {' '.join(str(error).split())[:160]}"
    for info in stored.values():
        file = path / info.relative_path
        if not file.is_file() or file.stat().st_size < info.offset + info.length:
            return f"`{option}` ({path}) is damaged: {info.relative_path} is missing or cut off"
    return ""


def put_in_place(run_dir: str | Path, used: Path) -> None:
    """Before a run goes on from the checkpoint before the newest: make it the newest.

    A damaged newest one is moved aside. The one that is used stays where it is: other processes may read it.
    """
    last = last_checkpoint(run_dir)
    if used != before(last):
        return
    if last.exists():
        aside = last.with_name(f"{last.stem}-damaged{last.suffix}")
        remove(aside)
        last.replace(aside)
    part = last.with_name(f".{last.name}.partial")
    remove(part)
    if used.is_dir():
        shutil.copytree(used, part)
    else:
        shutil.copyfile(used, part)
    part.replace(last)
