"""Generation against transformers' own, against the model without a cache, and against the distribution."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ddt_lightning.lm.generate import _choose, _draws, stream_image_ids, text_ids
from ddt_lightning.sampling import Sampling
from tests.tiny import image_ids

TEXT, CODES, K = 30, 40, 9  # text 0..29 (pad 0, bos 1, eos 2), image 30..69, [BOV] 70, [EOV] 71
SIZES = {
    "vocab_size": TEXT + CODES + 2, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 40,
    "initializer_range": 0.4, "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA = {**SIZES, "query_pre_attn_scalar": 8, "sliding_window": 6}
MAKERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GEMMA, final_logit_softcapping=5.0, attn_implementation="eager")
    ),
    "gemma3_text": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA)),
}
PROMPTS = [[1, 5, 9, 70], [1, 70], [1, 4, 8, 15, 16, 23, 28, 7, 9, 3, 70], [1, 5, 9, 70]]
FREE = [[1, 70], [1, 70], [1, 6, 70], [1, 70]]
IMAGE = {"start": TEXT, "codebook_size": CODES, "length": K, "pad": 0}
SEEDS = [3, 1, 4, 1]
PLAIN = Sampling(guidance=1.0, temperature=1.0)


@pytest.fixture(scope="module", params=MAKERS)
def model(request):
    torch.manual_seed(0)
    return MAKERS[request.param]().eval()


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return MAKERS["llama"]().eval()


class Only(LogitsProcessor):
    def __init__(self, low, high):
        self.low, self.high = low, high

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, self.low : self.high] = scores[:, self.low : self.high]
        return allowed


def generated(model, prompts, low, high, count, eos=71):
    """Greedy ids of transformers.generate, without the prompts."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        eos_token_id=eos,
        max_new_tokens=count,
        logits_processor=LogitsProcessorList([Only(low, high)]),
    )
    return out[:, longest:]


@torch.no_grad()
def uncached(model, prompts, free, guidance, choose):
    """The same without cache, padding or batch: the whole sequence of one prompt every time."""
    images = []
    for b, prompt in enumerate(prompts):
        image = []
        for k in range(K):
            tail = [i + TEXT for i in image]
            logits = model(torch.tensor([prompt + tail])).logits[:, -1, TEXT : TEXT + CODES]
            if free is not None:
                without = model(torch.tensor([free[b] + tail])).logits[:, -1, TEXT : TEXT + CODES]
                logits = without + guidance * (logits - without)
            image.append(int(choose(logits, b, k)))
        images.append(image)
    return torch.tensor(images)


def test_greedy_is_transformers_generate(model):
    ours = image_ids(model, PROMPTS, seeds=SEEDS, temperature=0.0, **IMAGE)
    theirs = generated(model, PROMPTS, TEXT, TEXT + CODES, K) - TEXT
    assert ours.equal(theirs)
    assert ours.dtype == torch.int64 and len(ours.unique()) > K  # not one id over and over


def test_greedy_with_guidance_is_the_model_without_a_cache(model):
    ours = image_ids(model, PROMPTS, unconditional=FREE, guidance=2.5, seeds=SEEDS, temperature=0.0, **IMAGE)
    plain = image_ids(model, PROMPTS, seeds=SEEDS, temperature=0.0, **IMAGE)
    assert ours.equal(uncached(model, PROMPTS, FREE, 2.5, lambda logits, b, k: logits.argmax()))
    assert not ours.equal(plain)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 12, "top_p": 0.8}, {"top_p": 0.9}])
def test_sampled_with_guidance_is_the_model_without_a_cache(model, options):
    draws = _draws(SEEDS, K)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **options}
    expected = uncached(
        model, PROMPTS, FREE, 1.5, lambda logits, b, k: _choose(logits, draws[b : b + 1, k], *settings.values())
    )
    ours = image_ids(model, PROMPTS, unconditional=FREE, guidance=1.5, seeds=SEEDS, **settings, **IMAGE)
    assert ours.equal(expected)
    assert ours.min() >= 0 and ours.max() < CODES and ours.shape == (4, K)


