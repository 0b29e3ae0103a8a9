"""A callback for runs that something is to happen to."""

import os
import time
from pathlib import Path

import lightning.pytorch as pl

from ddt_lightning.training.stop import StopOnSignal

LONGEST = 600
"""Seconds after which a run goes on by itself."""


class WaitForSignal(pl.Callback):
    """Stays at a step until a signal has come, in the first call of a job of SLURM; a file `waiting` says that it does.

    Args:
        step: after which.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        first = "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
        if trainer.global_step != self.step or not first:
            return
        (Path(trainer.default_root_dir) / f"waiting-{trainer.global_rank}").touch()
        (stop,) = (one for one in trainer.callbacks if isinstance(one, StopOnSignal))
        until = time.monotonic() + LONGEST
        while not stop.noted and time.monotonic() < until:
            time.sleep(0.05)
