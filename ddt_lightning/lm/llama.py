"""A Llama that only reads and writes: the layers, names and arithmetic of transformers' own, in eval mode.

Importing transformers' takes several times as long as drawing a picture, and whoever draws one picture waits for it.
This one answers what `generate.py` and `cached_step.py` ask of a model of transformers. Training uses the latter.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


def is_plain(config: dict[str, Any]) -> bool:
    """Whether a transformers `config.json` describes a Llama without variants that `Llama` lacks."""
    rope = config.get("rope_parameters") or {}
    expected = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    return all(config.get(name) == value for name, value in expected.items()) and (
        rope.get("rope_type") == "default"
        and "rope_theta" in rope
        and {"head_dim", "tie_word_embeddings", "dtype"} <= set(config)
        and "quantization_config" not in config
    )


@dataclass
class Memory:
    """Keys and values that a layer has read.

    Args:
        keys: `[B, G, T, d]`.
        values: as `keys`.
    """

    keys: Tensor
    values: Tensor


@dataclass
class Cache:
    """What all layers have read, as `CachedModel` goes on from it."""

    layers: list[Memory] = field(default_factory=list)

    def get_seq_length(self) -> int:
        """Number of ids that have been read, T."""
        return self.layers[0].keys.shape[2] if self.layers else 0


class RmsNorm(nn.Module):
    """Division by the root mean square, in float32.

    Args:
        width: D.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., D]` to the same shape."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class Rotary(nn.Module):
    """Cosines and sines of positions.

    Args:
        width: of a head, d.
        base: of the wave lengths.
    """

    def __init__(self, width: int, base: float) -> None:
        super().__init__()
        self.width, self.base = width, base

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Two tables `[..., d]` for `positions [...]`, of the dtype of `x`."""
        half = torch.arange(0, self.width, 2, dtype=torch.float32, device=x.device)
        angles = positions[..., None].float() * (1.0 / (self.base ** (half / self.width)))
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [B, H, T, d]` turned by its position, with tables `[B, 1, T, d]`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention with fewer key heads than query heads.

    Args:
        config: sizes, as in transformers' config.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        inner, shared = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Memory]:
        """`x [B, T, D]` to the same shape, and its keys and values; `mask [B, 1, T, T]` says what is seen."""
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = turn(query, cos, sin), turn(key, cos, sin)
        repeats = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scaling)
        return self.o_proj(seen.transpose(1, 2).flatten(2)), Memory(key, value)


class Mlp(nn.Module):
    """The gated feed-forward layer.

    Args:
        config: sizes, as in transformers' config.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`x [B, T, D]` to the same shape."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm.

    Args:
        config: sizes, as in transformers' config.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Memory]:
        """As `Attention`."""
        attended, memory = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), memory


class Body(nn.Module):
    """Embedding, layers and the last norm.

    Args:
        config: sizes, as in transformers' config.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        table = torch.empty(config.vocab_size, config.hidden_size)  # given, as drawing it would import torch._dynamo
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rotary(config.head_dim, config.rope_parameters["rope_theta"])


class Llama(nn.Module):
    """A Llama and its head.

    Args:
        config: the values of transformers' `config.json`, which `is_plain` has accepted.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.model = Body(self.config)
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Llama":
        """Load a folder that transformers wrote, in eval mode and in the dtype that its config names.

        Raises:
            ValueError: its weights do not fit its config.
        """
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):  # every weight comes from the files
            model = cls(config)
        state = {name: value for file in sorted(Path(folder).glob("*.safetensors"))
                 for name, value in load_file(file).items()}  # fmt: skip
        if config["tie_word_embeddings"]:
            state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight", torch.empty(0)))
        dtype = getattr(torch, config["dtype"] or "float32")
        try:
            model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{folder}: the weights do not fit config.json: {error}") from error
        if config["tie_word_embeddings"]:
            model.lm_head.weight = model.model.embed_tokens.weight
        return model.requires_grad_(False).eval()

    @property
    def base_model(self) -> Body:
        """Everything but the head."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of the ids."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def read(self, ids: Tensor, allowed: Tensor, positions: Tensor) -> tuple[Tensor, Cache]:
        """Logits `[B, V]` after the last of the ids, and what was read.

        Args:
            ids: int64 `[B, T]`.
            allowed: bool `[B, 1, T, T]`, which keys a query sees.
            positions: int64 `[B, T]`.
        """
        x, cache = self._layers(ids, allowed, positions)
        return self.lm_head(self.model.norm(x[:, -1])), cache

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states that the head is applied to, `[B, T, D]`, of rows of ids `[B, T]` that begin at position 0."""
        index = torch.arange(ids.shape[1], device=ids.device)
        allowed = (index <= index[:, None]).expand(len(ids), 1, -1, -1)
        return self.model.norm(self._layers(ids, allowed, index.expand(ids.shape))[0])

    def _layers(self, ids: Tensor, allowed: Tensor, positions: Tensor) -> tuple[Tensor, Cache]:
        x, cache = self.model.embed_tokens(ids), Cache()
        cos, sin = (table[:, None] for table in self.model.rotary_emb(x, positions))
        for layer in self.model.layers:
            x, memory = layer(x, cos, sin, allowed)
            cache.layers.append(memory)
        return x, cache