def test_a_sample_does_not_depend_on_its_neighbours(model):
    options = {"guidance": 1.5, "top_p": 0.9, **IMAGE}
    together = image_ids(model, PROMPTS, unconditional=FREE, seeds=SEEDS, **options)
    for b in range(4):
        alone = image_ids(model, PROMPTS[b : b + 1], unconditional=FREE[b : b + 1], seeds=SEEDS[b : b + 1], **options)
        assert alone[0].equal(together[b])
    assert not together[0].equal(together[3])  # one prompt, two seeds
    swapped = image_ids(model, PROMPTS[::-1], unconditional=FREE[::-1], seeds=SEEDS[::-1], **options)
    assert swapped.flip(0).equal(together)


def test_guidance_1_is_none(llama):
    plain = image_ids(llama, PROMPTS, seeds=SEEDS, **IMAGE)
    assert plain.equal(image_ids(llama, PROMPTS, unconditional=FREE, guidance=1.0, seeds=SEEDS, **IMAGE))
    nearly = image_ids(llama, PROMPTS, unconditional=FREE, guidance=1.0 + 1e-6, seeds=SEEDS, **IMAGE)
    assert plain.equal(nearly)
    zero = image_ids(llama, PROMPTS, unconditional=FREE, guidance=0.0, seeds=SEEDS, **IMAGE)
    assert zero.equal(image_ids(llama, FREE, seeds=SEEDS, **IMAGE))


def test_stream_yields_the_image_id_by_id(llama):
    stream = stream_image_ids(llama, PROMPTS, PLAIN, seeds=SEEDS, **IMAGE)
    first = next(stream)
    assert first.shape == (4,)
    assert torch.is_grad_enabled() and not first.is_inference()  # between the steps the caller's mode holds
    assert torch.stack([first, *stream], 1).equal(image_ids(llama, PROMPTS, seeds=SEEDS, **IMAGE))


def test_what_stands_in_the_padding_is_never_seen(model):
    options = {"seeds": SEEDS, **IMAGE}
    assert image_ids(model, PROMPTS, **options).equal(image_ids(model, PROMPTS, **{**options, "pad": 17}))


def test_draws_follow_the_distribution():
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    count = 40_000
    draws = torch.cat([_draws([seed], 100)[0] for seed in range(count // 100)])
    assert 0 <= draws.min() and draws.max() < 1
    for temperature, top_k, top_p in [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.7), (1.2, 6, 0.8)]:
        warped = TemperatureLogitsWarper(temperature)(None, logits)
        warped = TopKLogitsWarper(top_k)(None, warped) if top_k else warped
        expected = (TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped).softmax(-1)[0]
        chosen = _choose(logits.expand(count, -1), draws, temperature, top_k, top_p)
        found = chosen.bincount(minlength=12) / count
        assert (found[expected == 0] == 0).all()
        assert (found - expected).abs().max() < 5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.5)])
def test_extreme_draws_choose_possible_ids(top_k, top_p):
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf, -200.0]])
    for draw in (0.0, 1 - 2**-53):
        assert _choose(logits, torch.tensor([draw], dtype=torch.float64), 1.0, top_k, top_p) in (1, 2)


def test_seeds_are_streams_of_their_own():
    assert _draws([7, 8], 5)[1].equal(_draws([8], 5)[0])
    assert _draws([7], 9)[0, :5].equal(_draws([7], 5)[0])


def test_greedy_text_is_transformers_generate(model):
    eos = int(generated(model, PROMPTS, 0, TEXT, 5)[2, 4])  # an id that surely comes up ends the texts
    theirs = generated(model, PROMPTS, 0, TEXT, 12, eos).tolist()
    expected = [row[: row.index(eos)] if eos in row else row for row in theirs]
    ours = text_ids(model, PROMPTS, text_size=TEXT, eos=eos, pad=0, max_new_tokens=12)
    assert ours == expected
    assert len(ours[2]) <= 4 and all(i < TEXT for row in ours for i in row)


