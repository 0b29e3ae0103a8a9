"""Peaks of the plan against those of real runs on the CPU, as torch records its allocations."""

import json
from dataclasses import replace

import pytest

from ddt_lightning.cost.settings import assembled, read_settings
from ddt_lightning.cost.trial import measure
from tests.stages.test_stages import CODES, K, arguments, pretrained, world  # noqa: F401 - fixtures
from tests.training.test_parallel import ddt_fit

LARGER = ["--model.network.width=128", "--model.network.depth=4", "--model.network.heads=4",
          "--model.network.kv_heads=4", "--model.network.ffn_width=512", "--data.batch_size=32"]  # fmt: skip


def recorded(run, rank=0):
    return json.loads((run / f"memory-{rank}.json").read_text())


def test_two_processes_that_share_a_language_model(tmp_path, world):  # noqa: F811
    run, tokenizer = tmp_path / "run", tmp_path / "tok.yaml"
    layout = ["--config", "stages/fsdp.yaml", "--trainer.devices=2", "--trainer.callbacks+=ranks.RecordMemory"]
    ddt_fit("pretrain", *arguments("pretrain", run, world), *layout, *LARGER)
    found = recorded(run)
    rows, length = found["shapes"]["ids"]
    tokenizer.write_text(f"model: {{tokenizer: {{tokens: {K}, codebook_size: {CODES}}}}}\n")
    values = assembled([str(run / "config.yaml")], {"data.vocab": str(run / "vocab")})
    settings = replace(read_settings(values, 2, str(tokenizer)), length=length)
    assert settings.sharded and settings.model["parallel"]["activation_checkpointing"]
    planned = measure(settings, [rows], foreach=False)[0]
    assert planned.peak == pytest.approx(found["peak"], rel=0.15)


def test_two_processes_with_a_tokenizer_each(tmp_path):
    run = tmp_path / "run"
    layout = ["--config", "stages/cpu2.yaml", "--trainer.callbacks+=ranks.RecordMemory", "--data.batch_size=64"]
    ddt_fit("tokenizer", *arguments("tokenizer", run), *layout)
    found = recorded(run)
    settings = read_settings(assembled([str(run / "config.yaml")], {}), 2)
    planned = measure(settings, [found["shapes"]["image"][0]], foreach=False)[0]
    assert settings.items == found["shapes"]["image"][0] and settings.averaged
    assert planned.peak == pytest.approx(found["peak"], rel=0.15)
