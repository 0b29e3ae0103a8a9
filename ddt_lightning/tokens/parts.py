"""Layers of SD3's transformer: their names, order of weights and arithmetic are those of diffusers.

An SD3 checkpoint therefore loads by name. They are written out because importing those of diffusers takes longer than
drawing a picture.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TanhGelu(nn.Module):
    """A linear layer and GELU in its approximation by tanh.

    Args:
        width: of the input.
        inner: of the output.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., width]` to `[..., inner]`."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside.

    Args:
        width: of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([TanhGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., width]` to the same shape."""
        for layer in self.net:
            x = layer(x)
        return x


class JointAttention(nn.Module):
    """Projections of joint attention over two streams: `to_*` of the first, `add_*` of the second, which is added.

    Args:
        width: of both streams.
        inner: width of all heads together.
        heads: their number.
        last: whether the second stream ends here, so that nothing is projected back to it.
    """

    def __init__(self, width: int, inner: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.add_k_proj, self.add_v_proj, self.add_q_proj = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        if not last:
            self.to_add_out = nn.Linear(inner, width)


class PatchEmbed(nn.Module):
    """Latents to embedded patches, plus a 2-D table of positions that is cropped around its centre.

    Args:
        positions: side of the table in patches.
        patch: side of a patch.
        channels: of the latents.
        width: D.
    """

    pos_embed: Tensor
    proj: Any  # a convolution with a bias

    def __init__(self, positions: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch, self.positions = patch, positions
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.register_buffer("pos_embed", grid_table(positions, width)[None])

    def forward(self, latents: Tensor) -> Tensor:
        """`latents [B, c, h, w]` to `[B, N, D]`, row by row.

        Raises:
            ValueError: more patches on a side than the table has positions.
        """
        x = self.proj(latents)
        height, width = x.shape[-2:]
        if max(height, width) > self.positions:
            raise ValueError(f"{height} x {width} patches need more than the table's {self.positions} positions.")
        top, left = (self.positions - height) // 2, (self.positions - width) // 2
        table = self.pos_embed.view(1, self.positions, self.positions, -1)
        near = table[:, top : top + height, left : left + width].flatten(1, 2)
        return (x.flatten(2).transpose(1, 2) + near).to(x.dtype)


def grid_table(side: int, width: int) -> Tensor:
    """Sines and cosines of the column and row of `side` x `side` places, float32 `[side * side, width]`."""
    place = torch.arange(side, dtype=torch.float32)
    columns, rows = torch.meshgrid(place, place, indexing="xy")
    rates = torch.arange(width // 4, dtype=torch.float64) / (width / 4)
    angles = [torch.outer(axis.reshape(-1), 1.0 / 10000**rates) for axis in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


class Timesteps(nn.Module):
    """Cosines and sines of a time at falling rates.

    Args:
        width: of the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, times: Tensor) -> Tensor:
        """`times [B]` to float32 `[B, width]`."""
        half = self.width // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=times.device)
        angles = times[:, None].float() * torch.exp(exponent / half)[None]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers with a SiLU between them.

    Args:
        frequencies: width of the input.
        width: of the output.
    """

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(frequencies, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x [B, frequencies]` to `[B, width]`."""
        return self.linear_2(F.silu(self.linear_1(x)))


class AdaLayerNormZero(nn.Module):
    """A LayerNorm without weights, modulated by a condition, which also gives what attention and MLP need.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`x [B, N, D]` normed, and the gate of attention, then shift, scale and gate of the MLP, each `[B, D]`."""
        shift, scale, *others = self.linear(F.silu(condition)).chunk(6, dim=1)
        gate_a, shift_m, scale_m, gate_m = others
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
        return x, gate_a, shift_m, scale_m, gate_m


class AdaLayerNormContinuous(nn.Module):
    """A LayerNorm without weights, scaled and shifted by a condition.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """`x [B, N, D]` to the same shape, by the condition `[B, D]`."""
        scale, shift = self.linear(F.silu(condition).to(x.dtype)).chunk(2, dim=1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)[:, None] + shift[:, None]
