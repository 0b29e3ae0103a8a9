"""Two gloo processes against one: the same losses, the same codebook on every rank, and a sharded language model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_stages import arguments, csv_rows, world  # noqa: F401 - `world` is a fixture

ROOT = Path(__file__).parents[1]


def ddt_fit(stage: str, *args: str) -> None:
    """Run `ddt-fit` as its own process, as the launcher of the other ranks needs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    command = [sys.executable, "-m", "ddt_lightning.cli", stage, *args]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(run: Path) -> list[float]:
    return [float(row["train/loss"]) for row in csv_rows(run / "metrics.csv") if row["train/loss"]]


def test_two_tokenizer_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    # every code is soon dead, so that revival, too, has to agree
    dead = "--model.tokenizer.quantizer.dead_threshold=1.0"
    ddt_fit("tokenizer", *arguments("tokenizer", one), dead)
    layout = ["--config", "stages/cpu2.yaml", "--trainer.callbacks+=ranks.SaveRank"]
    ddt_fit("tokenizer", *arguments("tokenizer", two), *layout, dead)
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    ranks = [load_file(two / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    single = load_file(one / "release" / "tokenizer" / "model.safetensors")
    for name in ("quantizer.codebook", "quantizer.code_hits", "quantizer.usage"):
        assert torch.allclose(single[name], ranks[0][f"tokenizer.{name}"], atol=1e-4), name


def test_sharded_language_model_equals_one_process(tmp_path, world):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    ddt_fit("pretrain", *arguments("pretrain", one, world), "--model.optim.name=adamw")
    sharded = ["--config", "stages/fsdp.yaml", "--trainer.devices=2"]
    ddt_fit("pretrain", *arguments("pretrain", two, world), *sharded)
    assert losses(one) == pytest.approx(losses(two), rel=2e-3)
    assert (two / "checkpoints" / "last.ckpt").is_dir()  # a distributed checkpoint
    whole = load_file(one / "release" / "lm" / "model.safetensors")
    gathered = load_file(two / "release" / "lm" / "model.safetensors")
    assert whole.keys() == gathered.keys()
    assert all(whole[name].shape == gathered[name].shape for name in whole)
    # and the sharded run continues from its distributed checkpoint
    ddt_fit("pretrain", *arguments("pretrain", two, world), *sharded, "--trainer.max_steps=6")
    assert [int(row["step"]) for row in csv_rows(two / "metrics.csv") if row["train/loss"]] == [0, 1, 2, 3, 4, 5]
