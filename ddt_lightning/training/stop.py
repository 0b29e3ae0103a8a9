"""Stopping on a signal: the current step ends, `last.ckpt` is saved, and the process leaves with 128 + signal.

SIGTERM or SIGUSR1 is what a scheduler sends before it takes the machine away, SIGINT is Ctrl-C; a call whose own time
is up leaves as on SIGUSR1. A second Ctrl-C stops at once.
Lightning answers inside the signal handler, with a collective that meets whatever the other processes are doing, and
two processes then wait for each other for ever. Here the handler only takes a note; the processes agree after a step,
so one signal to any of them stops all.
"""

import signal
import sys
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from ddt_lightning.training.checkpoint import last_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STARTED = time.monotonic()  # of this process, but for a few imports


class StopOnSignal(pl.Callback):
    """Stops a run after a signal or when its time is up.

    It has to stand behind callbacks that follow every step, such as weight averaging: what it saves includes them.

    Args:
        minutes: how long this call may take from its start, or None.

    Raises:
        ValueError: no time at all.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and minutes <= 0:
            raise ValueError(f"`call_minutes` ({minutes}) must be above 0; null is no limit.")
        self.noted, self.minutes = 0, minutes

    @property
    def late(self) -> bool:
        """True once this call's time is up."""
        return self.minutes is not None and time.monotonic() - STARTED > 60 * self.minutes

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: remember it.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C.
        """
        if number == self.noted == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which has registered its handlers by now and removes all at the end."""
        for number in SIGNALS:
            signal.signal(number, self.note)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Agree; when any process was told to stop, save and leave."""
        if self.late and not self.noted:
            self.noted = signal.SIGUSR1
        agree = trainer.strategy.reduce_boolean_decision
        if not agree(bool(self.noted), all=False):
            return
        number = next(number for number in SIGNALS if agree(self.noted == number, all=False))
        if trainer.checkpoint_callback is not None:
            trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))
        if trainer.is_global_zero:
            named = "Ctrl-C" if number == signal.SIGINT else number.name
            cause = f"`call_minutes` ({self.minutes:g})" if self.late else named
            where = f"stopped by {cause} after step {trainer.global_step}"
            print(f"ddt-fit: {where}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + number)
