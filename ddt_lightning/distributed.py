"""Sums and concatenations over the processes of a run; identities where there is one process."""

import torch
import torch.distributed as dist
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """Sum of x over all processes, in place where x is contiguous; x itself when there is one process."""
    _, processes = world()
    if processes > 1:
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


def world() -> tuple[int, int]:
    """Rank and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
