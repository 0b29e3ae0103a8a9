"""The step with a static cache against the whole sequence through transformers, sharing of prompts, and compilation."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import DynamicCache, GemmaConfig, GemmaForCausalLM

from ddt_lightning.lm.cached_step import CachedModel
from tests.lm.test_generate import CODES, MAKERS, TEXT

PROMPTS = [[1, 5, 9, 70], [1, 4, 8, 15, 16, 23, 28, 7, 9, 3, 70], [1, 70]]
COPIES = [2, 0, 1, 0]  # a row goes on from any prompt
STEPS = 14  # past the window of 6 and past the longest prompt
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
MAKERS = {
    **MAKERS,
    "gemma": lambda: GemmaForCausalLM(
        GemmaConfig(vocab_size=72, num_key_value_heads=1, initializer_range=0.4, max_position_embeddings=40, **SIZES)
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def model(request):
    torch.manual_seed(0)
    made = MAKERS[request.param]().eval()
    with torch.no_grad():  # norms that do something
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return made


@torch.no_grad()
def cached(model, low=TEXT, high=TEXT + CODES):
    """Prompts one by one through transformers, their keys and values put behind their padding."""
    longest = max(map(len, PROMPTS))
    cache = DynamicCache()
    for layer in range(model.config.num_hidden_layers):
        states = []
        for prompt in PROMPTS:
            own = DynamicCache()
            model(torch.tensor([prompt]), past_key_values=own)
            padding = (0, 0, longest - len(prompt), 0)
            states.append(
                [torch.nn.functional.pad(s, padding) for s in (own.layers[layer].keys, own.layers[layer].values)]
            )
        cache.update(*(torch.cat(s) for s in zip(*states, strict=True)), layer)
    padding = torch.tensor([longest - len(PROMPTS[copy]) for copy in COPIES])
    return CachedModel(model, cache, torch.tensor(COPIES), padding, STEPS, low, high)


def steps():
    return torch.randint(0, 72, (STEPS, len(COPIES)), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_step_is_the_whole_sequence_through_transformers(model):
    used, fed = cached(model), steps()
    for n in range(STEPS):
        logits = used.step(fed[n])
        for row, copy in enumerate(COPIES):
            whole = torch.tensor([PROMPTS[copy] + fed[: n + 1, row].tolist()])
            expected = model(whole, use_cache=False).logits[0, -1, TEXT : TEXT + CODES]
            assert (logits[row] - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_one_graph_for_all_steps(model):
    """Without a break of the graph, without a second one, and with equal logits."""
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    plain, used, fed = cached(model), cached(model), steps()
    compiled = torch.compile(used.step, fullgraph=True, backend=graphs)
    for ids in fed:
        expected = plain.step(ids)
        assert (compiled(ids) - expected).abs().max() < 1e-5 * expected.abs().max()
    again = torch.compile(cached(model).step, fullgraph=True, backend=graphs)  # the next images
    again(fed[0])
    assert graphs.frame_count == 1


@torch.no_grad()
def test_only_ids_that_may_be_chosen_are_computed(model):
    whole, part = cached(model, 0, 72), cached(model, 30, 35)
    logits = whole.step(steps()[0])
    assert logits.shape == (len(COPIES), 72)
    assert torch.allclose(logits[:, 30:35], part.step(steps()[0]), atol=1e-6 * float(logits.abs().max()))
