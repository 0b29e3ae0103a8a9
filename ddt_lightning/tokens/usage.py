"""Which codes each position uses: the moving table P(code | position) `[K, C]`, and what is read from it.

All counts are summed over processes, so every process holds the same table. Source: Selftok's per-position statistics.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

SPANS = 4
"""Quarters of the positions whose code usage is logged apart."""
SLICE = 2**22
"""Cosines that are held at a time."""
FIRST_DECAY = 0.3
"""The very first batch outweighs the uniform start."""
TINY = 1e-10
"""Inside logarithms."""


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -(p * (p + TINY).log()).sum(-1)


def summed(x: Tensor) -> Tensor:
    """Sum of x over all processes; x itself when there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """`[B, ...]` of all processes, one after the other."""
    _, processes = world()
    if processes == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class SoftUsage(torch.autograd.Function):
    """How often each code would be used by a batch, softly: `mean over B of softmax(u . codebook / temperature)`.

    `[B, K, d]` and `[C, d]` to `[K, C]`, a slice of positions at a time and again in backward: the `[B, K, C]` of a
    real codebook would be gigabytes.
    """

    @staticmethod
    def slices(u: Tensor, codebook: Tensor) -> list[slice]:
        """Slices of positions whose cosines are at most `SLICE` numbers."""
        step = max(1, SLICE // (len(u) * len(codebook)))
        return [slice(start, start + step) for start in range(0, u.shape[1], step)]

    @staticmethod
    def forward(ctx: Any, u: Tensor, codebook: Tensor, temperature: float) -> Tensor:  # noqa: ANN401 - torch's protocol
        """See the class."""
        ctx.save_for_backward(u, codebook)
        ctx.temperature = temperature
        parts = SoftUsage.slices(u, codebook)
        return torch.cat([(u[:, part] @ (codebook.T / temperature)).softmax(-1).mean(0) for part in parts])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        """Gradient of u; the codebook is not trained by gradient."""
        u, codebook = ctx.saved_tensors
        result = torch.empty_like(u)
        for part in SoftUsage.slices(u, codebook):
            p = (u[:, part] @ (codebook.T / ctx.temperature)).softmax(-1)
            towards = p * (grad[part] - (p * grad[part]).sum(-1, keepdim=True))
            result[:, part] = towards @ codebook / (len(u) * ctx.temperature)
        return result, None, None


def world() -> tuple[int, int]:
    """Rank and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def fold_usage(usage: Tensor, ids: Tensor, steps: Tensor, decay: float) -> None:
    """Fold a batch's code frequencies per position into the table, in place.

    Args:
        usage: the table `[K, C]`, rows sum to 1.
        ids: `[B, K]`, this process's share of the global batch.
        steps: batches folded in before, a 0-d tensor.
        decay: of the moving average.
    """
    tokens, codes = usage.shape
    ids = gathered(ids)
    flat = (ids + codes * torch.arange(tokens, device=ids.device)).flatten()
    kept = torch.where(steps > 0, decay, FIRST_DECAY)
    usage.mul_(kept).view(-1).index_add_(0, flat, ((1 - kept) / len(ids)).to(usage).expand(len(flat)))


def perplexities(each: Tensor) -> dict[str, Tensor]:
    """Means of the perplexity of every position `[K]`, over all of them and in each quarter, `_1` the finest.

    That the coarse tokens use only a few codes does not show in the mean over all.
    """
    spans = each.tensor_split(min(SPANS, len(each)))
    named = {f"position_perplexity_{number}": span.mean() for number, span in enumerate(spans, 1)}
    return {"position_perplexity": each.mean(), **named}
