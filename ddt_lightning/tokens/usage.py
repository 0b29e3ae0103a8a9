"""Which codes each position uses: the moving table P(code | position) `[K, C]`, and what is read from it.

All counts are summed over processes, so every process holds the same table. Source: Selftok's per-position statistics.
"""

import torch
import torch.distributed as dist
from torch import Tensor

SPANS = 4
"""Quarters of the positions whose code usage is logged apart."""
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
    flat = ids + codes * torch.arange(tokens, device=ids.device)  # [B, K]
    counts = torch.bincount(flat.flatten(), minlength=usage.numel()).view_as(usage).float()
    _, processes = world()
    kept = torch.where(steps > 0, decay, FIRST_DECAY)
    usage.mul_(kept).add_(summed(counts) / (len(ids) * processes) * (1 - kept))


def perplexities(usage: Tensor) -> dict[str, Tensor]:
    """Mean perplexity per position, over all of them and in each quarter, `_1` the finest.

    That the coarse tokens use only a few codes does not show in the mean over all.
    """
    each = entropy(usage).exp()
    spans = each.tensor_split(min(SPANS, len(each)))
    named = {f"position_perplexity_{number}": span.mean() for number, span in enumerate(spans, 1)}
    return {"position_perplexity": each.mean(), **named}
