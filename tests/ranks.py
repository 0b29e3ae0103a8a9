"""A callback for the multi-process tests: every rank writes the weights it holds."""

from pathlib import Path

import lightning.pytorch as pl
from safetensors.torch import save_file


class SaveRank(pl.Callback):
    """Writes `rank-N.safetensors` into the run folder when training ends."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        save_file(state, Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.safetensors")
