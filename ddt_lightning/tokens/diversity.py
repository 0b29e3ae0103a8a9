"""The entropy of code usage as a loss: high where every position, and every group of neighbours, uses many codes.

Usage is soft, `mean over the batch of softmax(u . codebook / temperature)` `[K, C]`, mixed with the moving table. Only
slices of the `[B, K, C]` softmax exist at a time, in forward and again in backward: whole, it would be gigabytes at the
size of a real codebook. Source: Selftok's diversity loss.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddt_lightning.distributed import summed, world
from ddt_lightning.tokens.usage import TINY, slices

GROUP = 8
"""Neighbouring positions that share one term."""


def position_groups(tokens: int) -> int:
    """Number of groups of neighbouring positions: K/8, or the nearest number that divides K evenly."""
    size = max(n for n in range(1, min(GROUP, tokens) + 1) if tokens % n == 0)
    return tokens // size


@dataclass(frozen=True)
class SoftUsage:
    """Softmax of cosines, a slice of positions at a time.

    Args:
        u: unit vectors `[B, K, d]`.
        codebook: `[C, d]`.
        temperature: the cosines are divided by it.
    """

    u: Tensor
    codebook: Tensor
    temperature: float

    def parts(self) -> list[slice]:
        """Slices of positions."""
        batch, tokens, _ = self.u.shape
        return slices(tokens, batch * len(self.codebook), self.u.device)

    def probabilities(self, part: slice) -> Tensor:
        """`[n, B, C]` of some positions."""
        rows = self.u[:, part].transpose(0, 1) / self.temperature
        return (rows.flatten(0, 1) @ self.codebook.T).softmax(-1).unflatten(0, rows.shape[:2])

    def mean(self) -> Tensor:
        """Usage of this process's batch, `[K, C]`."""
        table = self.u.new_empty(self.u.shape[1], len(self.codebook))
        for part in self.parts():
            torch.mean(self.probabilities(part), 1, out=table[part])
        return table

    def gradient(self, grad: Tensor) -> Tensor:
        """Gradient of u `[B, K, d]` from that of `mean()` `[K, C]`."""
        result = torch.empty_like(self.u)
        for part in self.parts():
            p = self.probabilities(part)
            of_p = grad[part, None]  # [n, 1, C]
            towards = (of_p - (p @ of_p.mT)).mul_(p)  # through the softmax, [n, B, C]
            result[:, part] = (towards.flatten(0, 1) @ self.codebook).unflatten(0, p.shape[:2]).transpose(0, 1)
        return result / (len(self.u) * self.temperature)


def entropy_and_slope(p: Tensor) -> tuple[Tensor, Tensor]:
    """Entropies over the last axis, and their gradient."""
    log = (p + TINY).log_()
    return -(p * log).sum(-1), log.add_(p / (p + TINY)).neg_()


class MixedEntropy(torch.autograd.Function):
    """See `mixed_entropy`; the gradient of the table is known in forward already, and kept in place of the table."""

    @staticmethod
    def forward(  # noqa: D102 - torch's protocol
        ctx: Any,  # noqa: ANN401
        u: Tensor,
        codebook: Tensor,
        usage: Tensor,
        memory: float,
        temperature: float,
    ) -> Tensor:
        table = SoftUsage(u, codebook, temperature).mean()
        _, processes = world()
        table = summed(table).div_(processes).lerp_(usage, memory)
        tokens = len(table)
        groups = position_groups(tokens)
        size = tokens // groups
        total = torch.zeros((), device=u.device)
        for part in slices(groups, size * table.shape[1], u.device):
            mixed = table[size * part.start : size * part.stop]
            grouped, slope_grouped = entropy_and_slope(mixed.unflatten(0, (-1, size)).mean(1))
            each, slope = entropy_and_slope(mixed)
            total += 0.5 * (each.sum() / tokens + grouped.sum() / groups)
            slope.unflatten(0, (-1, size)).add_(slope_grouped[:, None])  # both count 1 / tokens for one position
            torch.mul(slope, 0.5 * (1 - memory) / tokens, out=mixed)
        ctx.save_for_backward(u, codebook.clone(), table)  # the codebook moves before backward
        ctx.temperature = temperature
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401, D102
        u, codebook, slope = ctx.saved_tensors
        return grad * SoftUsage(u, codebook, ctx.temperature).gradient(slope), None, None, None, None


def mixed_entropy(u: Tensor, codebook: Tensor, usage: Tensor, memory: float, temperature: float) -> Tensor:
    """Mean of two mean entropies in nats: of every position, and of every group of positions.

    Args:
        u: unit vectors `[B, K, d]`, this process's share of the global batch.
        codebook: `[C, d]`, not trained by gradient.
        usage: the moving table `[K, C]`.
        memory: share of the moving table; the rest is the soft usage of the global batch.
        temperature: of the softmax over cosines.

    Returns:
        A number; its gradient is that of the local mean, which data-parallel averaging of gradients completes.
    """
    return MixedEntropy.apply(u, codebook, usage, memory, temperature)
