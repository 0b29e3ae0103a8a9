"""Throughput while training: samples and ids a second, the share of time that waits for data, and the MFU.

In: a data module that counts what it waits. Out: `<run_dir>/throughput.csv`, a row for each logged step, and the same
numbers for every logger but the csv one. They are measurements, which differ between two equal runs, and so stand apart
from `metrics.csv`. The MFU is there on GPUs whose peak is known: operations as `ddt plan` counts them, over that peak.
"""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import Throughput as Window
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from ddt_lightning.cost.hardware import of_device
from ddt_lightning.cost.settings import read_settings, stage_of
from ddt_lightning.cost.work import Work, work_of
from ddt_lightning.training.history import add_row, cut_rows

FILE = "throughput.csv"
COLUMNS = ("step", "step_seconds", "samples_per_second", "ids_per_second", "data_wait", "tflops", "mfu")
INTERVAL = 2
"""Measurements in Lightning's window: a rate is that between the last two."""


class Throughput(pl.Callback):
    """Measure the speed of training; it changes nothing and says nothing of what is learned.

    Args:
        settings: all settings of the run.
        peak: FLOP/s of one device; None looks the device up, and leaves the MFU out where it is not known.
    """

    def __init__(self, settings: dict[str, Any], peak: float | None = None) -> None:
        self.settings, self.peak = settings, peak
        self.work: Work | None = None

    def prepare(self, trainer: pl.Trainer) -> None:
        """Count the operations of a batch, before the processes form a group: a count pretends to be of one process."""
        device = trainer.strategy.root_device
        if self.peak is None and device.type == "cuda":
            gpu = of_device(torch.cuda.get_device_name(device))
            self.peak = gpu.peak(str(trainer.precision)) if gpu else None
        if self.peak is not None and stage_of(self.settings["model"]) != "rl":
            with torch.random.fork_rng(devices=[]):
                self.work = work_of(read_settings(self.settings, 1, self.tokenizer()))

    def tokenizer(self) -> str | None:
        """The settings of the run that made the tokenizer of a stage, where it is a run."""
        named = self.settings["model"].get("tokenizer")
        file = Path(named) / "config.yaml" if isinstance(named, str) else None
        return str(file) if file is not None and file.is_file() else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure, behind the rows of earlier parts of the run."""
        self.window = Window(self.peak, trainer.world_size, INTERVAL)
        self.batches = self.samples = self.ids = 0
        self.flops = self.elapsed = 0.0
        self.counted: Tensor | None = None
        has_ids, flops = hasattr(pl_module, "vocab"), None if self.work is None else 0
        self.window.update(time=0.0, batches=0, samples=0, lengths=0 if has_ids else None, flops=flops)
        self.started, self.waited = time.perf_counter(), trainer.datamodule.waited
        path = Path(trainer.default_root_dir) / FILE
        if trainer.is_global_zero and path.is_file():
            cut_rows(path, trainer.global_step + 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out."""
        if trainer.state.fn != "fit":
            return
        self.left = time.perf_counter(), trainer.datamodule.waited

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on measuring."""
        if trainer.state.fn != "fit":
            return
        left, waited = self.left
        self.started += time.perf_counter() - left
        self.waited += trainer.datamodule.waited - waited

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Add a batch; at the end of every logged step, write its row."""
        rows = batch.get("ids")
        if isinstance(rows, Tensor):
            # stays on the device: reading it would make every step wait
            count = (rows != pl_module.vocab.pad).sum()
            self.counted = count if self.counted is None else self.counted + count
        self.batches += 1
        self.samples += trainer.datamodule.batch_size // trainer.world_size
        if self.work is not None:
            shape = rows.shape if isinstance(rows, Tensor) else (len(batch["image"]), 0)
            self.flops += self.work.flops(*shape)
        ended = not trainer.fit_loop._should_accumulate()
        if ended and trainer.global_step % trainer.log_every_n_steps == 0:
            self.measure(trainer)

    def measure(self, trainer: pl.Trainer) -> None:
        """Close an interval between two logged steps."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        elapsed, waited = time.perf_counter() - self.started, trainer.datamodule.waited - self.waited
        self.started, self.waited = self.started + elapsed, self.waited + waited
        self.elapsed += elapsed
        if self.counted is not None:
            self.ids += int(self.counted)
            self.counted = None
        self.window.update(time=self.elapsed, batches=self.batches, samples=self.samples, lengths=self.ids or None,
                           flops=int(self.flops) or None)  # fmt: skip
        self.flops = 0.0
        found = self.window.compute()
        if trainer.is_global_zero and "device/batches_per_sec" in found:
            self.write(trainer, found, waited / elapsed)

    def write(self, trainer: pl.Trainer, found: dict[str, Any], wait: float) -> None:
        """Add a row to the file, and give it to the loggers."""
        world = trainer.world_size
        values = {
            "step_seconds": trainer.accumulate_grad_batches / found["device/batches_per_sec"],
            "samples_per_second": world * found["device/samples_per_sec"],
            "ids_per_second": world * found["device/items_per_sec"] if "device/items_per_sec" in found else None,
            "data_wait": wait,
            "tflops": found["device/flops_per_sec"] / 1e12 if "device/flops_per_sec" in found else None,
            "mfu": found.get("device/mfu"),
        }
        add_row(Path(trainer.default_root_dir) / FILE, {"step": trainer.global_step, **values}, COLUMNS)
        known = {f"throughput/{name}": value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_metrics(known, step=trainer.global_step)
