"""Twenty steps on several gloo processes against one: copies of the weights, each sharded over some (HSDP)."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from ddt_lightning.commands.model import export
from ddt_lightning.training.checkpoint import last_checkpoint, read_weights, resume_step
from ddt_lightning.training.kept import whole_checkpoint
from ddt_lightning.vocab import Vocab
from tests import forked
from tests.stages.test_stages import (  # noqa: F401 - fixtures
    arguments,
    csv_rows,
    failure,
    in_the_checkout,
    pretrained,
    world,
)
from tests.tiny import tiny_tokenizer

LONGER = ["--trainer.max_steps=20", "--model.optim.total_steps=20", "--trainer.val_check_interval=10",
          "--checkpoint.every_n_train_steps=100"]  # fmt: skip
SHARDED = ["--config", "stages/fsdp.yaml", "--trainer.accelerator=cpu"]
EVEN = ["--model.network.heads=4", "--model.network.kv_heads=2"]
DRAWS = ["--trainer.callbacks+=ddt_lightning.callbacks.geneval.ShapesGenEval",
         "--trainer.callbacks.prompts={folder}/prompts.jsonl", "--trainer.callbacks.release={folder}"]  # fmt: skip
DIVIDED = [*SHARDED, "--trainer.strategy.init_args.tensor_parallel=2"]
COPIES = [*SHARDED, "--trainer.strategy.init_args.replicas=2"]


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv_rows(run / "metrics.csv") if row[name]]


def released(run: Path, part: str = "lm") -> Path:
    return run / "release" / part / "model.safetensors"


def assert_equal_runs(one: Path, other: Path, part: str, names: list[str]) -> None:
    """The same losses to 1e-4 and weights to 1e-5."""
    for name in names:
        found, expected = column(other, name), column(one, name)
        assert found == pytest.approx(expected, rel=1e-4) and len(found) == (20 if "train" in name else 2), name
    whole, gathered = (load_file(released(run, part)) for run in (one, other))
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


@pytest.mark.parametrize(
    ("processes", "optimiser", "packed"),
    [
        (2, "adamw", False),
        pytest.param(2, "adamw", True, marks=pytest.mark.slow),
        pytest.param(4, "adamw", False, marks=pytest.mark.slow),
        pytest.param(4, "muon", False, marks=pytest.mark.slow),
    ],
)
def test_a_divided_language_model_equals_one_process(tmp_path, world, processes, optimiser, packed):  # noqa: F811
    """Two processes divide heads and columns; four are two such groups. Gradients are clipped, rows have any length."""
    one, several = tmp_path / "one", tmp_path / "several"
    more = [*LONGER, f"--model.optim.name={optimiser}", f"--data.packing={str(packed).lower()}",
            "--trainer.gradient_clip_val=0.5", *EVEN]  # fmt: skip
    forked.fit(
        (1, "pretrain", [*arguments("pretrain", one, world), *more]),
        (processes, "pretrain", [*arguments("pretrain", several, world), *DIVIDED, *more]),
    )
    names = [f"{stage}/{loss}" for stage in ("train", "val") for loss in ("loss", "text_loss", "image_loss")]
    assert_equal_runs(one, several, "lm", names)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_a_divided_model_from_a_folder_with_frozen_text_rows_equals_one_process(tmp_path, world, pretrained, family):  # noqa: F811
    """Built on the meta device and filled in parts of rows and of columns; norms of heads; a step of two batches."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 24, "tie_word_embeddings": False}
    text_size = Vocab.load(pretrained / "vocab").text_size
    config = AutoConfig.for_model(family, vocab_size=text_size, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    one, several = tmp_path / "one", tmp_path / "several"
    more = [*LONGER, f"--model.llm={tmp_path}/llama", f"--data.text_tokenizer={pretrained}/vocab/text",
            "--model.freeze_text_embeddings=true", "--trainer.accumulate_grad_batches=2"]  # fmt: skip
    forked.fit(
        (1, "pretrain", [*arguments("pretrain", one, world), *more]),
        (4, "pretrain", [*arguments("pretrain", several, world), *DIVIDED, *more]),
    )
    assert_equal_runs(one, several, "lm", ["train/loss"])
    base, found = (load_file(path) for path in (tmp_path / "llama" / "model.safetensors", released(several)))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert found[name][:text_size].equal(base[name])


def test_what_cannot_be_divided_is_refused(tmp_path, world, capsys):  # noqa: F811
    option = "`trainer.strategy.init_args.tensor_parallel`"
    words = [*arguments("pretrain", tmp_path / "run", world), *SHARDED]
    strategy = "--trainer.strategy.init_args"
    assert f"{option} (3) must divide the 1 processes of a node" in failure(
        capsys, "pretrain", *words, f"{strategy}.tensor_parallel=3"
    )
    assert f"{option} (2) and `trainer.strategy.init_args.replicas` (2): one of them must be 1" in failure(
        capsys, "pretrain", *words, f"{strategy}.tensor_parallel=2", f"{strategy}.replicas=2"
    )


@pytest.mark.parametrize(
    ("stage", "more", "reason"),
    [
        ("pretrain", ["--model.network.kv_heads=1"], r"must divide the model's num_key_value_heads \(1\)"),
        pytest.param(
            "pretrain",
            ["--model.lora.tables=true", *EVEN],
            r"without biases and adapters, and q_proj is another",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "pretrain",
            [*EVEN, *DRAWS],
            "ShapesGenEval draws with a model that is not divided; set it to 1",
            marks=pytest.mark.slow,
        ),
        ("tokenizer", [], "divides the layers of language models"),
    ],
)
def test_a_run_that_cannot_be_divided_is_refused(tmp_path, world, stage, more, reason):  # noqa: F811
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "prompts.jsonl").write_text(
        '{"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"}\n'
    )
    words = [word.format(folder=tmp_path) for word in more]
    with pytest.raises(AssertionError, match=reason):
        forked.fit((2, stage, [*arguments(stage, tmp_path / "run", world), *DIVIDED, *words]))


