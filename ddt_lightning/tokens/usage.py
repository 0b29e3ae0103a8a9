"""Usage of the codes by position: the moving table P(code | position) `[K, C]`, and statistics read from it.

All counts are summed over processes, so every process holds the same table. Source: Selftok's per-position statistics.
"""

import torch
from torch import Tensor

from ddt_lightning.distributed import gathered

SPANS = 4
"""Quarters of the positions whose code usage is logged apart."""
CACHED = 2**19
"""Numbers that a slice of a large table holds on a CPU: passes over it then stay in the cache."""
HELD = 2**25
"""The same on an accelerator, which needs large slices to be busy."""
FIRST_DECAY = 0.3
"""The very first batch outweighs the uniform start."""
TINY = 1e-10
"""Inside logarithms."""


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -(p * (p + TINY).log()).sum(-1)


def slices(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices of the rows of a table that is `width` wide, each small enough to pass over several times."""
    step = max(1, (CACHED if device.type == "cpu" else HELD) // width)
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


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


@torch.no_grad()
def perplexity_by_position(usage: Tensor) -> Tensor:
    """Perplexity `[K]` of every row of the table `[K, C]`."""
    parts = slices(len(usage), usage.shape[1], usage.device)
    return torch.cat([entropy(usage[part]) for part in parts]).exp()


def perplexities(each: Tensor) -> dict[str, Tensor]:
    """Means of the perplexity of every position `[K]`, over all of them and in each quarter, `_1` the finest.

    That the coarse tokens use only a few codes does not show in the mean over all.
    """
    spans = each.tensor_split(min(SPANS, len(each)))
    named = {f"position_perplexity_{number}": span.mean() for number, span in enumerate(spans, 1)}
    return {"position_perplexity": each.mean(), **named}


@torch.no_grad()
def dead_codes(usage: Tensor, threshold: float) -> Tensor:
    """Number of codes that hardly any position uses, over the memory of the table.

    Codes that were replaced count until they are used: the table does not know of replacements.

    Args:
        usage: the table `[K, C]`.
        threshold: share of uniform use below which a code is dead.
    """
    return (usage.mean(0) * usage.shape[1] < threshold).sum().float()
