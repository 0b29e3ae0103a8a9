"""Counterparts of a scene, which differ from it in where things stand and in nothing else.

Shapes are moved, never turned: an arrow that points up still does in a mirrored scene. A caption that is drawn for a
counterpart as the scene's own was has the same words but for those of places and relations.
"""

from dataclasses import replace

import numpy as np

from ddt_lightning.scenes.combinations import shows
from ddt_lightning.scenes.language import OPPOSITE, relation
from ddt_lightning.scenes.render import CANVAS, Scene, apart, fits
from ddt_lightning.scenes.world import World


def mirrored(scene: Scene, across: bool) -> Scene:
    """The scene with the places of its shapes mirrored, left to right if `across`, else top to bottom."""
    shapes = [
        replace(shape, x=round(CANVAS - shape.x, 2)) if across else replace(shape, y=round(CANVAS - shape.y, 2))
        for shape in scene.shapes
    ]
    return Scene(tuple(shapes), scene.background)


def opposed(scene: Scene) -> Scene | None:
    """The scene of two kinds in one relation with the opposite relation; None for other scenes.

    The shapes exchange their places, or, where one does not fit into the other's, are mirrored along the relation.
    """
    if len({shape.kind for shape in scene.shapes}) != 2 or len(scene.shapes) != 2:
        return None
    a, b = scene.shapes
    held = relation(a, b)
    c, d = replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)
    if held is None:
        return None
    if fits(c) and fits(d) and apart(c, d) and relation(c, d) == OPPOSITE[held]:
        return Scene((c, d), scene.background)
    return mirrored(scene, held in ("left of", "right of"))


def counterpart(scene: Scene, rng: np.random.Generator, world: World, *, flips: bool, contrast: bool) -> Scene | None:
    """One of the scene's counterparts that training may show, all equally likely.

    Args:
        scene: a training scene.
        rng: where the draw comes from.
        world: decides what may be shown.
        flips: mirrored scenes count.
        contrast: the scene with the opposite relation counts.

    Returns:
        None where there is none: each would show a held-out combination, or be the scene itself.
    """
    found = [mirrored(scene, across) for across in (True, False)] if flips else []
    if contrast and (other := opposed(scene)):
        found.append(other)
    found = [other for other in dict.fromkeys(found) if other != scene and shows(other, world)]
    return found[int(rng.integers(len(found)))] if found else None
