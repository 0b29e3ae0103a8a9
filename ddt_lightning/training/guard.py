"""Stopping where the loss is no longer a number, before a checkpoint of broken weights replaces the last good one."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ddt_lightning.training.checkpoint import last_checkpoint, resume_step


class FiniteLoss(pl.Callback):
    """Refusal of losses that are not finite; it has to stand before the checkpoint callback."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,  # noqa: ANN401 - of no interest
        batch_idx: int,
    ) -> None:
        """Look at this step's loss on all processes.

        Raises:
            ValueError: it is nan or infinite; names the last good checkpoint.
        """
        finite = bool(torch.isfinite(outputs["loss"]))
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        last = last_checkpoint(trainer.default_root_dir)
        good = (
            f"{last} (step {resume_step(last)}) is the last good checkpoint" if last.exists() else "no checkpoint yet"
        )
        raise ValueError(
            f"The loss is not finite after step {trainer.global_step}; {good}. A smaller `model.optim.lr`, or "
            "`trainer.gradient_clip_val`, may help."
        )
