"""Throughput beside a run: its rates against the clock, and nothing of it in what is learned or compared."""

import csv

import lightning.pytorch as pl
import pytest
import torch

from ddt_lightning import cli
from ddt_lightning.callbacks.codebook import ROW, usage_panel
from ddt_lightning.callbacks.throughput import COLUMNS, Throughput
from ddt_lightning.cost.ledger import PHASES
from ddt_lightning.cost.settings import read_settings
from ddt_lightning.cost.trial import measure
from ddt_lightning.cost.work import work_of
from ddt_lightning.training.run import StageCLI, run
from tests.stages.test_stages import arguments, in_the_checkout, world  # noqa: F401 - fixtures

PEAK = 1e12


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_of_ids_is_measured_and_unchanged(tmp_path, world, monkeypatch):  # noqa: F811
    plain = tmp_path / "plain"
    monkeypatch.setattr("ddt_lightning.callbacks.throughput.Throughput.measure", lambda *_: None)
    cli.fit("pretrain", arguments("pretrain", plain, world))
    monkeypatch.undo()
    watched = tmp_path / "watched"
    module, data = (cli.locate(target) for target in cli.STAGES["pretrain"])
    args = arguments("pretrain", watched, world)
    made = StageCLI(module, data, args=args, stage="pretrain", watch=lambda settings: Throughput(settings, PEAK))
    run(made)
    assert (plain / "metrics.csv").read_bytes() == (watched / "metrics.csv").read_bytes()
    found = rows(watched / "throughput.csv")
    assert tuple(found[0]) == COLUMNS and [int(row["step"]) for row in found] == [1, 2, 3, 4]
    for row in found:
        seconds, wait = float(row["step_seconds"]), float(row["data_wait"])
        assert float(row["samples_per_second"]) == pytest.approx(8 / seconds) and 0 < wait < 1
        assert float(row["ids_per_second"]) > 8 / seconds
        assert float(row["mfu"]) == pytest.approx(1e12 * float(row["tflops"]) / PEAK)
    # a continued run goes on behind its rows
    cli.fit("pretrain", [*args, "--trainer.max_steps=6"])
    assert [int(row["step"]) for row in rows(watched / "throughput.csv")] == [1, 2, 3, 4, 5, 6]


def test_work_of_any_shape_is_what_the_plan_counts():
    network = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "ffn_width": 48}
    values = {"model": {"network": network, "optim": {}}, "data": {"batch_size": 8, "max_length": 96}}
    settings = read_settings(values, 1, document=96)
    assert settings.length == 96
    step = measure(settings, [5])[0]
    assert work_of(settings).flops(5, 96) == pytest.approx(sum(step.flops[phase] for phase in PHASES), rel=1e-6)


def test_tensorboard_has_scalars_grids_and_the_codebook(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = f"{{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {{save_dir: {tmp_path}/tb}}}}"
    done = cli.fit("tokenizer", [*arguments("tokenizer", tmp_path / "run"), "--trainer.logger", logger])
    assert isinstance(done.loggers[0], pl.loggers.CSVLogger) and (tmp_path / "run" / "metrics.csv").is_file()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    events = EventAccumulator(str(next((tmp_path / "tb").rglob("events*")).parent)).Reload()
    assert {"reconstructions", "codebook"} <= set(events.Tags()["images"])
    assert {"train/loss", "val/loss", "throughput/samples_per_second"} <= set(events.Tags()["scalars"])


def test_the_panel_shows_hits_from_the_most_used_code_on():
    counts = torch.tensor([[0, 7, 1], [0, 3, 2]])
    panel = usage_panel(counts)
    assert panel.shape == (2 * ROW, 3, 3) and panel.dtype == torch.uint8
    assert panel[0, 0, 0] == 255 and panel[0, 2, 0] == 0
    assert (panel[0, :, 0] != panel[ROW, :, 0]).any() and panel[0].equal(panel[ROW - 1])
