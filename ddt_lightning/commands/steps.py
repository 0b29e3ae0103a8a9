"""Long plans of command lines: a step that has finished is skipped, a killed plan goes on where it was.

A step is skipped only when the fingerprint of its configuration, code, library versions and input steps is the one it
finished with. What is known of a step lies in `FOLDER/steps/NAME.json`; the output of its commands in a log beside.
"""

import ctypes
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ddt_lightning.cli import shipped

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "lightning", "transformers", "diffusers", "webdataset")
PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Args:
        name: of its record and log.
        about: what a person reads while it runs.
        commands: command lines: Python module and arguments.
        code: parts of the package whose source belongs to the fingerprint.
        seconds: expected duration.
        folder: what is removed before the step starts with another fingerprint.
    """

    name: str
    about: str
    commands: list[list[str]]
    code: tuple[str, ...]
    seconds: float
    folder: Path


def digest_files(paths: list[Path]) -> str:
    """Hash of names and bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def fingerprint(step: Step, before: str) -> str:
    """What a step's result depends on: its commands and their YAML, its code, the libraries, and the steps before."""
    sources: list[Path] = []
    for part in step.code:
        path = PACKAGE / part
        sources += [path] if path.is_file() else list(path.glob("*.py"))
    words = [word for command in step.commands for word in command]
    yaml = [Path(shipped(word)) for word in words if word.endswith(".yaml")]
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    parts = [step.name, before, *words, *versions, digest_files(sources), digest_files(yaml)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


class Record:
    """What is known of a step on disk: its fingerprint, the seconds spent on it, and whether it is done."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "steps" / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fingerprint: str = known.get("fingerprint", "")
        self.seconds: float = known.get("seconds", 0.0)
        self.done: bool = known.get("done", False)

    def write(self) -> None:
        """Save, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({k: v for k, v in vars(self).items() if k != "path"}) + "\n")
        os.replace(temporary, self.path)


def open_record(folder: Path, step: Step, mark: str) -> Record:
    """The record of a step whose fingerprint is now `mark`.

    What another fingerprint left is removed first; where the step's folder is gone, the step is not done.
    """
    record = Record(folder, step.name)
    if record.fingerprint != mark:
        remove = shutil.rmtree if step.folder.is_dir() else Path.unlink
        if step.folder.exists():
            remove(step.folder)
        record.fingerprint, record.seconds, record.done = mark, 0.0, False
    record.done = record.done and step.folder.exists()
    return record


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


def leave(number: int, _: FrameType | None) -> NoReturn:
    """Answer a signal by leaving, so that what is open is closed."""
    raise SystemExit(128 + number)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block by an exception, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_caller() -> None:
    """On Linux: have this process told to stop when the one that started it is gone, however that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run_step(step: Step, record: Record, log: Path) -> None:
    """Run a step's commands, adding the time spent to its record as it goes.

    A command that runs when this is interrupted is told to stop, and has a minute to save what it has.

    Raises:
        RuntimeError: a command failed; the message ends with the last lines of its output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONWARNINGS"] = "ignore"
    spent, started = record.seconds, time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output, terminable():
        for command in step.commands:
            words = [sys.executable, "-m", *command]
            process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, preexec_fn=end_with_caller)
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    record.seconds = spent + time.monotonic() - started
                    record.write()
            except BaseException:
                process.terminate()
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
            if process.returncode:
                output.flush()
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"step {step.name} failed (exit code {process.returncode}), see {log}:\n{tail}")
    record.seconds = spent + time.monotonic() - started
