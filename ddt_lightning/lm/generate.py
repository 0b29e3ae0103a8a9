"""Sampling from the language model: prompts (lists of ids) to image ids `[B, K]` or text ids.

The prompts go through the model once and their keys and values are kept; then every step feeds one id a row. Rows of
different lengths are padded on the left, with positions that start behind the padding. With guidance the unconditional
prompts are further rows of the same batch: logits = uncond + guidance * (cond - uncond). Only the rows of the head that
may be chosen are computed, so an image has exactly K image ids and a text none. A sample takes its random numbers from
its own seed, one per id: it does not depend on what else is in the batch. Models are those of `llm.py`, in eval mode.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from ddt_lightning.lm.cached_step import CachedModel, is_sharded
from ddt_lightning.lm.llama import Cache, Llama
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

LanguageModel = Union["PreTrainedModel", Llama]


def stream_image_ids(
    model: LanguageModel,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    unconditional: list[list[int]] | None = None,
    start: int,
    codebook_size: int,
    length: int,
    seeds: list[int],
    pad: int,
) -> Iterator[Tensor]:
    """The image that follows each prompt, id by id. Arguments are checked before the first one.

    Args:
        model: causal language model.
        prompts: B lists of ids that end with [BOV].
        sampling: guidance, temperature, top_k, top_p and compile; those of decoding are not used here.
        unconditional: B prompts without the condition; needed for guidance other than 1.
        start: LM id of image code 0.
        codebook_size: number of image codes.
        length: K, ids per image.
        seeds: one per prompt.
        pad: any valid id; what stands in the padding is never seen.

    Returns:
        K times int64 `[B]` in the model's order, offset removed: 0 .. codebook_size - 1.

    Raises:
        ValueError: lists of different lengths, guidance without its prompts, or a prompt too long for the model.
    """
    numbers = sampling.settled(planned=False)
    guidance, temperature = numbers.guidance or 0.0, numbers.temperature or 0.0
    if guidance != 1 and unconditional is None:
        raise ValueError(f"`guidance` ({guidance}) needs unconditional prompts: give them, or guidance 1.")
    branches = [prompts] if guidance == 1 or unconditional is None else [prompts, unconditional]
    if any(len(rows) != len(seeds) for rows in branches):
        raise ValueError(
            f"{len(prompts)} prompts need as many seeds and unconditional prompts, not {len(seeds)} seeds."
        )
    every = [row for branch in branches for row in branch]
    rows = _Rows(model, every, pad, length, start, start + codebook_size, sampling.compile)
    draws = _draws(seeds, length).to(model.device, _fine(model.device))

    @quiet(model)
    def steps() -> Iterator[Tensor]:
        logits = rows.prefill()
        for k in range(length):
            if len(branches) == 2:
                conditional, free = logits.chunk(2)
                logits = free + guidance * (conditional - free)
            chosen = _choose(logits, draws[:, k], temperature, sampling.top_k, sampling.top_p)
            yield chosen
            if k + 1 < length:
                logits = rows.step((chosen + start).repeat(len(branches)))

    return (chosen.clone() for chosen in steps())  # outside of inference mode: tensors like any other


@torch.no_grad()
def text_ids(
    model: LanguageModel,
    prompts: list[list[int]],
    *,
    text_size: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: list[int] | None = None,
    closed: Sequence[int] = (),
) -> list[list[int]]:
    """The text that follows each prompt, without the id that ends it: EOS, or [BOV] for a plan before an image.

    Args:
        model: causal language model.
        prompts: B lists of ids.
        text_size: ids below it may be chosen, and `eos`.
        eos: id that ends a text.
        pad: any valid id.
        max_new_tokens: where a text without an end is cut.
        temperature: 0 takes the likeliest id.
        seeds: one per prompt, needed for a temperature above 0.
        closed: text ids that are never chosen.

    Raises:
        ValueError: an option out of range, missing seeds, or a prompt too long for the model.
    """
    if temperature < 0:
        raise ValueError(f"`temperature` ({temperature}) must be 0 (likeliest id) or above.")
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"`temperature` ({temperature}) needs one seed for each of the {len(prompts)} prompts.")
    rows = _Rows(model, prompts, pad, max_new_tokens, 0, max(text_size, eos + 1), compile=False)
    barred = barred_ids(rows.high, text_size, eos, closed).to(model.device)
    draws = _draws(seeds or [0] * len(prompts), max_new_tokens).to(model.device, _fine(model.device))
    written: list[Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    logits = rows.prefill()
    for k in range(max_new_tokens):
        if barred.any():
            logits = logits.masked_fill(barred, -torch.inf)
        written.append(_choose(logits, draws[:, k], temperature, 0, 1.0))
        ended |= written[-1] == eos
        # where weights are sharded, every process takes part in the steps of all
        if (ended.all() and not is_sharded(model)) or k + 1 == max_new_tokens:
            break
        logits = rows.step(written[-1])
    texts = torch.stack(written, dim=1).tolist()
    return [text[: text.index(eos)] if eos in text else text for text in texts]


def barred_ids(size: int, text_size: int, end: int, closed: Sequence[int]) -> Tensor:
    """Mask of the first `size` ids, bool `[size]`, true where a text may not use one: all but open text and `end`."""
    barred = torch.arange(size) >= text_size
    barred[list(closed)] = True
    barred[end] = False
    return barred


class _Rows:
    """A batch of left-padded rows and what the model remembers of them.

    Args:
        model: causal language model.
        prompts: N lists of ids; those that recur are read once.
        pad: id to pad with.
        length: how many ids will follow.
        low: first id that may be chosen.
        high: one past the last.
        compile: compile the steps.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: list[list[int]],
        pad: int,
        length: int,
        low: int,
        high: int,
        compile: bool,
    ) -> None:
        limit = model.config.max_position_embeddings
        if not prompts or length < 1:
            raise ValueError(f"there must be at least one prompt and one id to add, not {len(prompts)} and {length}.")
        for number, prompt in enumerate(prompts):
            if not prompt or len(prompt) + length > limit:
                raise ValueError(
                    f"prompt {number} has {len(prompt)} ids; with {length} more it must have between {length + 1} and "
                    f"the model's limit of {limit}: change the prompt, or `model.network.max_length` in training."
                )
        self.model, self.length, self.low, self.high, self.compile = model, length, low, high, compile
        unique = {tuple(prompt): number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        longest = max(map(len, unique))
        self.ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in unique], device=model.device)
        self.padding = torch.tensor([longest - len(row) for row in unique], device=model.device)
        self.copies = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=model.device)

    def prefill(self) -> Tensor:
        """Logits `[N, high - low]` after the prompts."""
        index = torch.arange(self.ids.shape[1], device=self.ids.device)
        query, key, start = index[:, None], index, self.padding[:, None, None, None]
        # Padding looks at itself: a row of the softmax without any key would be NaN and spread.
        allowed = (key <= query) & (key >= start) | (key == query)  # [U, 1, P, P]
        positions = (index - self.padding[:, None]).clamp(min=0)
        cache: DynamicCache | Cache
        if isinstance(self.model, Llama):
            after, cache = self.model.read(self.ids, allowed, positions)
        else:
            after, cache = self._read(self.model, allowed, positions)
        logits = after[self.copies, self.low : self.high]
        padding = self.padding[self.copies]
        cached = CachedModel(self.model, cache, self.copies, padding, self.length - 1, self.low, self.high)
        self.step = torch.compile(cached.step, fullgraph=True) if self.compile else cached.step
        return logits.float()

    def _read(self, model: "PreTrainedModel", allowed: Tensor, positions: Tensor) -> "tuple[Tensor, DynamicCache]":
        """As `Llama.read`, by a model of transformers."""
        from transformers import DynamicCache

        mask: Tensor | dict[str, Tensor] = _mask(model, allowed)
        if getattr(model.config, "layer_types", None):
            index = torch.arange(self.ids.shape[1], device=self.ids.device)
            near = allowed & (index > index[:, None] - (model.config.sliding_window or len(index)))
            mask = {"full_attention": _mask(model, allowed), "sliding_attention": _mask(model, near)}
        cache = DynamicCache()  # of all ids in every layer, also where a window is near
        logits = model(
            input_ids=self.ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits, cache


def _mask(model: "PreTrainedModel", allowed: Tensor) -> Tensor:
    """Eager attention adds its mask; SDPA takes a boolean one, which fits every dtype."""
    if model.config._attn_implementation != "eager":
        return allowed
    dtype = model.dtype
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def quiet(model: LanguageModel) -> torch.no_grad | torch.inference_mode:
    """Without autograd, for a function or a generator. FSDP2 counts versions of tensors; inference mode has none."""
    return torch.no_grad() if is_sharded(model) else torch.inference_mode()


def _draws(seeds: list[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 `[B, length]`, row b from `seeds[b]` alone."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.rand(length, generator=g, dtype=torch.float64, device="cpu") for g in generators])


def _fine(device: torch.device) -> torch.dtype:
    """The finest dtype for sums over a codebook that the device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def _choose(logits: Tensor, draws: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """One id a row, int64 `[N]`, from logits `[N, C]` by inverting their distribution at `draws [N]`."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    order = None
    if 0 < top_k < logits.shape[1]:
        logits, order = logits.topk(top_k)
    elif top_p < 1:
        logits, order = logits.sort(descending=True)
    probabilities = logits.softmax(-1).to(draws.dtype)
    if order is not None and top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    reached = probabilities.cumsum(-1)
    # The first id beyond the drawn mass; rounding must not lead behind the last id with any probability.
    target = (draws * reached[:, -1]).minimum(reached[:, -1] * (1 - torch.finfo(draws.dtype).eps))
    index = torch.searchsorted(reached, target[:, None], right=True)
    return (index if order is None else order.gather(1, index))[:, 0]
