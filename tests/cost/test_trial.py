"""Measured steps against arithmetic: weights, gradients and moments by counting, products by formulas of the layers."""

import json
import resource
import time
from dataclasses import replace

import pytest
import torch

from ddt_lightning.cost.budget import GIB
from ddt_lightning.cost.depth import extrapolated
from ddt_lightning.cost.ledger import (
    ACTIVATIONS,
    AVERAGES,
    BACKWARD,
    FORWARD,
    GRADIENTS,
    HEAD,
    LOSS,
    OPTIMISER,
    STEP,
    WEIGHTS,
    WORKING,
)
from ddt_lightning.cost.settings import assembled, read_settings
from ddt_lightning.cost.trial import measure
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig

WIDTH, DEPTH, FFN, TEXT, CODES, TOKENS = 32, 3, 64, 300, 24, 6
TINY = {
    "tokens": 8, "codebook_size": 32, "code_dim": 4, "latent_size": 16, "patch": 4,
    "encoder": {"depth": 1, "image_width": 16, "image_heads": 2, "query_width": 32, "query_heads": 2},
    "decoder": {"depth": 2, "heads": 2, "head_dim": 16},
    "quantizer": {"diversity_weight": 0.0},
}  # fmt: skip


@pytest.fixture
def tokenizer(tmp_path):
    """YAML of the stage whose ids are learned."""
    file = tmp_path / "tok.yaml"
    file.write_text(f"model: {{tokenizer: {{tokens: {TOKENS}, codebook_size: {CODES}}}}}\n")
    return str(file)


def language(tokenizer, processes=1, replicas=1, tensor_parallel=1, **model):
    network = {"width": WIDTH, "depth": DEPTH, "heads": 4, "kv_heads": 4, "ffn_width": FFN, "tie_embeddings": False}
    strategy = {"class_path": "ddt_lightning.training.parallel.FullyShardedStrategy"}
    sharded = {"strategy": {**strategy, "init_args": {"replicas": replicas, "tensor_parallel": tensor_parallel}}}
    values = {
        "model": {"network": network, "optim": {}, **model},
        "data": {"batch_size": 8, "text_vocab_size": TEXT, "max_length": 40},
        "trainer": sharded if processes > 1 else {},
    }
    return read_settings(values, processes, tokenizer)


