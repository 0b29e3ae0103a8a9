"""Callbacks for tests that need one by name."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file


class SaveRank(pl.Callback):
    """Writes `rank-N.safetensors` into the run folder when training ends."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        save_file(state, Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.safetensors")


class MarkStep(pl.Callback):
    """Every rank writes its process id to `rank-N.pid` after the third step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            (Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.pid").write_text(str(os.getpid()))


class Poison(pl.Callback):
    """Makes the weights nan before the fifth step."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == 4:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)
