"""A call with a time limit leaves a checkpoint, and the same call goes on to what an uninterrupted run ends with."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddt_lightning import cli

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def at_step(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def test_a_call_whose_time_is_up_saves_and_the_same_call_goes_on(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    call = [*TINY, "--checkpoint.every_n_train_steps=100"]
    cli.fit("tokenizer", [*call, "--run_dir", str(whole)])
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *call, "--run_dir", str(parts), "--call_minutes=1e-6"])  # over before the first step
    assert left.value.code == 138 and at_step(parts) == 1
    assert "stopped by `call_minutes` (1e-06) after step 1" in capsys.readouterr().err
    for _ in range(2):  # the second has nothing left to do
        cli.fit_main(["tokenizer", *call, "--run_dir", str(parts), "--call_minutes=100"])
        a, b = (load_file(run / "release" / "tokenizer" / "model.safetensors") for run in (whole, parts))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)  # averaged weights
    assert losses(whole).items() >= losses(parts).items() and sorted(losses(parts)) == [1, 2, 3]


def test_no_time_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *TINY, "--run_dir", str(tmp_path), "--call_minutes=0"])
    assert left.value.code == 1 and "`call_minutes` (0.0) must be above 0" in capsys.readouterr().err


def test_the_end_by_max_time_is_saved(tmp_path):
    more = ["--trainer.max_steps=100000", "--trainer.max_time=00:00:00:01", "--checkpoint.every_n_train_steps=100000"]
    trainer = cli.fit("tokenizer", [*TINY, *more, "--trainer.limit_val_batches=0", "--run_dir", str(tmp_path)])
    assert 0 < trainer.global_step == at_step(tmp_path)
    assert not (tmp_path / "release").exists()
