"""Codebook health at every validation: usage and perplexity over all validation images, not over one batch.

In: a module with `tokenizer` and `latents`, validation batches `{"image": [B, 3, H, W]}`. Out: `val/codebook_usage`,
`val/codebook_perplexity` in the log, and a warning where most codes have fallen out of use.
"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ddt_lightning.metrics.codebook import code_counts, perplexity, usage


class CodebookMonitor(pl.Callback):
    """See the module's docstring.

    Args:
        max_batches: validation batches to count on each process; 0 for all.
        alarm: warn where the share of used codes falls below this; 0 never warns.
    """

    def __init__(self, max_batches: int = 0, alarm: float = 0.25) -> None:
        if max_batches < 0:
            raise ValueError(f"`max_batches` ({max_batches}) of CodebookMonitor must be 0 (all) or more.")
        if not 0 <= alarm <= 1:
            raise ValueError(f"`alarm` ({alarm}) of CodebookMonitor must lie in [0, 1].")
        self.max_batches, self.alarm = max_batches, alarm
        self.counts = torch.zeros(0, dtype=torch.int64)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting from nothing."""
        size = pl_module.tokenizer.config.codebook_size
        self.counts = torch.zeros(size, dtype=torch.int64, device=pl_module.device)

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the codes of one batch."""
        if self.max_batches and batch_idx >= self.max_batches:
            return
        ids = pl_module.tokenizer.encode(pl_module.latents.encode(batch["image"]))
        self.counts += code_counts(ids, len(self.counts))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the counts of all processes up and log."""
        counts = trainer.strategy.reduce(self.counts, reduce_op="sum")
        used = usage(counts)
        values = {"val/codebook_usage": used, "val/codebook_perplexity": perplexity(counts)}
        pl_module.log_dict(values, batch_size=1)  # the same on every process
        # A set with fewer ids than codes cannot use them all.
        if used < self.alarm * min(1.0, float(counts.sum()) / len(counts)):
            rank_zero_warn(f"Only {100 * used:.1f} % of the codes are in use: the codebook is collapsing.")
