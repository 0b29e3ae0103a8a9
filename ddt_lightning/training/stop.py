"""Stopping on a signal: SIGTERM or SIGUSR1 lets the current step end, saves `last.ckpt`, and leaves with 128 + signal.

That is what a scheduler sends before it takes the machine away. Lightning answers inside the signal handler, with a
collective that meets whatever the other processes are doing, and two processes then wait for each other for ever. Here
the handler only takes a note; the processes agree after a step, so one signal to any of them stops all.
"""

import signal
import sys
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from ddt_lightning.training.checkpoint import last_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(pl.Callback):
    """Has to stand behind callbacks that follow every step, such as weight averaging: what it saves includes them."""

    def __init__(self) -> None:
        self.noted = 0

    def note(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        self.noted = number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which has registered its handlers by now and removes all at the end."""
        for number in SIGNALS:
            signal.signal(number, self.note)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ANN401 - the batch is of no interest
        """Agree; when any process was told to stop, save and leave."""
        agree = trainer.strategy.reduce_boolean_decision
        if not agree(bool(self.noted), all=False):
            return
        number = next(number for number in SIGNALS if agree(self.noted == number, all=False))
        if trainer.checkpoint_callback is not None:
            trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))
        if trainer.is_global_zero:
            where = f"stopped by {number.name} after step {trainer.global_step}"
            print(f"ddt-fit: {where}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + number)
