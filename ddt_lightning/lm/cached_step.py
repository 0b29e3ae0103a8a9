"""One more id for every row of a batch: a transformers Llama or Gemma, read layer by layer, with a static cache.

`transformers` itself reads the prompts; from then on a step feeds one id a row, ids `[N]` to logits `[N, C]` of the
ids that may follow. At that size a forward of `transformers` spends more time around the model than in it, so a step
calls the model's own embedding, projections and feed-forward layers, and does what lies between them here: keys and
values are in memory taken once, rotary tables are looked up by position, and the query heads that share a key head are
one product. No shape changes from step to step and places are counted in tensors, so `torch.compile` needs one graph
for all steps. Weights may be sharded (FSDP2): each layer is gathered while it runs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning.lm.llama import Cache, Llama

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

SMALL = 2**20
"""Weights of layers that are joined into one product; more are left where they are."""


class CachedModel:
    """A model with its keys and values of a batch of left-padded rows, and the step that continues them.

    Args:
        model: of a family in `llm.FAMILIES`, in eval mode.
        cache: keys and values of U prompts, P ids long with their padding.
        copies: int64 `[N]`, for every row the prompt it goes on from.
        padding: int64 `[N]`, how many ids at the start of each row are padding.
        length: how many steps may follow.
        low: first id that may be chosen.
        high: one past the last; C = high - low.
    """

    def __init__(
        self,
        model: Union["PreTrainedModel", Llama],
        cache: "DynamicCache | Cache",
        copies: Tensor,
        padding: Tensor,
        length: int,
        low: int,
        high: int,
    ) -> None:
        self.model, self.body, self.low, self.high = model, model.base_model, low, high
        kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * len(cache.layers)
        self.window = model.config.sliding_window if "sliding_attention" in kinds else None
        self.norm, self.cap = _Norm(self.body.norm), getattr(model.config, "final_logit_softcapping", None)
        self.blocks = [
            _Block(module, kind, _extend(old.keys, copies, length), _extend(old.values, copies, length))
            for module, kind, old in zip(self.body.layers, kinds, cache.layers, strict=True)
        ]
        like, first = self.blocks[0].keys, int(cache.get_seq_length())
        self.slot = torch.tensor([first], device=like.device)  # where the next keys go
        self.position = first - padding  # [N], of the next ids
        self.index = torch.arange(first + length, device=like.device)
        unseen = self.index < padding.repeat_interleave(like.shape[1])[:, None, None]  # [N * G, 1, P + length]
        self.bias = torch.zeros_like(unseen, dtype=like.dtype).masked_fill(unseen, -torch.inf)
        self.turns = {kind: self._turns(kind, like) for kind in dict.fromkeys(kinds)}

    def _turns(self, kind: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[positions, 1, d]` of one kind of layer, for `rotate`."""
        rotary = self.body.rotary_emb
        # Gemma 3 turns its sliding layers with another base.
        kinds = (kind,) if hasattr(rotary, f"{kind}_inv_freq") else ()
        cos, sin = rotary(like, self.index[:, None], *kinds)
        low, high = sin.chunk(2, dim=-1)
        return cos, torch.cat((-low, high), dim=-1)

    def step(self, ids: Tensor) -> Tensor:
        """Logits `[N, C]` in float32 after `ids [N]`, the rows' next ids."""
        mask = self.bias.masked_fill(self.index > self.slot, -torch.inf)
        masks = {"full_attention": mask}
        if self.window is not None:
            masks["sliding_attention"] = mask.masked_fill(self.index <= self.slot - self.window, -torch.inf)
        turns = {kind: (cos[self.position], sin[self.position]) for kind, (cos, sin) in self.turns.items()}
        with gathered(self.model):
            x = self.body.embed_tokens(ids)
            for block in self.blocks:
                with gathered(block.module):
                    x = block.step(x, self.slot, *turns[block.kind], masks[block.kind])
            head = self.model.get_output_embeddings().weight[self.low : self.high]
            logits = F.linear(self.norm(x), head)
        self.slot += 1
        self.position += 1
        return (logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)).float()


