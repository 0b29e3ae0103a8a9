"""Sampling from the language model: prompts (lists of ids) to image ids `[B, K]` or text ids.

The prompts go through the model once and their keys and values are kept; then every step feeds one id a row. Rows of
different lengths are padded on the left, with positions that start behind the padding. With guidance the unconditional
prompts are further rows of the same batch: logits = uncond + guidance * (cond - uncond). Only the rows of the head that
may be chosen are computed, so an image has exactly K image ids and a text none. A sample takes its random numbers from
its own seed, one per id: it does not depend on what else is in the batch. Models are those of `llm.py`, in eval mode.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


def image_ids(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    unconditional: list[list[int]] | None = None,
    start: int,
    codebook_size: int,
    length: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seeds: list[int],
    pad: int,
) -> Tensor:
    """The image that follows each prompt.

    Args:
        model: causal language model.
        prompts: B lists of ids that end with [BOV].
        unconditional: B prompts without the condition; needed for `guidance` other than 1.
        start: LM id of image code 0.
        codebook_size: number of image codes.
        length: K, ids per image.
        guidance: 1 is the plain model.
        temperature: 0 takes the likeliest id.
        top_k: sample among the k likeliest ids; 0 for all.
        top_p: sample among the likeliest ids that together reach this probability.
        seeds: one per prompt.
        pad: any valid id; what stands in the padding is never seen.

    Returns:
        int64 `[B, K]` in the model's order, offset removed: 0 .. codebook_size - 1.

    Raises:
        ValueError: an option out of range, lists of different lengths, or a prompt too long for the model.
    """
    stream = stream_image_ids(
        model,
        prompts,
        unconditional=unconditional,
        start=start,
        codebook_size=codebook_size,
        length=length,
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seeds=seeds,
        pad=pad,
    )
    return torch.stack(list(stream), dim=1)


def stream_image_ids(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    unconditional: list[list[int]] | None = None,
    start: int,
    codebook_size: int,
    length: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seeds: list[int],
    pad: int,
) -> Iterator[Tensor]:
    """As `image_ids`, but yields int64 `[B]` after every step. Arguments are checked before the first one."""
    if guidance != 1 and unconditional is None:
        raise ValueError(f"`guidance` ({guidance}) needs unconditional prompts: give them, or guidance 1.")
    branches = [prompts] if guidance == 1 or unconditional is None else [prompts, unconditional]
    if any(len(rows) != len(seeds) for rows in branches):
        raise ValueError(
            f"{len(prompts)} prompts need as many seeds and unconditional prompts, not {len(seeds)} seeds."
        )
    _check_sampling(temperature, top_k, top_p)
    rows = _Rows(model, [row for branch in branches for row in branch], pad, length, start, start + codebook_size)
    draws = _draws(seeds, length).to(model.device, _fine(model.device))

    @torch.no_grad()
    def steps() -> Iterator[Tensor]:
        logits = rows.prefill()
        for k in range(length):
            if len(branches) == 2:
                conditional, free = logits.chunk(2)
                logits = free + guidance * (conditional - free)
            chosen = _choose(logits, draws[:, k], temperature, top_k, top_p)
            yield chosen
            if k + 1 < length:
                logits = rows.step((chosen + start).repeat(len(branches)))

    return steps()


@torch.no_grad()
def text_ids(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    text_size: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: list[int] | None = None,
) -> list[list[int]]:
    """The text that follows each prompt, without the EOS that ends it.

    Args:
        model: causal language model.
        prompts: B lists of ids.
        text_size: ids below it may be chosen.
        eos: id that ends a text.
        pad: any valid id.
        max_new_tokens: where a text without EOS is cut.
        temperature: 0 takes the likeliest id.
        seeds: one per prompt, needed for a temperature above 0.

    Raises:
        ValueError: an option out of range, missing seeds, or a prompt too long for the model.
    """
    _check_sampling(temperature, 0, 1.0)
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"`temperature` ({temperature}) needs one seed for each of the {len(prompts)} prompts.")
    rows = _Rows(model, prompts, pad, max_new_tokens, 0, text_size)
    draws = _draws(seeds or [0] * len(prompts), max_new_tokens).to(model.device, _fine(model.device))
    written: list[Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    logits = rows.prefill()
    for k in range(max_new_tokens):
        written.append(_choose(logits, draws[:, k], temperature, 0, 1.0))
        ended |= written[-1] == eos
        if ended.all() or k + 1 == max_new_tokens:
            break
        logits = rows.step(written[-1])
    texts = torch.stack(written, dim=1).tolist()
    return [text[: text.index(eos)] if eos in text else text for text in texts]


class _Layer(DynamicLayer):
    """Keys and values of one layer in memory taken once: the first call fills in the prompts, later ones append.

    Args:
        copies: int64 `[N]`, for every row the prompt it goes on from; prompts that recur are computed once.
        capacity: prompt and answer together.
    """

    def __init__(self, copies: Tensor, capacity: int) -> None:
        super().__init__()
        self.copies, self.capacity, self.length = copies, capacity, 0

    def get_seq_length(self) -> int:
        return self.length

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        old, self.length = self.length, self.length + key_states.shape[2]
        if old == 0:
            self.all_keys, self.all_values = self._fill(key_states), self._fill(value_states)
            return key_states, value_states
        self.all_keys[:, :, old : self.length] = key_states
        self.all_values[:, :, old : self.length] = value_states
        return self.all_keys[:, :, : self.length], self.all_values[:, :, : self.length]

    def _fill(self, states: Tensor) -> Tensor:
        _, heads, length, width = states.shape
        kept = states.new_empty(len(self.copies), heads, self.capacity, width)
        kept[:, :, :length] = states[self.copies]
        return kept


class _Rows:
    """A batch of left-padded rows and what the model remembers of them.

    Args:
        model: causal language model.
        prompts: N lists of ids.
        pad: id to pad with.
        length: how many ids will follow.
        low: first id that may be chosen.
        high: one past the last.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: list[list[int]], pad: int, length: int, low: int, high: int
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
        self.model, self.low, self.high = model, low, high
        unique = {tuple(prompt): number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        longest = max(map(len, unique))
        padding = torch.tensor([longest - len(prompt) for prompt in unique], device=model.device)[:, None]
        self.ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in unique], device=model.device)
        index = torch.arange(longest + length, device=model.device)
        self.seen = index >= padding  # [U, P + length], True where a key may be looked at
        self.positions = (index - padding).clamp(min=0)  # [U, P + length]
        self.copies = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=model.device)
        self.windows = bool(getattr(model.config, "layer_types", None))
        layers: list[Any] = [_Layer(self.copies, longest + length) for _ in range(model.config.num_hidden_layers)]
        self.cache = Cache(layers=layers)

    def prefill(self) -> Tensor:
        """Logits `[N, high - low]` after the prompts."""
        logits = self._logits(self.ids, 0)[self.copies]
        self.seen, self.positions = self.seen[self.copies], self.positions[self.copies]
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Logits `[N, high - low]` after `ids [N]`, the rows' next ids."""
        return self._logits(ids[:, None], self.cache.get_seq_length())

    def _logits(self, ids: Tensor, old: int) -> Tensor:
        new = old + ids.shape[1]
        query = torch.arange(old, new, device=ids.device)[:, None]
        key = torch.arange(new, device=ids.device)
        # Padding looks at itself: a row of the softmax without any key would be NaN and spread.
        allowed = (key <= query) & self.seen[:, None, None, :new] | (key == query)  # [N, 1, n, new]
        mask: Tensor | dict[str, Tensor]
        if not self.windows:
            mask = self._mask(allowed)
        else:
            near = allowed & (key > query - (self.model.config.sliding_window or new))
            mask = {"full_attention": self._mask(allowed), "sliding_attention": self._mask(near)}
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self.positions[:, old:new],
            "past_key_values": self.cache,
            "use_cache": True,
        }
        weight = self.model.get_output_embeddings().weight
        if isinstance(weight, DTensor):  # a sharded model gathers its weights only in its own forward
            return self.model(**inputs, logits_to_keep=1).logits[:, -1, self.low : self.high].float()
        hidden = self.model.base_model(**inputs).last_hidden_state[:, -1]  # [N, D]
        logits = F.linear(hidden, weight[self.low : self.high])
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return (cap * torch.tanh(logits / cap) if cap else logits).float()

    def _mask(self, allowed: Tensor) -> Tensor:
        """Eager attention adds its mask; SDPA takes a boolean one, which fits every dtype."""
        if self.model.config._attn_implementation != "eager":
            return allowed
        dtype = self.model.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )


def _check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    if temperature < 0:
        raise ValueError(f"`temperature` ({temperature}) must be 0 (likeliest id) or above.")
    if top_k < 0:
        raise ValueError(f"`top_k` ({top_k}) must be 0 (all ids) or above.")
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` ({top_p}) must lie in (0, 1].")


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
