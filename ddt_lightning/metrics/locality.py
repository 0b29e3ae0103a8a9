"""Locality of the change when a part of an image's tokens is exchanged: some places wholly, or all places a little.

In: the images decoded from the tokens of image A, of image B, and of a mix of both. Out: one number per pair in [0, 1],
near 0 where regions are swapped (CutMix: the tokens are spatial), near 1 where the whole picture moves alike (mixup, or
attributes that have no place). The content of A and B cancels: a place is compared with how much it could have changed.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

CELLS = 8
"""Places along a side: finer patterns, such as every second row from B, count as everywhere. Places that the
border of a swapped region crosses do so too: a rectangle of 38 % of the picture, off the grid of places, has 0.24."""

SMALLEST = 0.01
"""A mix that moved less than this share of the way, or all but this, has no change that could be located."""


def squared_maps(image: Tensor, other: Tensor, cells: int) -> Tensor:
    """Squared differences of images `[B, C, H, W]` averaged over channels and places: float64 `[B, cells * cells]`."""
    difference = (image.double() - other.double()).square().mean(1)  # [B, H, W]
    return adaptive_avg_pool2d(difference, cells).flatten(1)


def change_spread(mixed: Tensor, a: Tensor, b: Tensor, *, cells: int = CELLS) -> tuple[Tensor, Tensor]:
    """Measure how far a mix of A and B has moved from A to B, and how evenly over the picture.

    With means over a place i: `c_i = |mixed - a|^2`, `d_i = |mixed - b|^2`, `r_i = |b - a|^2`,

        g_i = c_i / (c_i + d_i)                      share of the change that place i has made: 0 is A, 1 is B
        w_i = r_i / sum r                            its weight: a place where A equals B cannot tell
        moved = m = sum w_i g_i
        spread = sum w_i g_i (1 - g_i) / (m (1 - m))
               = 1 - Var_w(g) / (m (1 - m))

    m (1 - m) is the variance of a g that is 0 or 1 everywhere: a swap of regions has spread 0 whatever their area, and
    a blend `a + s (b - a)` has spread 1 whatever s. It is the share of the uncertainty about "from A or from B?"
    (Gini's) that is left when the place is known. A and B can be exchanged.

    Args:
        mixed: images `[B, C, H, W]` in any one scale.
        a: what the tokens of A alone give.
        b: what the tokens of B alone give.
        cells: places along a side, at most H and W.

    Returns:
        spread and moved, float64 `[B]` each. Both are nan where A equals B; spread is nan where `moved` is less than
        `SMALLEST` away from 0 or 1.

    Raises:
        ValueError: the images differ in shape, or are smaller than `cells`.
    """
    if not mixed.shape == a.shape == b.shape or mixed.dim() != 4:
        raise ValueError(f"Images to mix differ in shape: {[tuple(x.shape) for x in (mixed, a, b)]}, not [B, C, H, W].")
    if not 1 <= cells <= min(mixed.shape[-2:]):
        raise ValueError(f"`cells` ({cells}) must be between 1 and the side of the images, {min(mixed.shape[-2:])}.")
    from_a, from_b, apart = (squared_maps(*pair, cells) for pair in ((mixed, a), (mixed, b), (b, a)))
    share = torch.nan_to_num(from_a / (from_a + from_b))  # 0/0 only where A equals B, which has no weight
    weight = apart / apart.sum(1, keepdim=True)
    moved = (weight * share).sum(1)
    kept = (weight * share * (1 - share)).sum(1)
    spread = kept / (moved * (1 - moved))
    located = (moved >= SMALLEST) & (moved <= 1 - SMALLEST)
    return torch.where(located, spread.clamp(0, 1), torch.nan), moved