class _Block:
    """One layer with its memory.

    Args:
        module: the layer of `transformers`.
        kind: "full_attention" or "sliding_attention".
        keys: `[N, G, T, d]`.
        values: as `keys`.
    """

    def __init__(self, module: nn.Module, kind: str, keys: Tensor, values: Tensor) -> None:
        self.module, self.kind, self.keys, self.values = module, kind, keys, values
        attention: Any = module.self_attn
        mlp: Any = module.mlp
        # Bound forwards skip what a call of a module checks, which at one id a row is a third of a small product.
        self.out, self.down, self.activation = attention.o_proj.forward, mlp.down_proj.forward, mlp.act_fn.forward
        self.read = side_by_side([attention.q_proj, attention.k_proj, attention.v_proj])
        self.widen = side_by_side([mlp.gate_proj, mlp.up_proj])
        self.scale, self.cap = attention.scaling, getattr(attention, "attn_logit_softcapping", None)
        self.head_norms = [_Norm(attention.q_norm), _Norm(attention.k_norm)] if hasattr(attention, "q_norm") else []
        names = ["input_layernorm", "post_attention_layernorm"]
        self.norms_outputs = hasattr(module, "pre_feedforward_layernorm")  # Gemma 2 and 3
        if self.norms_outputs:
            names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        self.norms = [_Norm(getattr(module, name)) for name in names]

    def step(self, x: Tensor, slot: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """`x [N, D]` through the layer; its keys and values are written to `slot [1]`."""
        rows, heads, _, width = self.keys.shape
        query, key, value = self.read(self.norms[0](x))
        query, key = query.reshape(rows, -1, width), key.reshape(rows, heads, width)
        value = value.reshape(rows, heads, 1, width).to(self.values.dtype)  # autocast may lower it
        if self.head_norms:
            query, key = self.head_norms[0](query), self.head_norms[1](key)
        keys = self.keys.index_copy_(2, slot, rotate(key, cos, sin)[:, :, None])
        values = self.values.index_copy_(2, slot, value)
        seen = attend(rotate(query, cos, sin), keys, values, mask, self.scale, self.cap)
        attended = self.out(seen.view(rows, -1))
        if not self.norms_outputs:
            x = x + attended
            return x + self.feed_forward(self.norms[1](x))
        x = x + self.norms[1](attended)
        return x + self.norms[3](self.feed_forward(self.norms[2](x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """`x [N, D]` through the gated layer."""
        gate, up = self.widen(x)
        return self.down(self.activation(gate) * up)


class _Norm:
    """A norm of `transformers`: `x [..., D]` by its root mean square, in float32. Gemma stores its weight less one."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.less = not hasattr(module, "variance_epsilon")
        self.eps: float = getattr(module, "eps" if self.less else "variance_epsilon")

    def __call__(self, x: Tensor) -> Tensor:
        weight: Tensor = self.module.weight.float()  # read at every step: FSDP2 puts another one there
        weight = weight + 1 if self.less else weight
        return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)


def side_by_side(layers: list[nn.Linear]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Function that applies linear layers to one input: in one product where their weights are small and plain.

    One wide product of few rows is faster than several narrow ones; of large layers a copy would cost memory.
    """
    plain = all(type(layer) is nn.Linear and layer.bias is None for layer in layers)
    weights = [layer.weight for layer in layers]
    if not plain or any(is_distributed(weight) for weight in weights) or sum(map(Tensor.numel, weights)) > SMALL:
        forwards = [layer.forward for layer in layers]
        return lambda x: [forward(x) for forward in forwards]
    joined, sizes = torch.cat([weight.detach() for weight in weights]), [len(weight) for weight in weights]
    return lambda x: F.linear(x, joined).split(sizes, dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [N, H, d]` turned by its position; the halves of d are the two coordinates. Tables `[N, 1, d]`."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float, cap: float | None) -> Tensor:
    """Attention of one query a row and head.

    Args:
        query: `[N, H, d]`.
        keys: `[N, G, T, d]`, G a divisor of H.
        values: as `keys`.
        bias: added to the logits, `[N * G, 1, T]`.
        scale: of the logits.
        cap: soft cap of the logits before the bias (Gemma 2, arXiv 2408.00118, 2.1); None for none.

    Returns:
        `[N * G, H / G, d]`.
    """
    keys, values = keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)
    query = query.reshape(len(values), -1, query.shape[-1])
    if cap is None:
        logits = torch.baddbmm(bias, query, keys, alpha=scale)
    else:
        logits = torch.tanh(torch.bmm(query, keys) * (scale / cap)) * cap + bias
    return torch.bmm(logits.softmax(-1, dtype=torch.float32).to(values.dtype), values)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 shards a module; its import takes long, and who has not imported it has no such module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def is_distributed(weight: Tensor) -> bool:
    """Whether a weight is spread over processes; see `is_sharded`."""
    spread = sys.modules.get("torch.distributed.tensor")
    return spread is not None and isinstance(weight, spread.DTensor)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """The weights of a module are whole inside, where FSDP2 shards it."""
    if is_sharded(module):
        sharded: Any = module
        sharded.unshard()
        yield
        sharded.reshard()
    else:
        yield


def _extend(states: Tensor, copies: Tensor, length: int) -> Tensor:
    """The rows `copies [N]` of `states [U, G, P, d]`, with room for more: `[N, G, P + length, d]`."""
    return F.pad(states[copies], (0, 0, 0, length))
