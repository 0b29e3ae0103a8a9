"""The task of the shipped encoder: which shapes of which colours are where in rendered scenes.

In: a seed; scene n of training is drawn from it, held-out combinations among them. Out: a `Task` of
`picture_encoder.py`.
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
    """The label of a scene, 0 or 1 each: kinds and colours of objects together, and of each cell apart.

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


def scene(name: str, seed: int, n: int) -> tuple[Scene, np.random.Generator]:
    """Scene n of a name and a seed, every second with a held-out combination."""
    rng = numpy_rng(name, seed, n)
    return val_scene(rng, unseen=bool(n % 2)), rng


class Scenes:
    """Rendered scenes; the label of a picture are the `targets`."""

    what = "scenes"
    knows = (
        "the project's rendered scenes at 64 pixels, such as reconstructions and drawings of a model and held-out "
        "scenes, at equal numbers of images; it knows nothing of photographs"
    )
    options = ""
    outputs = sum(_SIZES)

    def example(self, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """See `Task`."""
        drawn, rng = scene("encoder", seed, n)
        return render(drawn, SIDE), targets(drawn), rng

    def layers(self, last: nn.Linear) -> nn.Module:
        """A module that predicts each cell from its own place: detectors form before the features do."""
        cells = nn.Conv2d(128, _TRAITS, 1)
        with torch.no_grad():  # most targets are 0
            last.bias[: sum(_SIZES[:2])] = -3.0
            cells.bias[:] = -3.0  # type: ignore[index]
        return cells

    def losses(self, logits: Tensor, local: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of looks, cells and background; of the cells alone from `local` `[B, traits, 4, 4]`."""
        looks, cells, ground = logits.split(_SIZES, dim=1)
        true_looks, true_cells, true_ground = labels.split(_SIZES, dim=1)
        total = F.binary_cross_entropy_with_logits(looks, true_looks, reduction="sum")
        total = total + F.binary_cross_entropy_with_logits(cells, true_cells, reduction="sum") / 4
        total = total + F.cross_entropy(ground, true_ground, reduction="sum")
        places = local.permute(0, 2, 3, 1).flatten(1)
        return total, F.binary_cross_entropy_with_logits(places, true_cells, reduction="sum")

    def clean(self, name: str, seed: int, number: int) -> tuple[list[np.ndarray], Tensor]:
        """See `Task`."""
        drawn = [scene(name, seed, n)[0] for n in range(number)]
        return [render(one, SIDE) for one in drawn], torch.from_numpy(np.stack([targets(one) for one in drawn]))

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Shares of scenes with all coloured kinds right, of cells and of backgrounds."""
        looks, cells, _ = ((logits > 0) == (labels > 0)).split(_SIZES, dim=1)
        right = logits[:, -_SIZES[2] :].argmax(1) == labels[:, -_SIZES[2] :].argmax(1)
        return {
            "all coloured kinds right": float(looks.all(1).float().mean()),
            "cells right": float(cells.float().mean()),
            "background right": float(right.float().mean()),
        }

    def changes(self, images: Sequence[np.ndarray], name: str, seed: int) -> Changes:
        """Another shape in place of each."""
        circles = [render(as_circles(scene(name, seed, n)[0]), SIDE) for n in range(len(images))]
        return {"all shapes circles": circles}
