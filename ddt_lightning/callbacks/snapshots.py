"""Checkpoints that are kept: `checkpoints/step-N.ckpt` after each of some steps, beside `last.ckpt`.

In: optimizer steps. Out: files that `--ckpt_path` takes. `ddt-fit` with one of them, `--trainer.max_steps N` and
another `run_dir` trains nothing and writes the release of those weights. Lightning names files by the step that was
logged last, which need not be the one that is saved.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ddt_lightning.training.checkpoint import last_checkpoint


class Snapshots(pl.Callback):
    """Keep the checkpoints of some steps; has to stand behind callbacks that change weights after a step.

    Args:
        steps: optimizer steps, each at least 1.
    """

    def __init__(self, steps: list[int]) -> None:
        if not steps or min(steps) < 1:
            raise ValueError(f"`Snapshots.steps` ({steps}) must name steps from 1 on.")
        self.steps = set(steps)
        self.last = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after the optimizer step; later batches of the same step, in accumulation, save nothing."""
        step = trainer.global_step
        if step in self.steps and step != self.last:
            trainer.save_checkpoint(snapshot(trainer.default_root_dir, step))
        self.last = step


def snapshot(run_dir: str | Path, step: int) -> Path:
    """The path of the checkpoint that a run keeps of a step."""
    return last_checkpoint(run_dir).with_name(f"step-{step}.ckpt")
