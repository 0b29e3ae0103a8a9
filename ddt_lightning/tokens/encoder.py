"""Dual-stream query encoder: latents `[B,c,h,w]` to K query features `[B,K,D]`.

A narrow image stream (a plain ViT that never sees the queries) and a wide query stream (K learned vectors that attend
to the image and to one another) meet in the attention of every block; only the queries go on. Source: DDT-LLaMA
section 3.2 and Selftok's `Enc-Qformer-Uni`, mode dual.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt_lightning.tokens.modulation import TokenModulation
from ddt_lightning.tokens.parts import FeedForward, PatchEmbed


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder.

    Args:
        depth: number of dual blocks.
        image_width: width of the image stream.
        image_heads: its attention heads.
        query_width: width of the query stream.
        query_heads: its attention heads.
        positions: side of the 2-D position table in patches; 0 for twice that of the latents.
    """

    depth: int = 3
    image_width: int = 128
    image_heads: int = 4
    query_width: int = 128
    query_heads: int = 4
    positions: int = 0

    def __post_init__(self) -> None:
        for stream in ("image", "query"):
            width, heads = getattr(self, f"{stream}_width"), getattr(self, f"{stream}_heads")
            if width % heads:
                raise ValueError(f"`encoder.{stream}_width` ({width}) must be a multiple of {stream}_heads ({heads}).")


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of projected `q [B,Q,D]` over `k, v [B,N,D]`, to `[B,Q,D]`.

    Args:
        q: queries.
        k: keys.
        v: values.
        heads: number of heads; scaled by the head's width.
        mask: bool `[B,1,1,N]`, which keys may be seen, or None for all.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, heads, *, D / heads]
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return plain_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)  # [B, Q, D]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as two products and a softmax, `[B,H,Q,d]` over `[B,H,N,d]`.

    In bf16 on a CPU the backward of torch's fused attention takes three times as long as that of fp32; this takes less
    than either where sequences are as short as ours.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, Q, N]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without weights, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class DualBlock(nn.Module):
    """One block of both streams; see the module's docstring for who sees whom.

    Args:
        config: sizes.
        tokens: K.
        last: the image stream ends with the keys and values of the last block; its other weights there are never used
            and frozen, but kept so that checkpoints of the reference load completely.
    """

    def __init__(self, config: EncoderConfig, tokens: int, last: bool) -> None:
        super().__init__()
        self.last = last
        image, query = config.image_width, config.query_width
        self.image_heads, self.query_heads = config.image_heads, config.query_heads
        self.image_qkv = nn.Linear(image, 3 * image)
        self.image_out = nn.Linear(image, image)
        self.image_to_query_kv = nn.Linear(image, 2 * query)
        self.query_qkv = nn.Linear(query, 3 * query)
        self.query_out = nn.Linear(query, query)
        self.image_ff = FeedForward(image)
        self.query_ff = FeedForward(query)
        self.modulation = TokenModulation(tokens, query)
        if last:
            for unused in (self.image_qkv, self.image_out, self.image_ff):
                unused.requires_grad_(False)

    def forward(self, image: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens `[B, N, D_image]` and queries `[B, K, D_query]` to the same shapes."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation()
        normed = layer_norm(image)
        q, k_query, v_query = self.query_qkv(layer_norm(queries) * (1 + scale_a) + shift_a).chunk(3, dim=-1)
        k_image, v_image = self.image_to_query_kv(normed).chunk(2, dim=-1)
        k = torch.cat([k_image, k_query], dim=1)  # [B, N + K, D_query]
        v = torch.cat([v_image, v_query], dim=1)
        asked = attend(q, k, v, self.query_heads)
        queries = queries + gate_a * self.query_out(asked)
        queries = queries + gate_m * self.query_ff(layer_norm(queries) * (1 + scale_m) + shift_m)
        if self.last:
            return image, queries
        q, k, v = self.image_qkv(normed).chunk(3, dim=-1)
        image = image + self.image_out(attend(q, k, v, self.image_heads))
        image = image + self.image_ff(layer_norm(image))
        return image, queries


class Encoder(nn.Module):
    """Latents to query features.

    Args:
        config: sizes.
        tokens: K.
        channels: latent channels c.
        patch: side of a patch in latent pixels.
        positions: side of the 2-D position table in patches, unless the config names one; its centre is cropped to
            the input's size.
    """

    def __init__(self, config: EncoderConfig, tokens: int, channels: int, patch: int, positions: int) -> None:
        super().__init__()
        positions = config.positions or positions
        self.patch_embed = PatchEmbed(positions, patch, channels, config.image_width)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)
        self.query_tokens = nn.Parameter(torch.randn(1, tokens, config.query_width))  # far apart from the start
        self.blocks = nn.ModuleList(
            DualBlock(config, tokens, last=depth == config.depth - 1) for depth in range(config.depth)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to query features `[B, K, D_query]`."""
        image = self.patch_embed(latents)
        queries = self.query_tokens.expand(len(latents), -1, -1)
        for block in self.blocks:
            image, queries = block(image, queries)
        return queries
