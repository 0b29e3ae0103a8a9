"""Codebook health at every validation: usage and perplexity over all validation images, not over one batch.

In: a module with `tokenizer` and `latents`, validation batches `{"image": [B, 3, H, W]}`. Out: `val/codebook_usage`,
`val/codebook_perplexity` and, as `val/codebook_perplexity_1` and so on, that of each quarter of the positions in the
log; a warning, or the end of the run, where most codes have fallen out of use.
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ddt_lightning.metrics.codebook import code_counts, perplexity, usage
from ddt_lightning.training.logs import log_picture

SPANS = 4
"""Quarters of the positions."""
COLUMNS, ROW = 512, 24
"""Most columns of the panel, and the height of a quarter's row, in pixels."""


class CodebookMonitor(pl.Callback):
    """Log how much of the codebook the validation images use, and warn of a collapse.

    Args:
        max_batches: validation batches to count on each process; 0 for all.
        alarm: warn where the share of used codes falls below this, once the quantizer has warmed up; 0 never warns.
        stop: end the run instead of warning.
    """

    def __init__(self, max_batches: int = 0, alarm: float = 0.25, stop: bool = False) -> None:
        if max_batches < 0:
            raise ValueError(f"`max_batches` ({max_batches}) of CodebookMonitor must be 0 (all) or more.")
        if not 0 <= alarm <= 1:
            raise ValueError(f"`alarm` ({alarm}) of CodebookMonitor must lie in [0, 1].")
        self.max_batches, self.alarm, self.stop = max_batches, alarm, stop
        self.counts = torch.zeros(0, 0, dtype=torch.int64)  # [quarters, C]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting from nothing."""
        config = pl_module.tokenizer.config
        size = (min(SPANS, config.tokens), config.codebook_size)
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
        spans, size = self.counts.shape
        self.counts += torch.stack([code_counts(span, size) for span in ids.tensor_split(spans, dim=1)])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the counts of all processes up, log, and look whether the codebook is in use.

        Raises:
            ValueError: it is not, and the run is to stop.
        """
        by_span = trainer.strategy.reduce(self.counts, reduce_op="sum")
        counts = by_span.sum(0)
        used = usage(counts)
        values = {"val/codebook_usage": used, "val/codebook_perplexity": perplexity(counts)}
        values |= {f"val/codebook_perplexity_{n}": perplexity(span) for n, span in enumerate(by_span, 1)}
        pl_module.log_dict(values, batch_size=1)  # the same on every process
        if trainer.is_global_zero:
            log_picture(trainer, "codebook", usage_panel(by_span))
        quantizer = pl_module.tokenizer.quantizer
        if int(quantizer.steps) < quantizer.config.warmup_steps:  # features do not follow the codes yet
            return
        # A set with fewer ids than codes cannot use them all.
        if used < self.alarm * min(1.0, float(counts.sum()) / len(counts)):
            message = (
                f"Only {100 * used:.1f} % of the codes are in use after step {trainer.global_step}: the codebook is "
                "collapsing."
            )
            if self.stop:
                raise ValueError(f"{message} A higher `quantizer.diversity_weight` may help.")
            rank_zero_warn(message)


def usage_panel(by_span: Tensor) -> Tensor:
    """Hits of the codes by quarter of the positions, as a picture.

    Args:
        by_span: `[quarters, C]`.

    Returns:
        uint8 `[quarters * ROW, columns, 3]`: a row for each quarter, the codes from the most to the least used one,
        their brightness the logarithm of their hits.
    """
    ordered = by_span[:, by_span.sum(0).argsort(descending=True, stable=True)].float().cpu()
    shades = F.adaptive_avg_pool1d(ordered[None], min(COLUMNS, ordered.shape[1]))[0].log1p()
    grey = (255 * shades / shades.max().clamp_min(1e-9)).round().byte()
    return grey.repeat_interleave(ROW, 0)[..., None].expand(-1, -1, 3).contiguous()
