"""Stage 4, `ddt-fit renderer`: ids to images in one step, for a tokenizer that is trained and stays as it is.

Pixel error, perceptual distance where weights are given, and after a while a discriminator. Source: Selftok, appendix
B.2 (weights 0.1 of LPIPS, 0.5 of both from 30,000 steps on).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ddt_lightning.latents.pixels import Pixels
from ddt_lightning.latents.vae import FrozenVae
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.tokenizer import Tokenizer
from ddt_lightning.training.adversary import Adversary, AdversaryConfig
from ddt_lightning.training.checkpoint import load_strictly, read_weights, released
from ddt_lightning.training.logs import log_means, log_step
from ddt_lightning.training.optim import OptimConfig, build_optimizer


@dataclass(frozen=True)
class RenderLossConfig:
    """What the renderer is trained on beside the pixel error.

    Args:
        lpips: torchvision's weights of AlexNet or VGG-16; without them there is no perceptual distance.
        lpips_weight: of the perceptual distance.
        gan_from: step from which a discriminator takes part; None for never.
        gan_weight: of the discriminator.
        gan_lpips_weight: of the perceptual distance from then on.
        adversary: the discriminator.
    """

    lpips: str | None = None
    lpips_weight: float = 0.1
    gan_from: int | None = None
    gan_weight: float = 0.5
    gan_lpips_weight: float = 0.5
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    def __post_init__(self) -> None:
        for name in ("lpips_weight", "gan_weight", "gan_lpips_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`loss.{name}` ({getattr(self, name)}) must not be negative.")
        if self.gan_from is not None and self.gan_from < 0:
            raise ValueError(f"`loss.gan_from` ({self.gan_from}) must not be negative; null is never.")
        if self.lpips is not None and not Path(self.lpips).is_file():
            raise FileNotFoundError(f"`loss.lpips` ({self.lpips}) does not exist: name torchvision's alexnet or vgg16.")


class RendererModule(pl.LightningModule):
    """Trains a `Renderer` on image batches `{"image": [B,3,H,W], "sample": [B]}`.

    Args:
        tokenizer: run, release or folder of a trained tokenizer, which stays as it is.
        optim: optimiser and schedule.
        renderer: sizes.
        loss: what to train on beside the pixel error.
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
        loss: RenderLossConfig | None = None,
        vae: str | None = None,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder = released(tokenizer, "tokenizer")
        self.optim = optim
        self.config = renderer or RendererConfig()
        self.terms = loss or RenderLossConfig()
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
        # kept out of the module tree: what is frozen is not part of this run's weights
        parts: dict[str, Any] = {"latents": FrozenVae(self.vae).to(device) if self.vae else Pixels()}
        parts["lpips"] = Lpips(self.terms.lpips).to(device) if self.terms.lpips else None
        wanted = self.terms.gan_from is not None
        parts["adversary"] = Adversary(self.terms.adversary, device, self.seed) if wanted else None
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        if not self.terms.lpips:
            rank_zero_info("The renderer is trained without LPIPS: no weights are named by `model.loss.lpips`.")

    def render(self, image: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` through ids and back, with a gradient to the renderer."""
        ids = self.tokenizer.encode(self.latents.encode(image))
        return self.latents.to_image(self.renderer(self.tokenizer.embed(ids)))

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Pixel error, perceptual distance and the discriminator's part."""
        image, terms = batch["image"], self.terms
        rendered = self.render(image)
        logs = {"mse": F.mse_loss(rendered, image)}
        loss = logs["mse"]
        fooling = terms.gan_from is not None and self.global_step >= terms.gan_from
        if self.lpips is not None:
            logs["lpips"] = self.lpips(rendered, image).mean()
            loss = loss + (terms.gan_lpips_weight if fooling else terms.lpips_weight) * logs["lpips"]
        if fooling:
            logs["discriminator"] = self.adversary.update(image, rendered)
            logs["generator"] = self.adversary.loss(rendered)
            loss = loss + terms.gan_weight * logs["generator"]
        log_means(self, {"loss": loss, **logs}, self.trainer.log_every_n_steps)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Pixel error, and perceptual distance where weights are given, on held-out images."""
        image = batch["image"]
        rendered = self.render(image)
        values = {"val/loss": F.mse_loss(rendered, image)}
        if self.lpips is not None:
            values["val/lpips"] = self.lpips(rendered.clamp(-1, 1), image).mean()
        log_step(self)
        self.log_dict(values, sync_dist=True, batch_size=len(image))

    def configure_optimizers(self) -> dict:
        """See `training/optim.py`."""
        return build_optimizer(self.renderer, self.optim, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator, and which tokenizer this is for."""
        checkpoint["frozen_tokenizer"] = self.tokenizer.fingerprint()
        if self.adversary is not None:
            checkpoint["adversary"] = self.adversary.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the discriminator back.

        Raises:
            ValueError: the run was begun with another tokenizer.
        """
        known, here = checkpoint["frozen_tokenizer"], self.tokenizer.fingerprint()
        if known != here:
            raise ValueError(f"`model.tokenizer` ({self.folder}) is {here}, but this run began with {known}.")
        if self.adversary is not None and "adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["adversary"])

    def release(self, folder: Path) -> None:
        """Write `renderer/` beside a copy of its `tokenizer/`: together they reconstruct."""
        self.renderer.save_pretrained(folder / "renderer")
        self.tokenizer.save_pretrained(folder / "tokenizer")
