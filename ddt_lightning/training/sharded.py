"""Weights of which each process holds a part: which part, on which mesh, and what is done to the gradients of all."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """A tensor with the parts of all processes, gathered or summed along one axis of its mesh after another."""
    if not isinstance(x, DTensor):
        return x
    for axis in range(x.device_mesh.ndim):
        x = x.redistribute(placements=[*[Replicate()] * (axis + 1), *x.placements[axis + 1 :]])
    return x.to_local()


def held(parameter: Tensor) -> tuple[slice, ...]:
    """The part of a weight, along each of its axes, that this process holds.

    Tensor parallelism, the last axis of a mesh, deals out a weight first, and FSDP2 its parts: in chunks of one size,
    of which the last ones can be smaller or empty.
    """
    region = [slice(0, size) for size in parameter.shape]
    if isinstance(parameter, DTensor):
        mesh: Any = parameter.device_mesh
        for axis, place in reversed(list(enumerate(parameter.placements))):
            if not place.is_replicate():
                dealt: Any = place
                former = region[dealt.dim]
                each = -(-(former.stop - former.start) // mesh.size(axis))
                start = min(former.start + mesh.get_local_rank(axis) * each, former.stop)
                region[dealt.dim] = slice(start, min(start + each, former.stop))
    return tuple(region)


def divided(weight: DTensor) -> bool:
    """Whether a weight is dealt out along two axes of its mesh, as tensor parallelism does."""
    return sum(not place.is_replicate() for place in weight.placements) > 1


def zero_gradient(parameter: nn.Parameter, rows: int) -> None:
    """Set the gradient of a weight's first rows to zero, on every process those it holds."""
    if parameter.grad is not None:
        local(parameter.grad)[: max(rows - held(parameter)[0].start, 0)] = 0


def by_mesh(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Weights apart by the processes among which they are dealt out: the divided ones of a model have other meshes.

    No operation on many tensors takes those of several meshes.
    """
    found: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault(weight.device_mesh if isinstance(weight, DTensor) else None, []).append(weight)
    return list(found.values())


@torch.no_grad()
def clip_by_norm(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Clip gradients by their norm over all weights, of whatever meshes.

    Args:
        parameters: the weights, those without a gradient left out.
        most: largest norm.
    """
    parts = by_mesh(parameter for parameter in parameters if parameter.grad is not None)
    norms = [get_total_norm([one.grad for one in some if one.grad is not None]) for some in parts]
    total = torch.stack([whole(norm) for norm in norms]).norm()
    for some in parts:
        clip_grads_with_norm_(some, most, total)