def test_sampled_text(llama):
    options = {"text_size": TEXT, "eos": 2, "pad": 0, "max_new_tokens": 12, "temperature": 1.0}
    together = text_ids(llama, PROMPTS, seeds=SEEDS, **options)
    assert [text_ids(llama, [p], seeds=[s], **options)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)] == together
    assert text_ids(llama, PROMPTS, seeds=[9, 9, 9, 9], **options) != together
    with pytest.raises(ValueError, match=r"`temperature` \(1\.0\)"):
        text_ids(llama, PROMPTS, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"guidance": 2.0}, "guidance"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seeds": [1]}, "seeds"),
        ({"guidance": 2.0, "unconditional": FREE[:1]}, "unconditional"),
        ({"length": 30}, "prompt 2 has 11 ids; with 30 more .* 40"),
        ({"length": 0}, "one id"),
    ],
)
def test_options_are_checked_before_the_first_step(llama, options, named):
    with pytest.raises(ValueError, match=named):
        sampling = replace(PLAIN, **{key: options[key] for key in vars(PLAIN).keys() & options.keys()})
        ids = {"seeds": SEEDS, **IMAGE, **{key: options[key] for key in options.keys() - vars(PLAIN).keys()}}
        stream_image_ids(llama, PROMPTS, sampling, **ids)


def test_no_prompt_is_refused(llama):
    for prompts in ([], [[]]):
        with pytest.raises(ValueError, match="prompt"):
            image_ids(llama, prompts, seeds=SEEDS[: len(prompts)], **IMAGE)


def test_the_longest_image_fits(llama):
    length = 40 - len(PROMPTS[2])
    assert image_ids(llama, PROMPTS, seeds=SEEDS, **{**IMAGE, "length": length}).shape == (4, length)


@pytest.mark.parametrize("mode", ["autocast", "weights"])
def test_low_precision(mode):
    torch.manual_seed(0)
    model = MAKERS["gemma2"]().eval()
    model = model.bfloat16() if mode == "weights" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        image = image_ids(model, PROMPTS, unconditional=FREE, guidance=2.0, seeds=SEEDS, **IMAGE)
    assert image.shape == (4, K) and image.min() >= 0 and image.max() < CODES


def test_sharded_model(model, tmp_path, request):
    """A model under FSDP2 gives the same ids as before it was sharded."""
    options = {"unconditional": FREE, "guidance": 2.0, "seeds": SEEDS, **IMAGE}
    expected = image_ids(model, PROMPTS, **options)
    torch.manual_seed(0)
    sharded = MAKERS[request.node.callspec.params["model"]]().eval()
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in sharded.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        assert image_ids(sharded, PROMPTS, **options).equal(expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_plan_is_text_until_the_image_begins(llama):
    """Greedy plans against transformers' own generation with the same ids allowed: text and [BOV], no BOS, EOS, PAD."""
    allowed = torch.tensor([*range(3, TEXT), 70])

    class Open(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return torch.full_like(scores, -torch.inf).index_copy(1, allowed, scores[:, allowed])

    prompts = [prompt[:-1] for prompt in PROMPTS]
    expected = []
    for prompt in prompts:
        asked = torch.tensor([prompt])
        processors = LogitsProcessorList([Open()])
        out = llama.generate(
            asked, attention_mask=torch.ones_like(asked), do_sample=False, eos_token_id=70, max_new_tokens=20,
            logits_processor=processors,
        )  # fmt: skip
        written = out[0, len(prompt) :].tolist()
        expected.append(written[: written.index(70)] if 70 in written else written)
    options = {"text_size": TEXT, "eos": 70, "pad": 0, "max_new_tokens": 20, "closed": [0, 1, 2]}
    assert text_ids(llama, prompts, **options) == expected
    sampled = text_ids(llama, prompts * 10, temperature=3.0, seeds=list(range(40)), **options)
    assert all(3 <= i < TEXT for row in sampled for i in row)
    assert min(map(len, sampled)) < 20  # [BOV] comes up