def test_language_model_in_one_process_and_sharded(tokenizer):
    settings = language(tokenizer)
    vocab = TEXT + CODES + 2
    block = 4 * WIDTH**2 + 3 * WIDTH * FFN + 2 * WIDTH
    parameters = DEPTH * block + 2 * vocab * WIDTH + WIDTH
    rows, length = settings.items, settings.length
    assert (rows, length) == (8, 40)
    one = measure(settings, [rows])[0]
    assert one.parameters == parameters and one.network == 0
    end = one.peaks[STEP]
    assert end[GRADIENTS] == 4 * parameters and end[OPTIMISER] == pytest.approx(8 * parameters, rel=0.01)
    assert end[WEIGHTS] == pytest.approx(4 * parameters, rel=0.01)
    assert end[WORKING] == pytest.approx(4 * parameters, rel=0.05)  # square roots of all second moments at once
    # products: of weights, of attention, of the head at all but the last position of a row
    forward = rows * length * 2 * DEPTH * (block - 2 * WIDTH) + 4 * DEPTH * rows * length**2 * WIDTH
    assert one.flops[FORWARD] == forward and one.flops[BACKWARD] == 2 * forward
    assert one.flops[LOSS] == 3 * 2 * rows * (length - 1) * vocab * WIDTH
    # logits of a chunk and the gradient of the head
    assert one.peaks[LOSS][HEAD] > 4 * vocab * WIDTH + 4 * rows * (length - 1) * vocab

    processes = 4
    split = measure(language(tokenizer, processes), [rows // processes])[0]
    for kind in (WEIGHTS, GRADIENTS, OPTIMISER):
        assert split.peaks[STEP][kind] == pytest.approx(one.peaks[STEP][kind] / processes, rel=0.03)
    assert sum(split.flops.values()) * processes == sum(one.flops.values())
    # weights are gathered for forward and, but for the root's, for backward, and all gradients are scattered
    root = 2 * vocab * WIDTH + WIDTH
    sent = 4 * (2 * parameters + parameters - root) * (processes - 1) / processes
    assert split.network == pytest.approx(sent, rel=0.05) and split.between == 0

    copies = measure(language(tokenizer, processes, replicas=2), [rows // processes])[0]
    for kind in (WEIGHTS, GRADIENTS, OPTIMISER):
        assert copies.peaks[STEP][kind] == pytest.approx(one.peaks[STEP][kind] / 2, rel=0.03)
    assert copies.flops == split.flops and copies.parts == split.parts
    # each of two holds half of the gradients, and sums them with the one of the other copy that holds the same
    assert copies.between == pytest.approx(2 * 4 * parameters / 2 * 1 / 2, rel=0.05)
    assert copies.network - copies.between == pytest.approx(sent * (1 / 2) / (3 / 4), rel=0.05)


def test_language_model_whose_layers_are_divided(tokenizer):
    """Two groups of two processes; the rows of a group pass before and behind attention and the feed-forward layer."""
    processes, group, rows = 4, 2, 2
    whole = measure(language(tokenizer, processes), [rows])[0]
    divided = measure(language(tokenizer, processes, tensor_parallel=group), [rows])[0]
    assert divided.flops == whole.flops and divided.parts == whole.parts
    for kind in (WEIGHTS, GRADIENTS, OPTIMISER):
        assert divided.peaks[STEP][kind] == pytest.approx(whole.peaks[STEP][kind], rel=0.01)
    layers, vocab = DEPTH * (4 * WIDTH**2 + 3 * WIDTH * FFN), TEXT + CODES + 2
    rest = 2 * (2 * vocab * WIDTH + WIDTH) + 3 * DEPTH * 2 * WIDTH  # the root is gathered once, and scattered
    between = 4 * (3 * layers / group * 1 / 2 + rest * 3 / 4)
    assert divided.between == pytest.approx(between, rel=0.02)
    states = 4 * group * rows * 40 * WIDTH
    masks = group * rows * 40 * 40  # once for all layers
    assert divided.network - divided.between == pytest.approx((DEPTH * 2 * 4 * states + masks) * 1 / 2, rel=0.001)


def test_gemma_out_of_its_sizes_alone(tokenizer, tmp_path):
    """Its embedding has a scale, a buffer of no dimension that a number makes."""
    sizes = {
        "model_type": "gemma2", "vocab_size": TEXT, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    attention, feed = 16 * WIDTH * (2 + 1 + 1 + 2), 3 * WIDTH * FFN
    weights = (TEXT + CODES + 2) * WIDTH + 2 * (attention + feed + 4 * WIDTH) + WIDTH
    for processes in (1, 2):
        settings = language(tokenizer, processes, network=None, llm=str(tmp_path))
        assert measure(settings, [2])[0].parameters == weights


def test_checkpointing_keeps_a_row_of_states_for_each_block(tokenizer):
    kept = measure(language(tokenizer), [8])[0]
    again = measure(language(tokenizer, parallel={"activation_checkpointing": True}), [8])[0]
    # a block's last product is not done once more: nothing in its backward pass needs what comes out
    assert again.recomputed == kept.flops[FORWARD] - DEPTH * 2 * 8 * 40 * WIDTH * FFN and kept.recomputed == 0
    assert again.flops == kept.flops
    states = 4 * 8 * 40 * WIDTH
    assert again.peaks[LOSS][ACTIVATIONS] < (DEPTH + 4) * states < 0.5 * kept.peaks[LOSS][ACTIVATIONS]


def test_tokenizer_products_are_those_of_the_real_network():
    run = read_settings({"model": {"tokenizer": TINY, "optim": {}}, "data": {"batch_size": 1}}, 1)
    one = measure(run, [1])[0]
    tokenizer = Tokenizer(TokenizerConfig.from_dict(TINY)).eval()
    assert one.parameters == sum(p.numel() for p in tokenizer.parameters() if p.requires_grad)
    products = [2 * 32 * 4 * 8]  # features against the codebook

    def linear(module, inputs, output):
        products.append(2 * module.weight.numel() * output.numel() // output.shape[-1])

    def patches(module, inputs, output):
        products.append(2 * module.weight.numel() * output[0, 0].numel())

    for module in tokenizer.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(patches)
    x = torch.zeros(1, 3, 16, 16)
    tokenizer.output(x, torch.zeros(1), tokenizer.embed(tokenizer.encode(x)), None)
    # queries attend to 16 patches and 8 tokens; patches and tokens in the decoder to one another
    attention = 4 * 8 * 24 * 32 + 4 * 24 * 24 * 32 + 4 * 16 * 24 * 32
    assert one.flops[FORWARD] == sum(products) + attention


def test_prefixes_of_groups_are_whole():
    def run(groups):
        values = {"model": {"tokenizer": {**TINY, "prefix_groups": groups}, "optim": {}}, "data": {"batch_size": 4}}
        return measure(read_settings(values, 1), [4])[0].flops[FORWARD]

    assert run(2) == pytest.approx(run(1), rel=0.05)


def test_sharded_tokenizer():
    strategy = {"class_path": "ddt_lightning.training.parallel.FullyShardedStrategy"}
    model, data = {"tokenizer": TINY, "optim": {}}, {"batch_size": 4}
    one = measure(read_settings({"model": model, "data": data}, 1), [2])[0]
    values = {"model": model, "data": data, "trainer": {"strategy": strategy}}
    split = measure(read_settings(values, 2), [2])[0]
    for kind in (GRADIENTS, OPTIMISER):
        assert split.peaks[STEP][kind] == pytest.approx(one.peaks[STEP][kind] / 2, rel=0.03)
    assert split.flops == one.flops and split.parameters == one.parameters
    with pytest.raises(ValueError, match="shards language models and DDT tokenizers"):
        read_settings({**values, "model": {"renderer": {}, "optim": {}}}, 2)


def test_averages_and_buckets_are_copies_of_the_weights():
    average = {"class_path": "ddt_lightning.training.averaging.EmaWeightAveraging"}
    values = {"model": {"tokenizer": TINY, "optim": {}}, "data": {"batch_size": 4}}
    plain = measure(read_settings(values, 1), [2])[0]
    values["trainer"] = {"callbacks": [average]}
    both = measure(read_settings(values, 2), [2])[0]
    assert both.peaks[STEP][AVERAGES] == 4 * plain.parameters
    assert both.peaks[STEP][GRADIENTS] == 2 * plain.peaks[STEP][GRADIENTS]
    assert both.network > 2 * 4 * plain.parameters * 1 / 2


def test_a_deep_model_lies_on_the_line_through_two_shallow_ones(tokenizer):
    settings = language(tokenizer, 2)
    network = {**settings.model["network"], "depth": 16}
    deep = replace(settings, model={**settings.model, "network": network}, depth=16)
    whole, line = measure(deep, [3])[0], extrapolated(deep, [3])[0]
    for phase, kinds in whole.peaks.items():
        assert sum(line.peaks[phase].values()) == pytest.approx(sum(kinds.values()), rel=0.05)
    assert (line.flops, line.parts, line.recomputed) == (whole.flops, whole.parts, whole.recomputed)
    assert line.network == pytest.approx(whole.network, rel=0.01)


def test_every_stage_can_be_measured():
    rewards = {"rewards": {"ddt_lightning.rl.rewards.shapes": 1.0}, "practice": {"group": 2}}
    sizes = {"network": {"width": 32, "depth": 1, "heads": 2, "kv_heads": 2, "ffn_width": 32}, "optim": {}}
    stages = ("stages/tok.yaml", "stages/vqgan.yaml", "stages/var.yaml", "stages/renderer.yaml", "stages/instruct.yaml")
    for file in stages:
        run = read_settings(assembled([file], {}), 1)
        assert measure(run, [2])[0].flops[BACKWARD] > 0, file
    practice = measure(read_settings({"model": {**sizes, **rewards}, "data": {"batch_size": 2}}, 1), [2])[0]
    assert practice.frozen > practice.parameters and practice.flops[LOSS] > practice.flops[FORWARD]


def test_llama_3_8b_with_image_ids_on_eight_processes():
    """Every term within a tenth of the arithmetic, in a minute and 4 GB."""
    before = time.process_time()
    change = {"model.llm": "stages/paper/llama3-8b"}
    settings = read_settings(assembled(["stages/paper/pretrain-llama3-8b.yaml"], change), 8,
                             "stages/paper/tok-ddt.yaml")  # fmt: skip
    vocab, width, depth, ranks = 128256 + 65536 + 2, 4096, 32, 8
    assert settings.ids.size == vocab and settings.sharded
    one = measure(settings, [1])[0]
    assert time.process_time() - before < 60 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20
    table, block = vocab * width, 2 * width**2 + 2 * width * 1024 + 3 * width * 14336 + 2 * width
    parameters = 2 * table + depth * block + width
    assert one.parameters == parameters
    share = 4 * parameters / ranks
    expected = {WEIGHTS: share, GRADIENTS: share, OPTIMISER: 2 * share, WORKING: share}
    assert {kind: one.peaks[STEP][kind] for kind in expected} == pytest.approx(expected, rel=0.1)
    length = settings.length
    # a state in fp32 or bf16 of every block; the head's gradient, the root's gradients before they are scattered
    states = depth * length * width
    assert 0.9 * 2 * states < one.peaks[LOSS][ACTIVATIONS] < 1.1 * 4 * states + 4 * GIB
    assert one.peaks[BACKWARD][HEAD] == pytest.approx(3 * 4 * table, rel=0.1)
    products = 6 * length * (depth * (block - 2 * width) + table) + 12 * depth * length**2 * width
    assert sum(one.flops.values()) == pytest.approx(products, rel=0.1)
    sent = (2 * 2 * depth * block + 2 * 2 * table + 4 * parameters) * (ranks - 1) / ranks
    assert one.network == pytest.approx(sent, rel=0.1)
