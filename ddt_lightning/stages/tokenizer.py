"""Stage 1, `ddt-fit tokenizer`: images to ids and back; trains encoder, codebook and diffusion decoder together."""

import os
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from ddt_lightning.latents.pixels import Pixels
from ddt_lightning.latents.vae import FrozenVae
from ddt_lightning.seeding import generator, normal, stratified, uniform
from ddt_lightning.tokens.sd3 import warm_start
from ddt_lightning.tokens.tokenizer import Draws, Tokenizer, TokenizerConfig
from ddt_lightning.training.checkpoint import load_strictly, read_weights
from ddt_lightning.training.logs import log_means, log_step
from ddt_lightning.training.optim import OptimConfig, build_optimizer


class TokenizerModule(pl.LightningModule):
    """Trains a `Tokenizer` on image batches `{"image": [B,3,H,W], "sample": [B]}`.

    Args:
        tokenizer: the network.
        optim: optimiser and schedule.
        vae: folder of a frozen diffusers AutoencoderKL; None works on pixels.
        sd3: folder of a diffusers SD3-medium transformer that a new run's decoder starts from.
        init_from: start from these weights: a run, a release folder or a `.ckpt`.
        seed: of the noise, times and dropout.
        compile: run encoder and decoder through torch.compile; a prefix of another length compiles once more and then
            serves all lengths. Pays on a GPU.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        tokenizer: TokenizerConfig,
        optim: OptimConfig,
        vae: str | None = None,
        sd3: str | None = None,
        init_from: str | None = None,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if sd3 and init_from:
            raise ValueError(f"`model.sd3` ({sd3}) and `init_from` ({init_from}) both give weights; name one.")
        if sd3 and tokenizer.head != "velocity":
            raise ValueError(
                f"`tokenizer.head` ({tokenizer.head}) must be velocity with `model.sd3`: SD3 predicts that."
            )
        self.config = tokenizer
        self.optim = optim
        self.init_from = init_from
        self.seed = seed
        self.latents: Pixels | FrozenVae = Pixels()
        self.vae = vae
        self.sd3 = sd3
        self.compiled = compile

    def configure_model(self) -> None:
        """Build the network once, and load `init_from` or `sd3`.

        Raises:
            ValueError: the run would end before the codebook is used.
        """
        if hasattr(self, "tokenizer"):
            return
        torch.manual_seed(self.seed)
        self.tokenizer = Tokenizer(self.config)
        if self.init_from:
            load_strictly(self.tokenizer, read_weights(self.init_from, "tokenizer", "tokenizer."), self.init_from)
        if self.sd3:
            warm_start(self.tokenizer.decoder, self.sd3)
        warmup, steps = self.config.quantizer.warmup_steps, self.trainer.max_steps
        if 0 < steps <= warmup - int(self.tokenizer.quantizer.steps):
            raise ValueError(
                f"`tokenizer.quantizer.warmup_steps` ({warmup}) must be below `trainer.max_steps` ({steps}): nothing "
                "is quantised before."
            )
        if self.vae:
            # kept out of the module tree: a frozen net is not part of this run's weights
            object.__setattr__(self, "latents", FrozenVae(self.vae).to(self.trainer.strategy.root_device))
        if self.compiled:
            for net in (self.tokenizer.encoder, self.tokenizer.decoder):
                net.compile()  # in place: names in the state stay

    def draws(self, latents: Tensor, samples: Tensor, step: str) -> Draws:
        """The random numbers of these samples; `step` tells training from validation.

        Times cover a global batch evenly, which takes noise out of the loss and brings prefixes of similar lengths
        together (`prefix_groups`).
        """
        device, key = latents.device, (self.seed, step)
        batch = self.trainer.datamodule.batch_size
        # a GPU would wait for the noise of a large batch; on a CPU the processes share the cores already
        threads = 1 if device.type == "cpu" else min(8, os.cpu_count() or 1)
        return Draws(
            noise=normal(tuple(latents.shape[1:]), "noise", *key, samples=samples, threads=threads).to(device),
            times=stratified("time", *key, samples=samples, batch=batch).to(device),
            drop=uniform("drop", *key, samples=samples).to(device),
            revival=generator("revive", self.seed, self.global_step),
        )

    def to_latents(self, batch: dict[str, Tensor], sampled: bool) -> Tensor:
        """Latents of a batch: a sample of the VAE's posterior in training, its mode otherwise."""
        image = batch["image"]
        if not sampled or not self.vae:
            return self.latents.encode(image)
        scale = self.latents.scale
        shape = (self.config.latent_channels, image.shape[-2] // scale, image.shape[-1] // scale)
        noise = normal(shape, "posterior", self.seed, samples=batch["sample"]).to(image.device)
        return self.latents.encode(image, noise)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Flow, commitment and diversity loss of one batch."""
        latents = self.to_latents(batch, sampled=True)
        loss, logs = self.tokenizer.loss(latents, self.draws(latents, batch["sample"], "train"))
        log_means(self, {"loss": loss, **logs}, self.trainer.log_every_n_steps)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """The same loss on held-out images, with the same draws at every validation."""
        latents = self.to_latents(batch, sampled=False)
        loss, logs = self.tokenizer.loss(latents, self.draws(latents, batch["sample"], "val"))
        log_step(self)
        values = {"val/loss": loss, "val/flow": logs["flow"]}
        self.log_dict(values, sync_dist=True, batch_size=len(latents))

    def configure_optimizers(self) -> dict:
        """See `training/optim.py`."""
        return build_optimizer(self.tokenizer, self.optim, self.trainer.max_steps)

    def release(self, folder: Path) -> None:
        """Write `tokenizer/` as safetensors, for the next stages and for others."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
