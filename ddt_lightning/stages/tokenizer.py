"""Stage 1, `ddt-fit tokenizer`: images to ids and back; trains encoder, codebook and decoder together.

Which tokenizer is the option that is given: `model.tokenizer` for DDT, `model.vqgan` or `model.var` for those that it
is compared with. They are three options, not one of several types: a value from the command line could otherwise turn
one config into another.
"""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ddt_lightning.latents.pixels import PixelLatents
from ddt_lightning.latents.vae import FrozenVae
from ddt_lightning.seeding import generator, normal, stratified, uniform
from ddt_lightning.spatial.autoencoder import SpatialTokenizer
from ddt_lightning.spatial.var import Var, VarConfig
from ddt_lightning.spatial.vqgan import Vqgan, VqganConfig
from ddt_lightning.stages.image_losses import ImageLossConfig, ImageLosses
from ddt_lightning.tokens.base import Draws, ImageTokenizer
from ddt_lightning.tokens.sd3 import warm_start
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.training.checkpoint import load_strictly, read_weights
from ddt_lightning.training.logs import log_means, log_step
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.training.parallel import ParallelConfig, shard, weights_mesh, whole_state_dict


def only(
    tokenizer: TokenizerConfig | None, vqgan: VqganConfig | None, var: VarConfig | None
) -> TokenizerConfig | VqganConfig | VarConfig:
    """The config that is given.

    Raises:
        ValueError: there is none, or more than one.
    """
    given = {"tokenizer": tokenizer, "vqgan": vqgan, "var": var}
    found = {name: config for name, config in given.items() if config is not None}
    if not found:
        raise ValueError("None of `model.tokenizer`, `model.vqgan` and `model.var` is given: name what to train.")
    if len(found) > 1:
        names = " and ".join(f"`model.{name}`" for name in found)
        raise ValueError(f"{names} are given, but a run trains one tokenizer: set the others to null.")
    return next(iter(found.values()))


def build(config: TokenizerConfig | VqganConfig | VarConfig) -> ImageTokenizer:
    """The tokenizer that a config describes, with random weights."""
    if isinstance(config, TokenizerConfig):
        return Tokenizer(config)
    return Vqgan(config) if isinstance(config, VqganConfig) else Var(config)


