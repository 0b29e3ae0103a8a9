"""Logging: means of training by one small reduction over processes, only on the steps that are logged; and pictures."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from ddt_lightning.distributed import summed


def log_step(module: pl.LightningModule) -> None:
    """Log under the optimizer step; Lightning's own counter shifts by one when a run is continued."""
    module.log("step", float(module.global_step))


def log_row(module: pl.LightningModule, values: dict[str, Tensor]) -> None:
    """Log values of a training step at once, with all batches that its gradient is of but the last left out.

    Lightning logs a step after its end, or up to `log_every_n_steps` later. A checkpoint of the step may be saved
    before that, and a run that is killed and goes on from it lacks the row.

    Args:
        module: who logs.
        values: 0-d tensors by name; callbacks can watch them.
    """
    module.log_dict(values, logger=False)
    if module.trainer.fit_loop._should_accumulate():
        return
    row = {name: value.item() for name, value in values.items()}
    for logger in module.trainer.loggers:
        logger.log_metrics(row, step=module.global_step)
        logger.save()


def log_means(module: pl.LightningModule, logs: dict[str, Tensor], every: int) -> None:
    """Log the mean over processes of every value, under `train/`.

    Values that are nan on a process (an empty time band) are left out of the mean.

    Args:
        module: who logs.
        logs: 0-d tensors by name.
        every: log when the step is a multiple of this.
    """
    log_ratios(module, {name: (value.detach().nan_to_num(0.0), ~value.isnan()) for name, value in logs.items()}, every)


def log_ratios(module: pl.LightningModule, logs: dict[str, tuple[Tensor, Tensor]], every: int) -> None:
    """Log `ratios` under `train/`, so that a label counts the same on whichever process it is.

    Args:
        module: who logs.
        logs: sum and count by name, 0-d tensors; of a mean that every process has, it and 1.
        every: log when the step is a multiple of this.
    """
    if module.global_step % every == 0:
        log_row(module, {f"train/{name}": value for name, value in ratios(logs).items()})


def ratios(logs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Sums over all processes divided by counts over all processes; what was counted nowhere is left out.

    Args:
        logs: sum and count by name, 0-d tensors.
    """
    both = torch.stack([torch.stack([total.detach().float(), count.float()]) for total, count in logs.values()])
    return {name: total / count for name, (total, count) in zip(logs, summed(both), strict=True) if count > 0}


def log_picture(trainer: pl.Trainer, name: str, picture: Tensor) -> None:
    """Give a picture to the loggers that show pictures: TensorBoard and Weights & Biases.

    Args:
        trainer: whose loggers.
        name: of the panel.
        picture: uint8 `[H, W, 3]`.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture.numpy(), trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.numpy()], step=trainer.global_step)
