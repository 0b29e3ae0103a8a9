"""Checkpoints that are kept on the way."""

from pathlib import Path

import pytest
from numpy.random import default_rng

from ddt_lightning import cli
from ddt_lightning.callbacks.snapshots import Snapshots, snapshot
from ddt_lightning.training.checkpoint import resume_step
from tests.inprocess import TINY_LM, token_shards

ROOT = Path(__file__).parents[2]


def test_kept_checkpoints_are_those_of_their_steps(tmp_path, monkeypatch):
    """Also with accumulation, where a step has several batches."""
    monkeypatch.chdir(ROOT)
    folder = token_shards(tmp_path / "ids", default_rng(0).integers(0, 9, (40, 4)), codes=9)
    kept = '[{"class_path": "ddt_lightning.callbacks.snapshots.Snapshots", "init_args": {"steps": [1, 3]}}]'
    args = [word for config in TINY_LM for word in ("--config", config)]
    args += ["--data.shards", f'["{folder}/images-train-*.tar"]', "--data.text_vocab_size=300"]
    args += ["--trainer.accumulate_grad_batches=2", "--trainer.callbacks", kept, "--run_dir", str(tmp_path / "run")]
    cli.fit("pretrain", args)
    for number in (1, 3):
        assert resume_step(snapshot(tmp_path / "run", number)) == number
    assert not snapshot(tmp_path / "run", 2).exists()
    with pytest.raises(ValueError, match=r"Snapshots\.steps"):
        Snapshots([0])
