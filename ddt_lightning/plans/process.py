"""Runs the command lines of a step as processes that end with their caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ddt_lightning.plans.step import Record, Step
from ddt_lightning.workers import end_with_caller

POLL = 0.2  # seconds between two looks at a running command


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


def running(step: Step, record: Record, log: Path) -> Generator[None]:
    """Run a step's commands, adding the time spent to its record as it goes; yields to its caller while one runs.

    A command that runs when this is closed is told to stop, and has a minute to save what it has.

    Raises:
        RuntimeError: a command failed; the message ends with the last lines of its output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONWARNINGS"] = "ignore"
    spent, started = record.seconds, time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        for command in step.commands:
            words = [sys.executable, "-m", *command]
            process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, preexec_fn=end_with_caller)
            try:
                while process.poll() is None:
                    yield
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
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                tail = "\n".join(lines[-15:]) or "it printed nothing"
                raise RuntimeError(f"step {step.name} failed (exit code {process.returncode}), see {log}:\n{tail}")
    record.seconds = spent + time.monotonic() - started
