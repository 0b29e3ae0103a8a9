"""Callbacks for tests that need one by name."""

import gc
import json
import os
import signal
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


class KillWhileSaving(pl.Callback):
    """Kills every process when the fifth step begins: the checkpoint of the fourth is being written."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


class Poison(pl.Callback):
    """Makes the weights nan before the fifth step."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == 4:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)


class RecordMemory(pl.Callback):
    """Writes `memory-N.json`: the most bytes that torch held in the steps from the third on, by its own record, and the
    shapes of their batches. It is made before any weight is."""

    def __init__(self) -> None:
        gc.collect()
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.profile.start()
        self.batches: list[dict[str, list[int]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, _: int) -> None:
        shapes = {name: list(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        if trainer.global_step >= 2:
            self.batches.append(shapes)
        if trainer.global_step == 2:
            with torch.profiler.record_function("from here"):
                pass

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        with torch.profiler.record_function("to here"):
            pass

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.profile.stop()
        folder = Path(trainer.default_root_dir)
        trace = folder / f"trace-{trainer.global_rank}.json"
        self.profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
        marks = {
            name: [event["ts"] for event in events if event.get("name") == name] for name in ("from here", "to here")
        }
        start, stop = min(marks["from here"]), max(marks["to here"])
        held = sorted((event["ts"], event["args"]["Total Allocated"], event["args"]["Bytes"]) for event in events
                      if event.get("name") == "[memory]")  # fmt: skip
        before = held[0][1] - held[0][2]  # of earlier records in this process
        peak = max(total for ts, total, _ in held if start <= ts <= stop) - before
        found = {"peak": peak, "batches": self.batches}
        (folder / f"memory-{trainer.global_rank}.json").write_text(json.dumps(found))
