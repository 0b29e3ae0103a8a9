"""Reconstructions while the tokenizer trains: the same few validation images, by number of first tokens.

In: a module with `tokenizer`, `latents` and perhaps `renderer`. Out: `<run_dir>/samples/step-000500.png`, a row for
each image (original, then the reconstructions, a rendered one last), and `val/psnr` of these images with all tokens,
rendered where there is a renderer. Written by rank 0; where the weights are sharded, every rank takes part in the
computation.
"""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from PIL import Image
from torch import Tensor

from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Decoding
from ddt_lightning.training.logs import log_picture


class ReconstructionGrid(pl.Callback):
    """Draw reconstructions of the same few validation images by number of first tokens.

    Args:
        images: how many images.
        tokens: numbers of first tokens; empty for a quarter, a half, three quarters and all.
        steps: Euler steps of the decoder.
        decode_guidance: of the decoder; 1 for none.
        every: draw at every this many-th validation.
    """

    def __init__(
        self,
        images: int = 8,
        tokens: list[int] | None = None,
        steps: int = Decoding.steps,
        decode_guidance: float = Decoding.decode_guidance,
        every: int = 1,
    ) -> None:
        for name, value in (("images", images), ("steps", steps), ("every", every)):
            if value < 1:
                raise ValueError(f"`{name}` ({value}) of ReconstructionGrid must be at least 1.")
        self.images, self.tokens, self.every = images, tokens or [], every
        self.decoding = Decoding(steps, decode_guidance)
        self.originals: Tensor | None = None
        self.validations = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images of the first validation."""
        if self.originals is None:
            self.originals = to_uint8(batch["image"][: self.images])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reconstruct them and write the picture."""
        self.validations += 1
        if self.originals is None or (self.validations - 1) % self.every:
            return
        if not trainer.is_global_zero and not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            return
        total = pl_module.tokenizer.config.tokens
        counts = self.tokens or sorted({max(1, total * part // 4) for part in (1, 2, 3, 4)})
        pipeline = Pipeline(pl_module.tokenizer, vae=pl_module.latents)
        ids = pipeline.encode(self.originals)
        columns = [self.originals, *(pipeline.decode(ids[:, :count], self.decoding) for count in counts)]
        renderer = getattr(pl_module, "renderer", None)
        if renderer is not None:
            columns.append(Pipeline(pl_module.tokenizer, vae=pl_module.latents, renderer=renderer).decode(ids))
        whole = columns[-1] if renderer is not None or counts[-1] == total else pipeline.decode(ids, self.decoding)
        if trainer.is_global_zero:
            pl_module.log("val/psnr", float(psnr(whole, self.originals).mean()), rank_zero_only=True, batch_size=1)
            path = Path(trainer.default_root_dir) / "samples" / f"step-{trainer.global_step:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grid = tile(columns)
            Image.fromarray(grid.numpy()).save(path)
            log_picture(trainer, "reconstructions", grid)


def tile(columns: list[Tensor]) -> Tensor:
    """Columns of uint8 images `[B, 3, H, W]` as one picture `[B * H, n * W, 3]`, an image's versions side by side."""
    rows = torch.stack(columns).permute(1, 3, 0, 4, 2)  # [B, H, n, W, 3]
    return rows.flatten(2, 3).flatten(0, 1)  # [B * H, n * W, 3]
