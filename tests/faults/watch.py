"""The journal of a run, beside its folder: each batch that it takes, and what it is about to do, as it happens."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from tests.faults.moments import Moment

WRITES = os.O_WRONLY | os.O_RDWR
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "shutil.rmtree", "open")
"""Python's own audit events that change files; torch and safetensors write without any."""
PHASES = ("start", "step", "between steps", "validation", "save", "rows", "other files", "release", "end")


def journal(run: str | Path, rank: int) -> Path:
    """The file of one process, beside the folder of its run, which holds nothing foreign."""
    run = Path(run)
    return run.with_name(f"{run.name}.watch-{rank}")


def note(path: Path, at: str, **more: Any) -> None:
    """Add a line by one system call, so that a kill leaves whole lines."""
    line = json.dumps({"at": at, "time": time.monotonic(), **more}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, line.encode())
    os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """Every line that is whole; none where there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def digest(value: Any) -> str:
    """A sum of everything in a batch."""
    found = hashlib.blake2b(digest_size=8)

    def take(one: Any) -> None:
        if isinstance(one, torch.Tensor):
            found.update(f"{one.dtype}{tuple(one.shape)}".encode() + one.detach().numpy().tobytes())
        elif isinstance(one, dict):
            for key in one:
                found.update(str(key).encode())
                take(one[key])
        elif isinstance(one, list | tuple):
            for inner in one:
                take(inner)
        else:
            found.update(repr(one).encode())

    take(value)
    return found.hexdigest()


class Watch(pl.Callback):
    """Writes down every batch before its step, and where validation and saving begin."""

    def note(self, trainer: pl.Trainer, at: str, **more: Any) -> None:
        note(journal(trainer.default_root_dir, trainer.global_rank), at, step=trainer.global_step, **more)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        self.note(trainer, "step", batch=digest(batch))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note(trainer, "between steps")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note(trainer, "validation")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note(trainer, "between steps")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note(trainer, "save")

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.note(trainer, "end")


def phase_of(file: str) -> str:
    """What a process is doing that changes a file of a run."""
    top = file.split("/")[0]
    if top == "checkpoints":
        return "save"
    if top == "release" or top.startswith(".release."):
        return "release"
    return "rows" if "metrics.csv" in top else "other files"


def watch_files(run: Path, rank: int, moment: Moment | None) -> None:
    """From now on, write down what this process does to files in `run`, and kill it at one of these deeds.

    Args:
        run: the folder.
        rank: of the process.
        moment: one whose deed is named kills: a file that was opened to be written is empty after the deed.
    """
    own, path, left = os.getpid(), journal(run, rank), -1 if moment is None or not moment.deed else moment.number

    def hook(event: str, words: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in EVENTS or os.getpid() != own or not words or not isinstance(words[0], str | os.PathLike):
            return
        if event == "open" and not (isinstance(words[2], int) and words[2] & WRITES):
            return
        if not str(Path(words[0]).absolute()).startswith(f"{run}/"):
            return
        file = os.path.relpath(words[0], run)
        note(path, phase_of(file), deed=event, file=file)
        if moment is None or moment.deed is None or phase_of(file) != moment.phase:
            return
        if left == 0 and moment.deed == "before":
            os.kill(own, signal.SIGKILL)
        elif left == 0:
            sys.setprofile(kill_when_called)
        left -= 1

    sys.addaudithook(hook)


def kill_when_called(_: Any, what: str, __: Any) -> None:
    """Profiler that ends the process at the first call that follows a deed."""
    if what in ("c_call", "call"):
        os.kill(os.getpid(), signal.SIGKILL)
