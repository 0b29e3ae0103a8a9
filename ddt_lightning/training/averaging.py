"""Averages of the weights over steps, also where each process holds a part of the weights.

Lightning's callback copies the whole module, which cannot be done with sharded weights. There, the copy made here holds
the averages of this process's parts alone. Distributed checkpoints hold them beside the weights, so that a run goes on
with any number of processes.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.distributed.checkpoint import load
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel

from ddt_lightning.training.checkpoint import AVERAGED
from ddt_lightning.training.parallel import FullyShardedStrategy, plain

COUNT = "averaging_steps"


class EmaWeightAveraging(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, with its options, under FSDP2, too.

    Validation, the release and what starts from a checkpoint take the averages.
    """

    of_parts = True  # `FullyShardedStrategy` refuses those that are not
    sharded = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """As Lightning's, unless weights are sharded: these exist later.

        Raises:
            ValueError: sharded weights are to be saved as one file.
        """
        strategy = trainer.strategy
        self.sharded = isinstance(strategy, FullyShardedStrategy)
        if not self.sharded:
            super().setup(trainer, pl_module, stage)
        elif not strategy._save_distributed_checkpoint:
            raise ValueError(
                "`trainer.strategy.init_args.save_distributed_checkpoint` (false) cannot be used with averages of "
                "weights: set it to true, or leave them out with `--trainer.callbacks null`."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy this process's parts of sharded weights."""
        if self.sharded:
            self._average_model = AveragedModel(Parts(pl_module), use_buffers=self._use_buffers, **self._kwargs)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the averages to the weights of a distributed checkpoint; as Lightning's for a file."""
        if not self.sharded:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
        elif self._average_model is not None:
            checkpoint["state_dict"] |= self.named(pl_module)
            checkpoint[COUNT] = int(self._average_model.n_averaged)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the averages out of a distributed checkpoint; as Lightning's for a file.

        Raises:
            ValueError: the checkpoint is of a run without averages.
        """
        if not self.sharded:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        elif self._average_model is not None:
            if COUNT not in checkpoint:
                raise ValueError(
                    f"`ckpt_path` ({trainer.ckpt_path}) is of a run without averages of weights: go on with "
                    "`--trainer.callbacks null`, or start another `--run_dir` from it with `--init_from`."
                )
            load({"state_dict": self.named(pl_module)}, checkpoint_id=Path(str(trainer.ckpt_path)))
            self._average_model.n_averaged.fill_(checkpoint[COUNT])

    def named(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The averages by the names of what they are averages of, behind `AVERAGED`."""
        assert self._average_model is not None
        names = [name for name, _ in chain(pl_module.named_parameters(), pl_module.named_buffers())]
        averages = chain(self._average_model.module.parameters(), self._average_model.module.buffers())
        return {AVERAGED + plain(name): value.detach() for name, value in zip(names, averages, strict=True)}

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        release_gathered(pl_module)
        super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        release_gathered(pl_module)
        super()._copy_average_to_current(pl_module)


class Parts(nn.Module):
    """Copies of the weights and buffers of a module, in its order; of sharded weights this process's parts.

    Args:
        module: what is copied.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for number, weight in enumerate(module.parameters()):
            self.register_parameter(f"weight{number}", nn.Parameter(weight.detach().clone(), requires_grad=False))
        for number, buffer in enumerate(module.buffers()):
            self.register_buffer(f"buffer{number}", buffer.detach().clone())


def release_gathered(module: nn.Module) -> None:
    """Let go of weights that FSDP2 keeps gathered between forward passes, before they become others."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
