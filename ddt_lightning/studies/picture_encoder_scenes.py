"""What the encoder of `FD-<hash>` learns from rendered scenes: which shapes of which colours are where.

In: a seed; scene n of training is drawn from it, held-out combinations among them. Out: a `Lesson` of `encoder.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning.metrics.picture_encoder import SIDE
from ddt_lightning.scenes.render import CANVAS, COLOURS, GROUND_RGB, KINDS, Scene, render
from ddt_lightning.scenes.suite import as_circles, val_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.studies.picture_encoder import Changes

CELLS = 4
"""Cells of the place grid along a side."""
_COLOURS, _GROUNDS = tuple(COLOURS), tuple(GROUND_RGB)
_LOOKS, _TRAITS = len(KINDS) * len(_COLOURS), len(KINDS) + len(_COLOURS)
_SIZES = [_LOOKS, CELLS**2 * _TRAITS, len(_GROUNDS)]


def targets(scene: Scene) -> np.ndarray:
    """What the network has to read, 0 or 1 each: kinds and colours of objects together, and of each cell apart.

    Returns:
        float32 `[60 + 16 * 16 + 6]`: coloured kinds that occur; kinds, then colours of the objects whose centres lie in
        each cell, row by row; the background.
    """
    looks = np.zeros((len(KINDS), len(_COLOURS)), np.float32)
    cells = np.zeros((CELLS, CELLS, _TRAITS), np.float32)
    ground = np.zeros(len(_GROUNDS), np.float32)
    for shape in scene.shapes:
        kind, colour = KINDS.index(shape.kind), _COLOURS.index(shape.colour)
        looks[kind, colour] = 1
        row, column = (min(CELLS - 1, int(place * CELLS / CANVAS)) for place in (shape.y, shape.x))
        cells[row, column, [kind, len(KINDS) + colour]] = 1
    ground[_GROUNDS.index(scene.background.name)] = 1
    return np.concatenate([looks.ravel(), cells.ravel(), ground])


def scene(what: str, seed: int, n: int) -> tuple[Scene, np.random.Generator]:
    """Scene n of a name and a seed, every second with a held-out combination."""
    rng = numpy_rng(what, seed, n)
    return val_scene(rng, unseen=bool(n % 2)), rng


class Scenes:
    """The lesson of rendered scenes."""

    what = "scenes"
    knows = (
        "the project's rendered scenes at 64 pixels, such as reconstructions and drawings of a model and held-out "
        "scenes, at equal numbers of images; it knows nothing of photographs"
    )
    options = ""
    outputs = sum(_SIZES)

    def example(self, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """See `Lesson`; what is to be read are the `targets`."""
        drawn, rng = scene("encoder", seed, n)
        return render(drawn, SIDE), targets(drawn), rng

    def layers(self, last: nn.Linear) -> nn.Module:
        """Reads each cell from its own place: detectors form before the features do."""
        cells = nn.Conv2d(128, _TRAITS, 1)
        with torch.no_grad():  # most targets are 0
            last.bias[: sum(_SIZES[:2])] = -3.0
            cells.bias[:] = -3.0  # type: ignore[index]
        return cells

    def error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropies of looks, cells and background."""
        looks, cells, ground = said.split(_SIZES, dim=1)
        true_looks, true_cells, true_ground = wanted.split(_SIZES, dim=1)
        total = F.binary_cross_entropy_with_logits(looks, true_looks, reduction="sum")
        total = total + F.binary_cross_entropy_with_logits(cells, true_cells, reduction="sum") / 4
        return total + F.cross_entropy(ground, true_ground, reduction="sum")

    def local_error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy of the cells, `said` `[B, traits, 4, 4]`."""
        there = wanted[:, _SIZES[0] : sum(_SIZES[:2])]
        return F.binary_cross_entropy_with_logits(said.permute(0, 2, 3, 1).flatten(1), there, reduction="sum")

    def clean(self, what: str, seed: int, number: int) -> list[np.ndarray]:
        """See `Lesson`."""
        return [render(scene(what, seed, n)[0], SIDE) for n in range(number)]

    def reads(self, said: Tensor, what: str, seed: int) -> dict[str, float]:
        """Coloured kinds (all of a scene), cells and backgrounds."""
        truth = torch.from_numpy(np.stack([targets(scene(what, seed, n)[0]) for n in range(len(said))]))
        looks, cells, _ = ((said > 0) == (truth > 0)).split(_SIZES, dim=1)
        right = said[:, -_SIZES[2] :].argmax(1) == truth[:, -_SIZES[2] :].argmax(1)
        return {
            "all coloured kinds right": float(looks.all(1).float().mean()),
            "cells right": float(cells.float().mean()),
            "background right": float(right.float().mean()),
        }

    def changes(self, images: Sequence[np.ndarray], what: str, seed: int) -> Changes:
        """Another shape in place of each."""
        circles = [render(as_circles(scene(what, seed, n)[0]), SIDE) for n in range(len(images))]
        return {"all shapes circles": circles}
