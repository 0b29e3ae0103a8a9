"""Distance of pictures to the nearest of a set, such as the training pictures: does a model copy what it has seen?

Pictures are compared as a person would from afar: at 32 px, by the root of the mean squared difference of values in
[0, 1]; a mirrored copy counts as a copy.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

SIDE = 32


def small(images: Tensor) -> Tensor:
    """Images uint8 `[B, 3, H, W]` at 32 px as float32 in [0, 1]."""
    return interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)


def nearest(images: Tensor, others: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Distance of each image to the nearest of some others, float32 `[B]`, and the number of that one, int64 `[B]`.

    Args:
        images: uint8 `[B, 3, H, W]`.
        others: uint8 `[N, 3, H', W']`.
        batch: others at a time.
    """
    reference = torch.cat([small(part).flatten(1) for part in others.split(batch)])
    plain = small(images)
    sides = [torch.cdist(one.flatten(1), reference) for one in (plain, plain.flip(-1))]
    found, where = torch.minimum(*sides).min(1)
    return found / (3 * SIDE * SIDE) ** 0.5, where
