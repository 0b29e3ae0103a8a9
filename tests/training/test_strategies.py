"""Twenty steps on several gloo processes against one: copies of the weights, each sharded over some (HSDP)."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddt_lightning.commands.model import export
from ddt_lightning.training.checkpoint import last_checkpoint, read_weights, resume_step
from ddt_lightning.training.kept import whole_checkpoint
from tests import forked
from tests.stages.test_stages import arguments, csv_rows, failure, in_the_checkout, world  # noqa: F401 - fixtures
from tests.tiny import tiny_tokenizer

LONGER = ["--trainer.max_steps=20", "--model.optim.total_steps=20", "--trainer.val_check_interval=10",
          "--checkpoint.every_n_train_steps=100"]  # fmt: skip
SHARDED = ["--config", "stages/fsdp.yaml", "--trainer.accelerator=cpu"]
COPIES = [*SHARDED, "--trainer.strategy.init_args.replicas=2"]


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv_rows(run / "metrics.csv") if row[name]]


def assert_equal_runs(one: Path, other: Path, part: str, names: list[str]) -> None:
    """The same losses to 1e-4 and weights to 1e-5."""
    for name in names:
        found, expected = column(other, name), column(one, name)
        assert found == pytest.approx(expected, rel=1e-4) and len(found) == (20 if "train" in name else 2), name
    whole, gathered = (load_file(run / "release" / part / "model.safetensors") for run in (one, other))
    assert whole.keys() == gathered.keys()
    for name, value in whole.items():
        torch.testing.assert_close(gathered[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize(
    ("processes", "optimiser"),
    [
        (2, "adamw"),
        pytest.param(4, "adamw", marks=pytest.mark.slow),
        pytest.param(4, "muon", marks=pytest.mark.slow),
    ],
)
def test_two_copies_of_a_sharded_language_model_equal_one_process(tmp_path, world, processes, optimiser):  # noqa: F811
    """Train losses, those of validation over the labels of all processes, and the weights."""
    one, several = tmp_path / "one", tmp_path / "several"
    more = [*LONGER, f"--model.optim.name={optimiser}"]
    forked.fit(
        (1, "pretrain", [*arguments("pretrain", one, world), *more]),
        (processes, "pretrain", [*arguments("pretrain", several, world), *COPIES, *more]),
    )
    names = [f"{stage}/{loss}" for stage in ("train", "val") for loss in ("loss", "text_loss", "image_loss")]
    assert_equal_runs(one, several, "lm", names)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_two_copies_of_a_sharded_tokenizer_equal_one_process(tmp_path, processes):
    """Revival of codes, muon, groups of prefixes, recomputed blocks, and callbacks that decode, too."""
    one, several = tmp_path / "one", tmp_path / "several"
    callbacks = [f"--trainer.callbacks+=ddt_lightning.callbacks.{name}"
                 for name in ("samples.ReconstructionGrid", "codebook.CodebookMonitor")]  # fmt: skip
    more = [*LONGER, "--model.tokenizer.quantizer.dead_threshold=1.0", "--model.tokenizer.prefix_groups=2",
            "--trainer.callbacks=null", *callbacks]  # fmt: skip
    forked.fit(
        (1, "tokenizer", [*arguments("tokenizer", one), *more]),
        (processes, "tokenizer", [*arguments("tokenizer", several), *COPIES, *more]),
    )
    assert_equal_runs(one, several, "tokenizer", ["train/loss", "val/loss", "val/codebook_perplexity"])
    assert len(column(several, "val/psnr")) == 2  # of other images: those that the first process validates on


def test_averages_of_sharded_weights_are_refused(tmp_path, capsys):
    text = failure(capsys, "tokenizer", *arguments("tokenizer", tmp_path / "run"), *SHARDED)
    assert "`trainer.callbacks` (EMAWeightAveraging) copies the network" in text and "--trainer.callbacks null" in text


def test_a_stage_that_leaves_weights_whole_is_refused(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "sharded.yaml").write_text(
        "trainer: {strategy: {class_path: ddt_lightning.training.parallel.FullyShardedStrategy}, callbacks: null}"
    )
    words = ["--config", str(tmp_path / "sharded.yaml")]
    with pytest.raises(AssertionError, match=r"this stage trains another network .*--trainer.strategy ddp"):
        forked.fit((1, "renderer", [*arguments("renderer", tmp_path / "run"), *words]))


@pytest.mark.parametrize("processes", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_sharded_checkpoints_are_gathered_and_go_on_over_other_numbers_of_processes(tmp_path, world, capsys, processes):  # noqa: F811
    """Written by two processes. One file, of a run that does not shard, is refused."""
    whole, two, other, file = (tmp_path / name for name in ("whole", "two", "other", "file"))

    def words(run, steps, *more):
        base = [*arguments("pretrain", run, world), *LONGER, f"--trainer.max_steps={steps}", "--model.optim.name=muon"]
        return [*base, *more]

    forked.fit(
        (1, "pretrain", words(whole, 6)), (1, "pretrain", words(file, 3)), (2, "pretrain", words(two, 3, *SHARDED))
    )
    shutil.copytree(two, other)
    forked.fit((processes, "pretrain", words(other, 6, *SHARDED)))
    with pytest.raises(AssertionError, match="is one file, of a run that does not shard"):
        forked.fit((2, "pretrain", words(file, 6, *SHARDED)))
    expected = load_file(whole / "release" / "lm" / "model.safetensors")
    assert column(other, "train/loss") == pytest.approx(column(whole, "train/loss"), rel=1e-4)
    found = load_file(other / "release" / "lm" / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)

    released = load_file(two / "release" / "lm" / "model.safetensors")
    gathered = read_weights(last_checkpoint(two), "lm", "llm.")
    assert all(value.equal(gathered[name]) for name, value in released.items())
    shutil.rmtree(two / "release")
    export(str(two), str(tmp_path / "exported"))
    assert "step 3" in capsys.readouterr().out
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert exported.keys() == released.keys() and all(exported[name].equal(released[name]) for name in released)
    text = failure(capsys, "pretrain", *words(two, 6))
    assert f"({last_checkpoint(two)}) is a sharded checkpoint" in text and "stages/fsdp.yaml" in text


@pytest.mark.slow
def test_a_kill_during_a_write_in_the_background_costs_that_checkpoint_at_most(tmp_path, world):  # noqa: F811
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    background = [*SHARDED, "--trainer.strategy.init_args.save_in_background=true", *LONGER, "--trainer.max_steps=6",
                  "--checkpoint.every_n_train_steps=1"]  # fmt: skip
    stop = "--trainer.callbacks+=ranks.KillWhileSaving"
    with pytest.raises(AssertionError):
        forked.fit((2, "pretrain", [*arguments("pretrain", killed, world), *background, stop]))
    last, problems = whole_checkpoint(killed)
    assert last is not None and not problems and resume_step(last) in (3, 4)
    forked.fit(
        (2, "pretrain", [*arguments("pretrain", whole, world), *background]),
        (2, "pretrain", [*arguments("pretrain", killed, world), *background, "--resume_with_changes=true"]),
    )
    assert column(killed, "train/loss") == column(whole, "train/loss")
    one, other = (load_file(run / "release" / "lm" / "model.safetensors") for run in (whole, killed))
    assert all(value.equal(other[name]) for name, value in one.items())
    assert resume_step(last_checkpoint(whole)) == 6 and not list((whole / "checkpoints").glob(".*"))
