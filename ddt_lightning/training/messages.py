"""Messages of a run: what it is, where it writes and how it ended; those of the libraries that help nobody are off."""

import logging
import time
import warnings
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl

HARMLESS = (
    r".*LeafSpec.* is deprecated",  # Lightning's own use of torch
    r"You're using the WeightAveraging callback with a model that overrides",  # about sharding; averaging is for DDP
    # these are the same on every process, or the first one's alone
    r"It is recommended to use `self.log\('(step|val/(psnr|codebook_|shapes_))",
    r"Experiment logs directory .* exists and is not empty",  # `history.py` carries its rows over
    r"Checkpoint directory .* exists and is not empty",  # that is how a run is continued
    r".*does not have many workers which may be a bottleneck",  # `data.workers` is a choice of the stage
    r"Your `IterableDataset` has `__len__` defined",
    r"Total length of `list` across ranks is zero",  # a run without held-out shards has no validation
    r"FSDP2-wrapped module .* returned a view tensor",  # nothing is changed in place behind a block
    r"The `srun` command is available on your system but is not used",  # where SLURM is, a short run needs no job
)
"""Warnings of the libraries that no user can act on."""
TALKATIVE = ("lightning.pytorch", "lightning.fabric")
"""Loggers whose notes on devices, seeds, signals and other products of their makers are off; warnings stay."""
WATCHER = "lightning.fabric.strategies.launchers.subprocess_script"
"""Logger of the thread that ends a run when one of its processes has died: all that is then said."""


def quiet_libraries() -> None:
    """Leave out what libraries say of every run."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(WATCHER).setLevel(logging.INFO)


class Messages(pl.Callback):
    """Says on the first process what a run is when training begins.

    Args:
        stage: its name.
        data: the settings of its data.
    """

    def __init__(self, stage: str, data: dict[str, Any]) -> None:
        self.stage, self.data, self.started = stage, data, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is trained, on what and for how long."""
        if not trainer.is_global_zero:
            return
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in pl_module.parameters()]
        trained = sum(number for number, wanted in sizes if wanted)
        frozen = sum(number for number, _ in sizes) - trained
        batch = self.data.get("batch_size", 0) * trainer.accumulate_grad_batches
        until = trainer.max_steps if trainer.max_steps > 0 else f"`trainer.max_time` ({trainer.max_time})"
        where = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
        print(f"  data: {named_data(self.data)}")
        print(f"  model: {trained:,} trained parameters" + (f", {frozen:,} frozen" if frozen else ""))
        print(f"  steps {trainer.global_step + 1} to {until}, batches of {batch}; {where}", flush=True)

    def begin(self, run_dir: str, step: int) -> None:
        """Say where a run writes, and whether it is continued."""
        continued = f", goes on after step {step}" if step else ""
        print(f"ddt-fit {self.stage}: writes to {run_dir}{continued}", flush=True)

    def end(self, trainer: pl.Trainer, run_dir: str, step: int, *, released: bool) -> None:
        """Say how a run ended."""
        took = timedelta(seconds=round(time.monotonic() - self.started))
        done = f"trained to step {trainer.global_step}" if trainer.global_step > step else "nothing left to train"
        short = f"no release before `trainer.max_steps` ({trainer.max_steps})"
        result = f"weights in {run_dir}/release" if released else short
        print(f"ddt-fit {self.stage}: {done} in {took}; {result}", flush=True)


def named_data(data: dict[str, Any]) -> str:
    """The training shards, or the prompts to practise on, that settings of data name."""
    lists = {key: value for key, value in data.items() if isinstance(value, list) and not key.startswith("val_")}
    named = [f"{key} {', '.join(map(str, value))}" for key, value in lists.items() if value]
    named += [f"prompts {data['prompts']}"] if "prompts" in data else []
    return "; ".join(named) or "scenes, rendered on the fly"
