"""Logging of training means: one small reduction over processes, only on the steps that are logged."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from ddt_lightning.distributed import summed


def log_step(module: pl.LightningModule) -> None:
    """Log under the optimizer step; Lightning's own counter shifts by one when a run is continued."""
    module.log("step", float(module.global_step))


def log_means(module: pl.LightningModule, logs: dict[str, Tensor], every: int) -> None:
    """Log the mean over processes of every value, under `train/`.

    Values that are nan on a process (an empty time band) are left out of the mean.

    Args:
        module: who logs.
        logs: 0-d tensors by name.
        every: log when the step is a multiple of this.
    """
    if module.global_step % every:
        return
    values = torch.stack([value.detach().float() for value in logs.values()])
    both = torch.stack([values.nan_to_num(0.0), (~values.isnan()).float()])
    both = summed(both)
    means = both[0] / both[1]
    log_step(module)
    for name, mean in zip(logs, means, strict=True):
        if not mean.isnan():
            module.log(f"train/{name}", mean)
