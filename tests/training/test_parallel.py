"""Two gloo processes against one: the same losses, the same codebook on every rank, and a sharded language model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ddt_lightning.training.parallel import ParallelConfig, shard
from ddt_lightning.vocab import Vocab
from tests.stages.test_stages import arguments, csv_rows, pretrained, world  # noqa: F401 - fixtures
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]


def start(stage: str, *args: str) -> subprocess.Popen[str]:
    """Start `ddt-fit` as its own process, as the launcher of the other ranks needs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    command = [sys.executable, "-m", "ddt_lightning.cli", "fit", stage, *args]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE, text=True)


def ddt_fit(stage: str, *args: str) -> None:
    """Run `ddt-fit` to its end."""
    process = start(stage, *args)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be collected."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def losses(run: Path, name: str = "train/loss") -> list[float]:
    return [float(row[name]) for row in csv_rows(run / "metrics.csv") if row[name]]


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


def test_two_renderer_processes_equal_one_discriminator_and_all(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    one, two = tmp_path / "one", tmp_path / "two"
    ddt_fit("renderer", *arguments("renderer", one))
    ddt_fit("renderer", *arguments("renderer", two), "--config", "stages/cpu2.yaml")
    for name in ("train/loss", "train/generator", "train/discriminator", "val/loss"):
        assert losses(one, name) == pytest.approx(losses(two, name), rel=1e-4), name
    judges = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["adversary"] for run in (one, two)]
    assert judges[0]["steps"] == judges[1]["steps"] == 3
    for name, value in judges[0]["net"].items():
        assert torch.allclose(value, judges[1]["net"][name], atol=1e-5), name


def test_sharded_language_model_equals_one_process(tmp_path, world):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    ddt_fit("pretrain", *arguments("pretrain", one, world), "--model.optim.name=muon")
    # packed, too, so that rows of several documents on two processes meet a row each on one
    sharded = ["--config", "stages/fsdp.yaml", "--trainer.devices=2", "--data.packing=true"]
    ddt_fit("pretrain", *arguments("pretrain", two, world), *sharded)
    assert losses(one) == pytest.approx(losses(two), rel=2e-3)
    for name in (
        "train/text_loss",
        "train/image_loss",
        "val/loss",
        "val/text_loss",
        "val/image_loss",
    ):  # over both processes
        assert losses(one, name) == pytest.approx(losses(two, name), rel=2e-3)
    assert (two / "checkpoints" / "last.ckpt").is_dir()  # a distributed checkpoint
    whole = load_file(one / "release" / "lm" / "model.safetensors")
    gathered = load_file(two / "release" / "lm" / "model.safetensors")
    assert whole.keys() == gathered.keys()
    assert all(whole[name].shape == gathered[name].shape for name in whole)
    # and the sharded run continues from its distributed checkpoint
    ddt_fit("pretrain", *arguments("pretrain", two, world), *sharded, "--trainer.max_steps=6")
    assert [int(row["step"]) for row in csv_rows(two / "metrics.csv") if row["train/loss"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow  # tests/lm/test_weights.py fills a sharded model faster
def test_model_from_a_folder_sharded_with_frozen_text_rows_equals_one_process(tmp_path, world, pretrained):  # noqa: F811
    """Grown, built on the meta device, filled in shards; adapters, and tables whose text rows stay."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text_size = Vocab.load(pretrained / "vocab").text_size
    LlamaForCausalLM(LlamaConfig(vocab_size=text_size, **sizes)).save_pretrained(tmp_path / "llama")
    more = [f"--model.llm={tmp_path}/llama", f"--data.text_tokenizer={pretrained}/vocab/text", "--model.optim.lr=1e-2",
            "--model.lora.tables=true", "--model.freeze_text_embeddings=true"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    ddt_fit("pretrain", *arguments("pretrain", one, world), *more)
    ddt_fit("pretrain", *arguments("pretrain", two, world), *more, "--config=stages/fsdp.yaml", "--trainer.devices=2")
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    base = load_file(tmp_path / "llama" / "model.safetensors")
    whole, gathered = (load_file(run / "release" / "lm" / "model.safetensors") for run in (one, two))
    assert base.keys() == whole.keys() == gathered.keys()
    for name, value in whole.items():
        torch.testing.assert_close(gathered[name], value, rtol=1e-2, atol=2e-3)
        if "embed" in name or "head" in name:
            assert gathered[name][:text_size].equal(base[name])
    assert not gathered["model.layers.0.mlp.up_proj.weight"].equal(base["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize(("share", "wrapped"), [(False, []), (True, [0, 1, 2, 3]), (0.5, [1, 3]), (0.3, [3])])
def test_a_share_of_the_blocks_is_recomputed_and_gradients_stay(share, wrapped):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(4)]))
    x = torch.randn(2, 4)

    def gradients():
        y = x
        for block in net[0]:
            y = block(y).tanh()
        y.sum().backward()
        found = [parameter.grad.clone() for parameter in net.parameters()]
        net.zero_grad()
        return found

    before = gradients()
    shard(net, net[0], ParallelConfig(activation_checkpointing=share), None)
    assert [n for n, block in enumerate(net[0]) if hasattr(block, "_checkpoint_wrapped_module")] == wrapped
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
    with pytest.raises(ValueError, match="between 0 and 1"):
        ParallelConfig(activation_checkpointing=1.5)


@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 1)])
def test_a_signal_to_any_process_saves_and_ends_all(tmp_path, number, told):
    run = tmp_path / "run"
    layout = ["--config", "stages/cpu2.yaml", "--trainer.callbacks+=ranks.MarkStep"]
    options = ("trainer.max_steps", "trainer.val_check_interval", "checkpoint.every_n_train_steps")
    endless = [f"--{option}=99999" for option in options]
    process = start("tokenizer", *arguments("tokenizer", run), *layout, *endless)
    try:
        marks = [run / f"rank-{rank}.pid" for rank in (0, 1)]
        while not all(mark.exists() and mark.read_text() for mark in marks):
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.1)
        pids = [int(mark.read_text()) for mark in marks]
        os.kill(pids[told], number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name} after step" in errors
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert f"after step {checkpoint['global_step']}" in errors and checkpoint["global_step"] >= 3
    deadline = time.monotonic() + 60
    while running(pids[1]):
        assert time.monotonic() < deadline, "the other process did not end"
        time.sleep(0.1)
