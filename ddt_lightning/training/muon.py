"""Muon: hidden matrices by orthogonalised momentum (Jordan et al. 2024), everything else by AdamW.

Updates are scaled as in Liu et al. 2025, so that one learning rate serves both kinds. Matrices of one shape are
orthogonalised together, which is what makes it cheap on small models. Several processes share the work: where each
holds all matrices, each orthogonalises some of them; where each holds a part of the rows of every matrix (FSDP2), each
gathers one matrix at a time, orthogonalises it, and gives the others their rows back. Matrices that are divided along
both axes (tensor parallelism) are gathered by all.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ddt_lightning.distributed import summed, world
from ddt_lightning.training.sharded import by_mesh, divided, held, local, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that pushes singular values towards 1."""


@torch.no_grad()
def orthogonalise(updates: Tensor, dtype: torch.dtype = torch.float32, iterations: int = 5) -> Tensor:
    """Push the singular values of every matrix of `[N, rows, columns]` towards 1, computed in `dtype`."""
    a, b, c = NEWTON_SCHULZ
    x = (updates / (updates.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return (x.transpose(1, 2) if tall else x).to(updates.dtype)


def shared_orthogonalise(updates: Tensor, dtype: torch.dtype) -> Tensor:
    """`orthogonalise`, with the matrices divided among the processes; all of them hold the same `updates`."""
    rank, processes = world()
    if processes == 1:
        return orthogonalise(updates, dtype)
    mine = slice(rank, None, processes)
    result = torch.zeros_like(updates)
    if len(updates[mine]):
        result[mine] = orthogonalise(updates[mine], dtype)
    return summed(result)


def sharded_orthogonalise(parts: Sequence[Tensor], like: DTensor, dtype: torch.dtype) -> list[Tensor]:
    """`orthogonalise` of matrices whose rows are dealt out to the processes.

    Args:
        parts: this process's rows of each matrix.
        like: one of the weights that they are updates of, which says how rows are dealt out.
        dtype: numbers to compute in.

    Returns:
        This process's rows of each result.
    """
    mesh, (rows, columns) = like.device_mesh, like.shape
    axis = mesh.ndim - 1  # weights are sharded along the last one, and the same along those before it
    group, processes, rank = mesh.get_group(axis), mesh.size(axis), mesh.get_local_rank(axis)
    most = -(-rows // processes)
    found: list[Tensor] = []
    for start in range(0, len(parts), processes):
        some = parts[start : start + processes]
        sent = parts[0].new_zeros(processes, most, columns)
        for place, part in enumerate(some):
            sent[place, : len(part)] = part
        own = exchanged(sent, group).view(processes * most, columns)  # of the matrix with the number of this process
        if rank < len(some):
            own[:rows] = orthogonalise(own[None, :rows], dtype)[0]
        back = exchanged(own.view(processes, most, columns), group)
        found += [back[place, : len(part)] for place, part in enumerate(some)]
    return found


def divided_orthogonalise(parts: Sequence[Tensor], like: DTensor, dtype: torch.dtype) -> list[Tensor]:
    """`orthogonalise` of matrices that are dealt out along both axes (`tensor_parallel.py`); otherwise as above.

    As many matrices as there are processes are whole at a time, on all of them.
    """
    _, processes = world()
    found: list[Tensor] = []
    for start in range(0, len(parts), processes):
        some = [DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
                for part in parts[start : start + processes]]  # fmt: skip
        done = shared_orthogonalise(torch.stack([whole(one) for one in some]), dtype)
        found += [matrix[held(like)] for matrix in done]
    return found


def exchanged(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """`[processes, ...]`: entry n is what process n of a group had as the entry of this process."""
    found = torch.empty_like(x)
    dist.all_to_all_single(found, x, group=group)
    return found


class Muon(torch.optim.AdamW):
    """AdamW whose groups marked `matrices` are updated by orthogonalised Nesterov momentum instead."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step over both kinds of groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            plain = [group for group in groups if not group["matrices"]]
            self.param_groups = [{**group, "params": some} for group in plain for some in by_mesh(group["params"])]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"]:
                self.step_matrices(group)
        return loss

    def step_matrices(self, group: dict) -> None:
        """Update all matrices of a group, those of one shape together."""
        alike: dict[tuple, list[Tensor]] = {}  # of one shape, dealt out in one way
        for parameter in group["params"]:
            if parameter.grad is not None:
                places = parameter.placements if isinstance(parameter, DTensor) else ()
                alike.setdefault((parameter.shape, places), []).append(parameter)
        for ((rows, columns), _), parameters in alike.items():
            for parameter in parameters:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                    self.state[parameter]["step"] = torch.zeros(())  # AdamW expects one when a state is loaded
            momenta = [local(self.state[parameter]["momentum"]) for parameter in parameters]
            gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            dtype, scale = getattr(torch, group["orthogonalise_in"]), 0.2 * math.sqrt(max(rows, columns))
            first = parameters[0]
            if isinstance(first, DTensor):
                gather = divided_orthogonalise if divided(first) else sharded_orthogonalise
                updates = list(torch._foreach_mul(gather(ahead, first, dtype), scale))
            else:
                updates = list((shared_orthogonalise(torch.stack(ahead), dtype) * scale).unbind(0))
            weights = [local(parameter) for parameter in parameters]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
