"""Peaks of the plan against those of real runs on the CPU, as torch records its allocations."""

import json
import math
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


def records(run, processes=1):
    """What each process wrote: its peak, and the shapes of its batches."""
    return [json.loads((run / f"memory-{rank}.json").read_text()) for rank in range(processes)]


def largest(found):
    """Rows and length of the largest batch of packed rows, which differ between processes."""
    return max((batch["ids"] for batch in found["batches"]), key=math.prod)


def of_language(tmp_path, run, processes):
    """Settings of a finished run of pretraining."""
    tokenizer = tmp_path / "tok.yaml"
    tokenizer.write_text(f"model: {{tokenizer: {{tokens: {K}, codebook_size: {CODES}}}}}\n")
    values = assembled([str(run / "config.yaml")], {"data.vocab": str(run / "vocab")})
    return read_settings(values, processes, str(tokenizer))


def planned(settings, rows, length):
    return measure(replace(settings, length=length), [rows], foreach=False)[0].peak


@pytest.mark.parametrize("recomputed", ["false", "true"])
def test_a_language_model(tmp_path, world, recomputed):  # noqa: F811
    run = tmp_path / "run"
    more = [*LARGER, f"--model.parallel.activation_checkpointing={recomputed}"]
    cli.fit("pretrain", [*arguments("pretrain", run, world), RECORD, *more])
    (found,) = records(run)
    assert planned(of_language(tmp_path, run, 1), *largest(found)) == pytest.approx(found["peak"], rel=0.15)


# gloo copies what it gathers and scatters: beside the activations of larger batches that is little
LAYOUTS = {
    "copies": ["--data.batch_size=32"],
    "sharded": ["--config", "stages/fsdp.yaml", "--data.batch_size=128"],
}


@pytest.mark.parametrize("layout", [pytest.param("copies", marks=pytest.mark.slow), "sharded"])
def test_a_language_model_of_two_processes(tmp_path, world, layout):  # noqa: F811
    run = tmp_path / "run"
    more = [*LARGER, *LAYOUTS[layout], "--model.parallel.activation_checkpointing=false", RECORD]
    forked.fit((2, "pretrain", [*arguments("pretrain", run, world), *more]))
    settings = of_language(tmp_path, run, 2)
    assert settings.sharded == (layout == "sharded")
    for found in records(run, 2):
        assert planned(settings, *largest(found)) == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.slow
def test_a_language_model_whose_layers_are_divided(tmp_path, world):  # noqa: F811
    run = tmp_path / "run"
    more = [*LARGER, "--config", "stages/fsdp.yaml", "--trainer.strategy.init_args.tensor_parallel=2",
            "--data.batch_size=512", "--model.parallel.activation_checkpointing=false", RECORD]  # fmt: skip
    forked.fit((2, "pretrain", [*arguments("pretrain", run, world), *more]))
    settings, found = of_language(tmp_path, run, 2), records(run, 2)
    together = zip(*(one["batches"] for one in found), strict=True)
    # both processes compute all rows, as long as the longest and one id
    evened = [(max(one["ids"][0] for one in step), max(one["ids"][1] for one in step) + 1) for step in together]
    for one in found:
        assert planned(settings, *max(evened, key=math.prod)) == pytest.approx(one["peak"], rel=0.15)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_tokenizer_with_averages(tmp_path, processes):
    run = tmp_path / "run"
    words = [*arguments("tokenizer", run), RECORD, f"--data.batch_size={64 * processes}"]
    if processes == 1:
        cli.fit("tokenizer", words)
    else:
        forked.fit((processes, "tokenizer", words))
    settings = read_settings(assembled([str(run / "config.yaml")], {}), processes)
    for found in records(run, processes):
        images = max(batch["image"][0] for batch in found["batches"])
        assert settings.items == images and settings.averaged
        peak = measure(settings, [images], foreach=False)[0].peak
        assert peak == pytest.approx(found["peak"], rel=0.15)
