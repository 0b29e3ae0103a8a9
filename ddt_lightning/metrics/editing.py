"""Quality of an edit: the edited image and the wanted scene or image in, a truth value or an error out.

Scenes come as plain data, `Scene.to_dict()`: `{"shapes": [{kind, colour, x, y, radius}], "background": {colour, time}}`
with lengths on the 64-side canvas.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ddt_lightning.scenes.check import Detected, detect

CANVAS = 64


def exact_match(
    image: NDArray[np.uint8] | Detected, target: dict, *, background: bool = False, tolerance: float = 0.1
) -> bool:
    """Whether the image shows exactly the target's objects: kinds, colours, counts, and centres.

    Args:
        image: uint8 `[H, W, 3]`, or what was detected in a 64 x 64 image.
        target: the wanted scene as plain data.
        background: the background's class must be right too (global edits).
        tolerance: largest distance of a centre from its place, in sides of the image.
    """
    side = CANVAS
    if not isinstance(image, Detected):
        side, image = image.shape[0], detect(image)
    wanted_background = target["background"]
    if background and image.background != "{colour} {time}".format(**wanted_background):
        return False
    wanted, found = defaultdict(list), defaultdict(list)
    for shape in target["shapes"]:
        wanted[shape["kind"], shape["colour"]].append((shape["x"] / CANVAS, shape["y"] / CANVAS))
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        found[one.kind, one.colour].append(((x1 + x2) / 2 / side, (y1 + y2) / 2 / side))
    if {look: len(places) for look, places in wanted.items()} != {look: len(places) for look, places in found.items()}:
        return False
    return all(
        any(
            all(math.dist(a, b) <= tolerance for a, b in zip(places, order, strict=True))
            for order in permutations(found[look])
        )
        for look, places in wanted.items()
    )


def kept_l1(
    image: NDArray[np.uint8], target: NDArray[np.uint8], boxes: Sequence[tuple[float, float, float, float]]
) -> float:
    """Mean absolute difference, images in [0, 1], outside the union of the changed boxes.

    Args:
        image: the edited image, uint8 `[H, W, 3]`.
        target: the wanted image, same shape.
        boxes: `(x1, y1, x2, y2)` of what the edit changes, in pixels; one pixel more on each side is left out with
            them, because the drawn edge is soft.

    Raises:
        ValueError: the shapes differ, or the boxes cover the whole image.
    """
    if image.shape != target.shape:
        raise ValueError(f"`image` is {list(image.shape)} and `target` {list(target.shape)}; they must agree.")
    kept = np.ones(image.shape[:2], bool)
    for x1, y1, x2, y2 in boxes:
        rows = slice(max(math.floor(y1) - 1, 0), max(math.ceil(y2) + 1, 0))
        kept[rows, max(math.floor(x1) - 1, 0) : max(math.ceil(x2) + 1, 0)] = False
    if not kept.any():
        raise ValueError("`boxes` cover the whole image; nothing is left to compare.")
    return float(np.abs(image[kept].astype(np.float64) - target[kept]).mean() / 255)


def direction(image_change: Tensor, text_change: Tensor) -> Tensor:
    """CLIP's directional similarity `[N]`: cosine of the changes of vectors `[N, d]`; 0 where either did not change."""
    return cosine_similarity(image_change, text_change, dim=-1)
