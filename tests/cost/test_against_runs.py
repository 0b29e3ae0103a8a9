"""Peaks of the plan against those of real runs on the CPU, as torch records its allocations."""

import json
from dataclasses import replace

import pytest

from ddt_lightning import cli
from ddt_lightning.cost.settings import assembled, read_settings
from ddt_lightning.cost.trial import measure
from tests import forked
from tests.stages.test_stages import CODES, K, arguments, in_the_checkout, world  # noqa: F401 - fixtures

RECORD = "--trainer.callbacks+=tests.ranks.RecordMemory"
LARGER = ["--model.network.width=128", "--model.network.depth=4", "--model.network.heads=4",
          "--model.network.kv_heads=4", "--model.network.ffn_width=512", "--data.batch_size=32"]  # fmt: skip


@pytest.mark.parametrize("recomputed", ["false", "true"])
def test_a_language_model(tmp_path, world, recomputed):  # noqa: F811
    run, tokenizer = tmp_path / "run", tmp_path / "tok.yaml"
    more = [*LARGER, f"--model.parallel.activation_checkpointing={recomputed}"]
    cli.fit("pretrain", [*arguments("pretrain", run, world), RECORD, *more])
    found = json.loads((run / "memory-0.json").read_text())
    rows, length = found["shapes"]["ids"]
    tokenizer.write_text(f"model: {{tokenizer: {{tokens: {K}, codebook_size: {CODES}}}}}\n")
    values = assembled([str(run / "config.yaml")], {"data.vocab": str(run / "vocab")})
    settings = replace(read_settings(values, 1, str(tokenizer)), length=length)
    planned = measure(settings, [rows], foreach=False)[0]
    assert planned.peak == pytest.approx(found["peak"], rel=0.15)


def test_a_language_model_sharded_over_two_processes(tmp_path, world):  # noqa: F811
    run, tokenizer = tmp_path / "run", tmp_path / "tok.yaml"
    more = [*LARGER, "--config", "stages/fsdp.yaml", "--model.parallel.activation_checkpointing=false", RECORD]
    more += [
        "--data.batch_size=128"
    ]  # gloo copies what it gathers and scatters: beside more activations that is little
    forked.fit((2, "pretrain", [*arguments("pretrain", run, world), *more]))
    tokenizer.write_text(f"model: {{tokenizer: {{tokens: {K}, codebook_size: {CODES}}}}}\n")
    values = assembled([str(run / "config.yaml")], {"data.vocab": str(run / "vocab")})
    settings = read_settings(values, 2, str(tokenizer))
    assert settings.sharded
    for rank in (0, 1):
        found = json.loads((run / f"memory-{rank}.json").read_text())
        rows, length = found["shapes"]["ids"]  # of packed rows, which differ between processes
        planned = measure(replace(settings, length=length), [rows], foreach=False)[0]
        assert planned.peak == pytest.approx(found["peak"], rel=0.15)


def test_a_tokenizer_with_averages(tmp_path):
    run = tmp_path / "run"
    cli.fit("tokenizer", [*arguments("tokenizer", run), RECORD, "--data.batch_size=64"])
    found = json.loads((run / "memory-0.json").read_text())
    settings = read_settings(assembled([str(run / "config.yaml")], {}), 1)
    planned = measure(settings, [found["shapes"]["image"][0]], foreach=False)[0]
    assert settings.items == found["shapes"]["image"][0] and settings.averaged
    assert planned.peak == pytest.approx(found["peak"], rel=0.15)