class TokenizerModule(pl.LightningModule):
    """Trains a tokenizer on image batches `{"image": [B,3,H,W], "sample": [B]}`.

    Args:
        optim: optimiser and schedule.
        tokenizer: a DDT tokenizer.
        vqgan: a raster tokenizer in its place.
        var: a multi-scale tokenizer in its place.
        loss: perceptual and GAN losses that VQGAN or VAR adds to its pixel error.
        vae: folder of a frozen diffusers AutoencoderKL; None works on pixels.
        sd3: folder of a diffusers SD3-medium transformer that a new run's decoder starts from.
        init_from: start from these weights: a run, a release folder or a `.ckpt`.
        seed: of the noise, times and dropout.
        compile: run encoder and decoder through torch.compile; a prefix of another length compiles once more and then
            serves all lengths. Pays on a GPU.
        parallel: checkpointing and compilation of the blocks of a DDT tokenizer, and its precision where it is sharded.
    """

    tokenizer: ImageTokenizer
    image_losses: ImageLosses | None

    def __init__(
        self,
        optim: OptimConfig,
        tokenizer: TokenizerConfig | None = None,
        vqgan: VqganConfig | None = None,
        var: VarConfig | None = None,
        loss: ImageLossConfig | None = None,
        vae: str | None = None,
        sd3: str | None = None,
        init_from: str | None = None,
        seed: int = 0,
        compile: bool = False,
        parallel: ParallelConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = only(tokenizer, vqgan, var)
        if tokenizer is None and sd3:
            raise ValueError(f"`model.sd3` ({sd3}) is for a DDT tokenizer, `model.tokenizer`.")
        if tokenizer is not None and loss is not None:
            raise ValueError("`model.loss` is for `model.vqgan` and `model.var`; a DDT tokenizer learns from its flow.")
        if sd3 and init_from:
            raise ValueError(f"`model.sd3` ({sd3}) and `init_from` ({init_from}) both give weights; name one.")
        if tokenizer and sd3 and tokenizer.head != "velocity":
            raise ValueError(
                f"`tokenizer.head` ({tokenizer.head}) must be velocity with `model.sd3`: SD3 predicts that."
            )
        self.parallel = parallel or ParallelConfig()
        if tokenizer is None and self.parallel != ParallelConfig():
            raise ValueError("`model.parallel` is for the blocks of a DDT tokenizer, `model.tokenizer`: leave it out.")
        if self.parallel.bf16_params:
            raise ValueError(
                "`model.parallel.bf16_params` (true) is for language models: a tokenizer's codes are found in fp32; "
                "use `--trainer.precision bf16-mixed`."
            )
        self.terms = loss
        self.optim = optim
        self.init_from = init_from
        self.seed = seed
        self.latents: PixelLatents | FrozenVae = PixelLatents()
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
        self.tokenizer = build(self.config)
        if self.init_from:
            load_strictly(self.tokenizer, read_weights(self.init_from, "tokenizer", "tokenizer."), self.init_from)
        if self.sd3 and isinstance(self.tokenizer, Tokenizer):
            warm_start(self.tokenizer.decoder, self.sd3)
        option = "tokenizer" if isinstance(self.tokenizer, Tokenizer) else self.tokenizer.kind
        warmup, steps = self.config.quantizer.warmup_steps, self.trainer.max_steps
        if 0 < steps <= warmup - int(self.tokenizer.quantizer.steps):
            raise ValueError(
                f"`{option}.quantizer.warmup_steps` ({warmup}) must be below `trainer.max_steps` ({steps}): nothing "
                "is quantised before."
            )
        device = self.trainer.strategy.root_device
        self.image_losses = ImageLosses(self.terms, device, self.seed) if self.terms else None
        if self.vae:
            # Past nn.Module, or the frozen VAE would be a submodule: saved with the run and given to the optimiser.
            self.__dict__["latents"] = FrozenVae(self.vae).to(device)
        if isinstance(self.tokenizer, Tokenizer):
            shard(self.tokenizer, self.tokenizer.blocks(), self.parallel, weights_mesh(self.trainer.strategy),
                  apart=self.tokenizer.tables(), methods=("loss", "encode", "decode"))  # fmt: skip
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

    def total_loss(self, batch: dict[str, Tensor], latents: Tensor, step: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokenizer's loss and its parts, with the perceptual and GAN losses added."""
        draws = self.draws(latents, batch["sample"], step)
        if self.image_losses is None or not isinstance(self.tokenizer, SpatialTokenizer):
            return self.tokenizer.loss(latents, draws)
        decoded, loss, logs = self.tokenizer.outcome(latents, draws)
        image = self.latents.to_image(decoded)
        if not self.training:
            return loss, {**logs, **self.image_losses.distance(image, batch["image"])}
        added, parts = self.image_losses.loss(image, batch["image"], self.global_step)
        return loss + added, {**logs, **parts}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of one batch: of the flow or of the pixels, of the codebook, and the perceptual and GAN losses."""
        loss, logs = self.total_loss(batch, self.to_latents(batch, sampled=True), "train")
        log_means(self, {"loss": loss, **logs}, self.trainer.log_every_n_steps)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """The same loss on held-out images without perceptual and GAN loss, with the same draws at every validation."""
        loss, logs = self.total_loss(batch, self.to_latents(batch, sampled=False), "val")
        log_step(self)
        values = {"val/loss": loss, f"val/{self.tokenizer.error}": logs[self.tokenizer.error]}
        values |= {name: value for name, value in logs.items() if name.startswith("val/")}
        self.log_dict(values, sync_dist=True, batch_size=len(batch["image"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator."""
        if self.image_losses is not None:
            self.image_losses.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the discriminator back."""
        if self.image_losses is not None:
            self.image_losses.load(checkpoint)

    def configure_optimizers(self) -> dict:
        """See `training/optim.py`."""
        return build_optimizer(self.tokenizer, self.optim, self.trainer.max_steps)

    def release(self, folder: Path) -> None:
        """Write `tokenizer/` as safetensors, for the next stages and for others; collective when it is sharded."""
        state = whole_state_dict(self.tokenizer)
        if state:
            self.tokenizer.save_pretrained(folder / "tokenizer", state)
