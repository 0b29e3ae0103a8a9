"""torch.compile of encoder and decoder: one graph without a break, the same results and gradients, the same names."""

import copy
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from ddt_lightning import cli
from ddt_lightning.tokens.decoder import Decoder, DecoderConfig
from ddt_lightning.tokens.encoder import Encoder, EncoderConfig
from tests.stages.test_stages import arguments, csv_rows

ROOT = Path(__file__).parents[2]
K, CODE, SIZES = 8, 4, (3, 4, 8)
SLOW = pytest.mark.slow
NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pair(net: nn.Module, backend: str) -> tuple[nn.Module, nn.Module, CompileCounterWithBackend]:
    """A network, the same one compiled without leave to break its graph, and what counts the graphs."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)  # as built, half of it is zero
    twin, counter = copy.deepcopy(net), CompileCounterWithBackend(backend)
    twin.compile(fullgraph=True, backend=counter)
    assert list(twin.state_dict()) == list(net.state_dict())
    return net, twin, counter


def results(net: nn.Module, *inputs: Tensor | list | None) -> list[Tensor]:
    """Output and gradients of a network."""
    net.zero_grad()
    output = net(*inputs)
    output.square().mean().backward()
    return [output.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether results are equal but for the order of sums."""
    close = [(a - b).abs().max() <= 5e-5 * max(1.0, a.abs().max()) for a, b in zip(one, other, strict=True)]
    return len(close) > 1 and all(close)


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("aot_eager", marks=SLOW), pytest.param("inductor", marks=[SLOW, NO_COMPILER])]
)
def test_encoder(backend):
    config = EncoderConfig(depth=2, image_width=16, image_heads=2, query_width=16, query_heads=2)
    net, compiled, counter = pair(Encoder(config, K, *SIZES), backend)
    for _ in range(2):
        latents = torch.randn(2, 3, 16, 16)
        assert same(results(net, latents), results(compiled, latents))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("backend", "masked"),
    [
        ("eager", True),
        ("eager", False),
        pytest.param("aot_eager", True, marks=SLOW),
        pytest.param("inductor", True, marks=[SLOW, NO_COMPILER]),
    ],
)
def test_decoder_for_every_prefix_length(backend, masked):
    net, compiled, counter = pair(Decoder(DecoderConfig(depth=2, heads=2, head_dim=8), K, CODE, *SIZES), backend)
    x_t, t = torch.randn(3, 3, 16, 16), torch.tensor([0.1, 0.5, 1.0])
    for n in (5, 6, 8, 3, 7, 2, 4):
        tokens = torch.randn(3, n, CODE)
        visible = torch.arange(n) < torch.tensor([[n], [1], [0]]) if masked else None
        modulations = (net.modulations(), compiled.modulations()) if masked else (None, None)
        ours = results(net, x_t, t, tokens, visible, modulations[0])
        assert same(ours, results(compiled, x_t, t, tokens, visible, modulations[1])), n
    assert counter.frame_count == 2  # the first length, then one graph for all
    for n in (0, 1):
        tokens = torch.randn(3, n, CODE)
        assert same(results(net, x_t, t, tokens), results(compiled, x_t, t, tokens)), n


@pytest.mark.slow
def test_a_run_with_the_option_equals_one_without(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    for name in ("plain", "compiled"):
        option = ["--model.compile=true"] if name == "compiled" else []
        cli.fit("tokenizer", [*arguments("tokenizer", tmp_path / name), *option])
        assert (counter.frame_count > 0) is (name == "compiled")
    rows = [csv_rows(tmp_path / name / "metrics.csv") for name in ("plain", "compiled")]
    losses = [[float(row["train/loss"]) for row in part if row["train/loss"]] for part in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    weights = [load_file(tmp_path / name / "release/tokenizer/model.safetensors") for name in ("plain", "compiled")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])
