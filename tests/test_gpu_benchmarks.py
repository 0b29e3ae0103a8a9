"""The arithmetic of the GPU benchmarks against hand counts and real tensors; their tables at tiny sizes on a CPU."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddt_lightning.cost.ledger import FORWARD
from ddt_lightning.cost.settings import read_settings
from ddt_lightning.cost.trial import measure
from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.settings import merge

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = LlmConfig(width=32, depth=2, heads=4, kv_heads=2, ffn_width=48, max_length=64)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    yield
    for name in ("device", "gpu_generation", "gpu_training", "gpu_tokenizer"):
        sys.modules.pop(name, None)


def module(name: str):
    return importlib.import_module(name)


def test_the_shape_is_that_of_llama_3_2_1b():
    device, billion = module("device"), module("gpu_generation").BILLION
    a_layer = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192  # 8 of 32 heads have keys, 64 wide
    assert device.layer_weights(billion) == 16 * a_layer == 973_078_528
    norms, table = 33 * 2048, 128_256 * 2048
    assert 973_078_528 + norms + table == 1_235_814_400  # the published count
    # one id more, alone in its row of 100: each weight is read once and multiplied once, keys and values of 100 places
    assert device.decoding_bytes(billion, 10, 1, 100) == 2 * (973_078_528 + 10 * 2048 + 16 * 2 * 8 * 64 * 100)
    # a document of two ids: 6 operations a weight and id, one scored label, 3 pairs of places
    hand = 6 * 973_078_528 * 2 + 6 * 2048 * 1000 + 3 * 16 * 4 * 2048 * 3
    assert device.training_flops(billion, 1000, [2]) == hand


def test_training_flops_are_those_torch_counts():
    device = module("device")
    length, vocab = 16, 50
    model = build_llm(TINY, vocab, bos=0, eos=1, pad=2)
    model.set_attn_implementation("eager")
    ids = torch.randint(vocab, (1, length))
    with FlopCounterMode(display=False) as counter:
        hidden = hidden_states(model, ids)
        F.cross_entropy(model.lm_head(hidden[0, :-1]), ids[0, 1:]).backward()
    pairs = length * (length + 1) // 2
    whole = 3 * 4 * TINY.depth * TINY.width * (length**2 - pairs)  # eager attention computes what the mask hides
    assert counter.get_total_flops() - whole == device.training_flops(TINY, vocab, [length])


def test_decoding_bytes_are_those_of_the_tensors():
    device = module("device")
    rows, length, codes = 3, 7, 20
    model = build_llm(TINY, 50, bos=0, eos=1, pad=2).bfloat16()
    layers = [m.weight for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
    head = model.get_output_embeddings().weight[:codes]
    with torch.no_grad():
        cache = model(torch.zeros(rows, length, dtype=torch.int64), use_cache=True).past_key_values
    tensors = [*layers, head, *(x for layer in cache.layers for x in (layer.keys, layer.values))]
    assert device.decoding_bytes(TINY, codes, rows, length) == sum(x.numel() * x.element_size() for x in tensors)
    generation = module("gpu_generation")
    steps = sum(device.decoding_bytes(TINY, codes, rows, 5 + k) for k in range(4))
    assert generation.bound(TINY, codes, rows, 5, 4, 1e3) == pytest.approx(steps / 1e3)


def test_probes_and_clock_measure_what_runs():
    device = module("device")
    assert 1e8 < device.bandwidth(CPU, 2**22) < 1e13
    assert 1e6 < device.matmul_peak(CPU, (64, 128)) < 1e14
    runs = []
    assert device.seconds(lambda: runs.append(1), CPU, rounds=3, warm=1) >= 0 and len(runs) == 4


def numbers(text: str) -> dict[str, list[float]]:
    """Rows of a printed table: what follows a name of 44 letters."""
    rows = [
        line for line in text.splitlines() if len(line) > 60 and line[:44].strip() and line[44:].strip()[0].isdigit()
    ]
    return {line[:44].strip(): [float(word.replace(",", "")) for word in line[44:].split()] for line in rows}


def test_generation_table(capsys):
    module("gpu_generation").table(CPU, TINY, 30, 20, 8, (2,), (False,))
    rows = numbers(capsys.readouterr().out)
    assert list(rows) == ["2 images, guidance 1", "2 images, guidance 2"]
    for _, rate, bound, share in rows.values():
        assert rate == pytest.approx(bound * share, abs=0.01 * bound) and share < 1


def test_training_step_and_its_operations():
    training, device = module("gpu_training"), module("device")
    documents = [9, 12, 5, 14]
    spent, flops = training.measure("sdpa", CPU, TINY, 50, documents, 32)
    assert spent > 0 and flops == device.training_flops(TINY, 50, documents)
    lengths = training.lengths(24, 480)
    assert min(lengths) >= 490 and max(lengths) < 540 and lengths == training.lengths(24, 480)


def test_tokenizer_table_and_its_operations(capsys, monkeypatch):
    tokenizer = module("gpu_tokenizer")
    settings = yaml.safe_load((ROOT / "stages" / "gpu" / "tok-scenes128.yaml").read_text())
    merge(settings, yaml.safe_load((ROOT / "tests" / "smoke" / "tokenizer.yaml").read_text()))
    settings["model"]["tokenizer"]["prefix_groups"] = 1
    training = tokenizer.Training(settings, CPU)
    before = training.step()
    assert torch.isfinite(before)
    run = read_settings(settings, 1)
    forward = measure(run, [run.items])[0].flops[FORWARD]
    # no gradient of the latents, hence a little below three times the forward; the diversity loss is a little more
    assert 2.3 * forward < training.flops() < 3.2 * forward
    monkeypatch.setattr(tokenizer.Training, "compile", lambda self: None)
    tokenizer.table("tiny", settings, CPU, 1e9)
    rows = numbers(capsys.readouterr().out)
    assert list(rows) == ["as it is", "compiled"] and all(row[1] > 0 for row in rows.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu_generation", "gpu_training", "gpu_tokenizer"])
def test_without_a_gpu_one_line_says_so(name, capsys):
    module(name).main()
    assert capsys.readouterr().out.strip().endswith("no CUDA device: skipped")
