"""Stage 4, `ddt-fit renderer`: ids to images in one step, for a tokenizer that is trained and stays as it is.

The losses are the pixel error, a perceptual loss where weights are given, and later a GAN loss (`image_losses.py`).
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ddt_lightning.latents.pixels import PixelLatents
from ddt_lightning.latents.vae import FrozenVae
from ddt_lightning.model_folder import find_part
from ddt_lightning.stages.image_losses import ImageLossConfig, ImageLosses
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.tokenizer import Tokenizer
from ddt_lightning.training.checkpoint import load_strictly, read_weights
from ddt_lightning.training.logs import log_means, log_step
from ddt_lightning.training.optim import OptimConfig, build_optimizer


class RendererModule(pl.LightningModule):
    """Trains a `Renderer` on image batches `{"image": [B,3,H,W], "sample": [B]}`.

    Args:
        tokenizer: run, release or folder of a trained tokenizer, which stays as it is.
        optim: optimiser and schedule.
        renderer: sizes.
        loss: perceptual and GAN losses that are added to the pixel error.
        vae: folder of the frozen diffusers AutoencoderKL of the latents; None works on pixels.
        init_from: start from these weights: a run, a release folder or a `.ckpt`.
        seed: of fresh weights.
    """

    renderer: Renderer

    def __init__(
        self,
        tokenizer: str,
        optim: OptimConfig,
        renderer: RendererConfig | None = None,
        loss: ImageLossConfig | None = None,
        vae: str | None = None,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder = find_part("tokenizer", tokenizer, "model.tokenizer")
        self.optim = optim
        self.config = renderer or RendererConfig()
        self.terms = loss or ImageLossConfig()
        self.latents: PixelLatents | FrozenVae = PixelLatents()
        self.vae = vae
        self.init_from = init_from
        self.seed = seed

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer."""
        return self.renderer.tokenizer

    def configure_model(self) -> None:
        """Build the renderer once, from the tokenizer's decoder, `init_from` or random weights."""
        if hasattr(self, "renderer"):
            return
        torch.manual_seed(self.seed)
        device = self.trainer.strategy.root_device
        frozen = Tokenizer.from_pretrained(self.folder).requires_grad_(False).to(device)
        self.renderer = Renderer(self.config, frozen)
        if self.init_from:
            load_strictly(self.renderer, read_weights(self.init_from, "renderer", "renderer."), self.init_from)
        elif self.config.decoder is None:
            self.renderer.start_from(frozen.decoder, frozen.config.head)
        self.image_losses = ImageLosses(self.terms, device, self.seed)
        if self.vae:
            # Past nn.Module, or the frozen VAE would be a submodule: saved with the run and given to the optimiser.
            self.__dict__["latents"] = FrozenVae(self.vae).to(device)
        if not self.terms.lpips:
            rank_zero_info("The renderer is trained without LPIPS: no weights are named by `model.loss.lpips`.")

    def render(self, image: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` through ids and back, with a gradient to the renderer."""
        ids = self.tokenizer.encode(self.latents.encode(image))
        return self.latents.to_image(self.renderer(self.tokenizer.embed(ids)))

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Pixel error, perceptual loss and GAN loss."""
        image = batch["image"]
        rendered = self.render(image)
        mse = F.mse_loss(rendered, image)
        added, logs = self.image_losses.loss(rendered, image, self.global_step)
        loss = mse + added
        log_means(self, {"loss": loss, "mse": mse, **logs}, self.trainer.log_every_n_steps)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Pixel error, and perceptual distance where weights are given, on held-out images."""
        image = batch["image"]
        rendered = self.render(image)
        values = {"val/loss": F.mse_loss(rendered, image), **self.image_losses.distance(rendered, image)}
        log_step(self)
        self.log_dict(values, sync_dist=True, batch_size=len(image))

    def configure_optimizers(self) -> dict:
        """See `training/optim.py`."""
        return build_optimizer(self.renderer, self.optim, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator, and which tokenizer this is for."""
        checkpoint["frozen_tokenizer"] = self.tokenizer.fingerprint()
        self.image_losses.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the discriminator back.

        Raises:
            ValueError: the run was begun with another tokenizer.
        """
        known, here = checkpoint["frozen_tokenizer"], self.tokenizer.fingerprint()
        if known != here:
            raise ValueError(f"`model.tokenizer` ({self.folder}) is {here}, but this run began with {known}.")
        self.image_losses.load(checkpoint)

    def release(self, folder: Path) -> None:
        """Write `renderer/` beside a copy of its `tokenizer/`: together they reconstruct."""
        self.renderer.save_pretrained(folder / "renderer")
        self.tokenizer.save_pretrained(folder / "tokenizer")