@pytest.mark.slow  # the same of a language model, above, is faster
@pytest.mark.parametrize("processes", [2, 4])
def test_two_copies_of_a_sharded_tokenizer_equal_one_process(tmp_path, processes):
    """Revival of codes, muon, groups of prefixes, recomputed blocks, averages, and callbacks that decode, too."""
    one, several = tmp_path / "one", tmp_path / "several"
    more = [*LONGER, "--model.tokenizer.quantizer.dead_threshold=1.0", "--model.tokenizer.prefix_groups=2"]
    forked.fit(
        (1, "tokenizer", [*arguments("tokenizer", one), *more]),
        (processes, "tokenizer", [*arguments("tokenizer", several), *COPIES, *more]),
    )
    assert_equal_runs(one, several, "tokenizer", ["train/loss", "val/loss", "val/codebook_perplexity"])
    assert len(column(several, "val/psnr")) == 2  # of other images: those that the first process validates on


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_averages_of_sharded_weights_go_on_over_another_number_of_processes(tmp_path, processes):
    """Written by two processes; what starts from the checkpoint takes the averages, too."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def words(run: Path, steps: int) -> list[str]:
        return [*arguments("tokenizer", run), *LONGER, f"--trainer.max_steps={steps}"]

    forked.fit(
        (1, "tokenizer", words(whole, 8)),
        (2, "tokenizer", [*words(parts, 4), *SHARDED]),
        (processes, "tokenizer", [*words(parts, 8), *SHARDED]),
    )
    expected, found = (load_file(released(run, "tokenizer")) for run in (whole, parts))
    gathered = read_weights(last_checkpoint(parts), "tokenizer", "tokenizer.")
    current = torch.load(last_checkpoint(whole), weights_only=True)["current_model_state"]
    apart = [(value - current[f"tokenizer.{name}"]).abs().max() for name, value in expected.items() if value.dim() == 2]
    assert max(apart) > 1e-3  # an average is another value
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        assert gathered[name].equal(found[name]), name


def test_averages_by_a_copy_of_the_network_are_refused(tmp_path, capsys):
    whole = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    text = failure(capsys, "tokenizer", *arguments("tokenizer", tmp_path / "run"), *SHARDED, whole)
    assert "`trainer.callbacks` (EMAWeightAveraging) copies the network" in text
    assert "use `ddt_lightning.training.averaging.EmaWeightAveraging`" in text


def test_averages_of_sharded_weights_in_one_file_are_refused(tmp_path):
    single = [*SHARDED, "--trainer.strategy.init_args.save_distributed_checkpoint=false"]
    with pytest.raises(AssertionError, match=r"save_distributed_checkpoint` \(false\) cannot be used with averages"):
        forked.fit((1, "tokenizer", [*arguments("tokenizer", tmp_path / "run"), *single]))


def test_a_stage_that_leaves_weights_whole_is_refused(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "sharded.yaml").write_text(
        "trainer: {strategy: {class_path: ddt_lightning.training.parallel.FullyShardedStrategy}, callbacks: null}"
    )
    words = ["--config", str(tmp_path / "sharded.yaml")]
    with pytest.raises(AssertionError, match=r"this stage trains another network .*--trainer.strategy ddp"):
        forked.fit((1, "renderer", [*arguments("renderer", tmp_path / "run"), *words]))


@pytest.mark.parametrize(
    ("processes", "divided"),
    [(1, False), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((4, False), (2, True)))],
)
def test_sharded_checkpoints_are_gathered_and_go_on_over_other_numbers_of_processes(
    tmp_path,
    world,  # noqa: F811
    capsys,
    processes,
    divided,
):
    """Written by two processes. One file, of a run that does not shard, is refused."""
    sharded = DIVIDED if divided else SHARDED
    whole, two, other, file = (tmp_path / name for name in ("whole", "two", "other", "file"))

    def words(run, steps, *more):
        base = [*arguments("pretrain", run, world), *LONGER, f"--trainer.max_steps={steps}", "--model.optim.name=muon",
                *EVEN]  # fmt: skip
        return [*base, *more]

    forked.fit(
        (1, "pretrain", words(whole, 6)), (1, "pretrain", words(file, 3)), (2, "pretrain", words(two, 3, *SHARDED))
    )
    shutil.copytree(two, other)
    forked.fit((processes, "pretrain", words(other, 6, *sharded)))
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
