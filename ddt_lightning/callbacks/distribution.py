"""Distance between validation images and their reconstructions as sets, while a tokenizer or renderer trains.

In: a module with `tokenizer`, `latents` and perhaps `renderer`; validation batches `{"image", "sample"}`. Out:
`val/FD-<hash>@N` of the scene encoder (`metrics/picture_encoder.py`), and with Inception's weights `val/rfid@N`, of N
images over all processes (without `@N` from 10,000 on). Image n is decoded from its own noise, so that several
processes log the number of one. The networks belong to the callback: they are in no checkpoint.
"""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.distribution import label
from ddt_lightning.metrics.features import Inception
from ddt_lightning.metrics.picture_encoder import SHIPPED, PictureEncoder, file_hash
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Decoding


class ReconstructionDistance(pl.Callback):
    """Log the Frechet distance between validation images and their reconstructions.

    Args:
        inception: torch-fidelity's Inception weights; null leaves rFID out.
        encoder: scene encoder that `ddt study encoder` wrote; null takes the shipped one.
        scenes: whether to use the scene encoder at all; false for photographs, which it was not trained on.
        steps: Euler steps of the decoder.
        decode_guidance: of the decoder; 1 for none.
        max_batches: validation batches to use on each process; 0 for all.
        every: measure at every this many-th validation.
        few: log rFID of fewer than 2,048 images too; such a number means little.
        strict: end with an error where the file of `inception` is missing, instead of leaving rFID out.

    Raises:
        FileNotFoundError: the encoder's file, or with `strict` that of Inception, is missing.
        ValueError: a number is out of range, or a file holds something else.
    """

    def __init__(
        self,
        inception: str | None = None,
        encoder: str | None = None,
        scenes: bool = True,
        steps: int = Decoding.steps,
        decode_guidance: float = Decoding.decode_guidance,
        max_batches: int = 0,
        every: int = 1,
        few: bool = False,
        strict: bool = False,
    ) -> None:
        for name, value, least in (("steps", steps, 1), ("every", every, 1), ("max_batches", max_batches, 0)):
            if value < least:
                raise ValueError(f"`{name}` ({value}) of ReconstructionDistance must be at least {least}.")
        self.decoding = Decoding(steps, decode_guidance)
        self.max_batches, self.every, self.few = max_batches, every, few
        networks: dict[str, PictureEncoder | Inception] = {}
        if scenes:
            path = Path(encoder or SHIPPED)
            networks[f"FD-{file_hash(path)}"] = PictureEncoder.load(path)
        if inception is not None and (Path(inception).is_file() or strict):
            networks["rfid"] = Inception(inception)
        elif inception is not None:
            rank_zero_info(f"no val/rfid: `inception` ({inception}) of ReconstructionDistance does not exist")
        # The originals are the same at every validation: their statistics are kept.
        self.metrics = {
            name: FrechetInceptionDistance(feature=network, reset_real_features=False)
            for name, network in networks.items()
        }
        self.least = {name: int(network.num_features) + (name != "rfid") for name, network in networks.items()}
        self.seen = False
        self.validations = 0

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether this validation is measured."""
        return bool(self.metrics) and not trainer.sanity_checking and self.validations % self.every == 0

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
        """Reconstruct one batch and add it to the sums."""
        if not self.due(trainer) or (self.max_batches and batch_idx >= self.max_batches):
            return
        renderer = getattr(pl_module, "renderer", None)
        pipeline = Pipeline(pl_module.tokenizer, vae=pl_module.latents, renderer=renderer)
        originals = to_uint8(batch["image"]).to(pl_module.device)
        seeds = [int(number) for number in batch["sample"].tolist()]
        made = pipeline.decode(pipeline.encode(originals), self.decoding, seed=seeds).to(pl_module.device)
        for metric in self.metrics.values():
            metric.to(pl_module.device)
            metric.update(made, real=False)
            if not self.seen:
                metric.update(originals, real=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the sums of all processes up and log; every process takes part."""
        due = self.due(trainer)
        self.validations += not trainer.sanity_checking
        if not due:
            return
        for name, metric in self.metrics.items():
            own = torch.as_tensor(metric.fake_features_num_samples).clone()  # it is reduced in place
            number = int(trainer.strategy.reduce(own, reduce_op="sum"))
            least = 2 if name == "rfid" and self.few else self.least[name]
            if number >= least:
                value = metric.compute()  # gathers the sums of all processes
                pl_module.log(f"val/{label(name, number)}", value, batch_size=1)  # the same on every process
            else:
                rank_zero_info(f"no val/{name}: {number} validation images are fewer than {least}")
            metric.reset()
        self.seen = True
