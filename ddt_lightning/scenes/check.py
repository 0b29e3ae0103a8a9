"""Checker that reads an image: uint8 `[H, W, 3]` in, the shapes it shows and its background class out.

Classical and deterministic, no weights. The background is a plane fitted to the border; what differs from it falls into
connected pieces, touching pieces of two colours are cut apart, and each piece becomes a soft coverage (its projection
on the line from background to piece colour). A kind is fitted by moments: the piece's area and centroid fix size and
place of each kind's ideal drawing, which blur does not change, and the best overlap names the kind. A piece that
overlaps with no kind well enough is an object of kind None: a blob must not pass for the shape it resembles most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ddt_lightning.scenes.outlines import OUTLINES, area_and_centroid, length
from ddt_lightning.scenes.render import (
    CANVAS,
    COLOURS,
    CROSS_ARM,
    GROUND_RGB,
    HALF_BOX,
    KINDS,
    RING_HOLE,
    Box,
    Floats,
    signed_distance,
)

VERSION = 1  # raise it with every change that can alter a result; it belongs on every evaluation card
CONTRAST = 34.0  # RGB distance from the background that makes a pixel foreground
MIN_AREA = 24.0  # pixels of the 64-side canvas; less is noise, not an object
MAX_MISFIT = 0.09  # an outline that is off by more, as a share of the radius, names no kind
MIN_LEAD = 0.02  # a lead in overlap over the second best kind below this names no kind
RADIUS_RANGE = (6.0, 26.0)  # of the fitted kind; the world draws 9-22
MAX_OBJECTS = 16
SOFTNESS = (1.0, 2.5)  # widths of the ideal drawing's edge in pixels: sharp, and as a decoder blurs it
RELATIONS = ("left of", "right of", "above", "below")

# Area in units of radius squared, and how far the centroid lies below the box centre in units of the radius.
AREA = {
    "circle": math.pi,
    "square": 4 * HALF_BOX["square"][0] ** 2,
    "triangle": 2 * HALF_BOX["triangle"][0] * HALF_BOX["triangle"][1],
    "cross": 8 * CROSS_ARM - 4 * CROSS_ARM**2,
    "ring": math.pi * (1 - RING_HOLE**2),
    "diamond": 2 * HALF_BOX["diamond"][0] * HALF_BOX["diamond"][1],
    **{kind: area_and_centroid(corners)[0] for kind, corners in OUTLINES.items()},
}
# Outline length times radius over area: overlap that is lost when the outline is off by one radius on average.
FRAGILITY = {
    "circle": 2.0,
    "square": 2 / HALF_BOX["square"][0],
    "triangle": 2 * (1 + math.hypot(1.0, 2 * HALF_BOX["triangle"][1])) / AREA["triangle"],
    "cross": 8 / AREA["cross"],
    "ring": 2 / (1 - RING_HOLE),
    "diamond": 4 * math.hypot(*HALF_BOX["diamond"]) / AREA["diamond"],
    **{kind: length(corners) / AREA[kind] for kind, corners in OUTLINES.items()},
}
CENTROID = {
    "triangle": HALF_BOX["triangle"][1] / 3,
    **{kind: area_and_centroid(corners)[1] for kind, corners in OUTLINES.items()},
}


@dataclass(frozen=True)
class Object:
    """One detected object.

    Args:
        kind: its kind, None if it resembles none.
        colour: the nearest of the ten colours.
        box: `(x1, y1, x2, y2)` in pixels of the image.
        score: overlap with the ideal drawing of the best kind, 0-1.
    """

    kind: str | None
    colour: str
    box: Box
    score: float


@dataclass(frozen=True)
class Detected:
    """Content of an image: objects by descending score, and the background class (a key of `GROUND_RGB`)."""

    objects: list[Object]
    background: str


def lab(rgb: Floats) -> Floats:
    """CIE Lab (D65) of sRGB values 0-255, `[..., 3]`."""
    x = rgb / 255.0
    x = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    xyz = x @ np.array([[0.4339, 0.2126, 0.0178], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8727]])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


_PALETTE = lab(np.array(list(COLOURS.values()), np.float32))
_GROUND = lab(np.array(list(GROUND_RGB.values()), np.float32))
_GRID = np.arange(CANVAS, dtype=np.float32) + 0.5
_ROWS, _COLUMNS = np.meshgrid(_GRID / CANVAS * 2 - 1, _GRID / CANVAS * 2 - 1, indexing="ij")
_PLANE = np.stack([np.ones_like(_ROWS), _COLUMNS, _ROWS], -1)  # [64, 64, 3]: the terms of a plane
_BORDER = np.ones((CANVAS, CANVAS), bool)
_BORDER[2:-2, 2:-2] = False


def nearest_colour(rgb: Floats) -> str:
    """The name of the nearest of the ten colours in Lab."""
    return list(COLOURS)[int(np.argmin(((lab(rgb) - _PALETTE) ** 2).sum(-1)))]


def relations(a: Box, b: Box) -> list[str]:
    """GenEval's relative position of the object with box `a` to the one with box `b`: up to two of `RELATIONS`."""
    off_x, off_y = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    # Scalars, not arrays: the samplers of scenes call this often.
    dx = math.copysign(max(abs(off_x) - 0.1 * (a[2] - a[0] + b[2] - b[0]), 0), off_x)
    dy = math.copysign(max(abs(off_y) - 0.1 * (a[3] - a[1] + b[3] - b[1]), 0), off_y)
    if abs(dx) < 1e-3 and abs(dy) < 1e-3:
        return []
    half = 0.5 * math.hypot(off_x, off_y)
    return [
        name for name, holds in zip(RELATIONS, (dx < -half, dx > half, dy < -half, dy > half), strict=True) if holds
    ]


def _background(pixels: Floats) -> Floats:
    """The plane `[64, 64, 3]` through the border pixels, refitted without the half that lies off."""
    border, terms = pixels[_BORDER], _PLANE[_BORDER]
    keep = np.ones(len(border), bool)
    plane = np.zeros((3, 3), np.float32)
    plane[0] = np.median(border, 0)
    for _ in range(3):
        error = np.abs(border - terms @ plane).max(-1)
        keep = error <= max(2.5 * float(np.median(error)), 6.0)
        plane = np.linalg.lstsq(terms[keep], border[keep], rcond=None)[0]
    return _PLANE @ plane


def _blend(colour: Floats, of: Floats, ground: Floats) -> bool:
    """Whether a colour lies about between another one and the background, as a blurred edge's does."""
    line = of - ground
    share = float(np.clip((colour - ground) @ line / max(float(line @ line), 1.0), 0, 1))
    return share < 0.9 and float(np.linalg.norm(ground + share * line - colour)) < CONTRAST


def _colours(pixels: Floats, ground: Floats, piece: NDArray[np.bool_], depth: Floats) -> list[Floats]:
    """The one or two colours of a connected piece: RGB `[3]` each, taken where it is deep."""
    deepest = depth[piece].max()
    inner = pixels[piece & (depth >= min(2.0, deepest))]
    names = np.argmin(((lab(inner)[:, None] - _PALETTE) ** 2).sum(-1), -1)
    counts = np.bincount(names, minlength=len(COLOURS))
    first, second = np.argsort(-counts, kind="stable")[:2]
    if counts[second] >= max(0.2 * len(inner), MIN_AREA):
        a, b = (np.median(inner[names == name], 0) for name in (first, second))
        under = ground[piece].mean(0)
        if np.linalg.norm(a - b) > 2 * CONTRAST and not _blend(a, b, under) and not _blend(b, a, under):
            return [a, b]
    return [np.median(pixels[piece & (depth >= 0.75 * deepest)], 0)]


def _fit(coverage: Floats, top: int, left: int, kinds: Sequence[str]) -> tuple[str | None, Box, float]:
    """The kind, box and score of one piece from its soft coverage `[h, w]` at `(top, left)` of the canvas."""
    height, width = coverage.shape
    xs, ys = left + 0.5 + np.arange(width, dtype=np.float32), top + 0.5 + np.arange(height, dtype=np.float32)
    area = float(coverage.sum())
    x, y = float((coverage.sum(0) * xs).sum() / area), float((coverage.sum(1) * ys).sum() / area)
    ranked = []
    for kind in kinds:
        radius = math.sqrt(area / AREA[kind])
        centre = y - CENTROID.get(kind, 0.0) * radius
        distance = signed_distance(kind, xs[None, :] - x, ys[:, None] - centre, radius)
        score = 0.0
        for softness in SOFTNESS:
            ideal = np.clip(0.5 - distance / softness, 0, 1)
            common = float(np.minimum(ideal, coverage).sum())
            score = max(score, common / (area + float(ideal.sum()) - common))
        half_width, half_height = (side * radius for side in HALF_BOX[kind])
        ranked.append(
            (score, kind, radius, (x - half_width, centre - half_height, x + half_width, centre + half_height))
        )
    ranked.sort(reverse=True)
    score, kind, radius, box = ranked[0]
    low, high = RADIUS_RANGE
    alike = 1 - score <= MAX_MISFIT * FRAGILITY[kind] and score - ranked[1][0] >= MIN_LEAD
    sure = alike and low <= radius <= high
    return (kind if sure else None), box, score


def detect(image: NDArray[np.uint8], kinds: Sequence[str] = KINDS) -> Detected:
    """Read the objects and the background class of an image of any side.

    Args:
        image: uint8 `[H, W, 3]`; it is read at 64 x 64.
        kinds: what an object can be.

    Raises:
        ValueError: `image` is not uint8 `[H, W, 3]`.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"`image` is {image.dtype} {list(image.shape)}; give uint8 [H, W, 3].")
    scale_x, scale_y = image.shape[1] / CANVAS, image.shape[0] / CANVAS
    if image.shape[:2] != (CANVAS, CANVAS):
        resample = Image.Resampling.BOX if min(scale_x, scale_y) >= 1 else Image.Resampling.BILINEAR
        image = np.asarray(Image.fromarray(image).resize((CANVAS, CANVAS), resample))
    pixels = image.astype(np.float32)
    ground = _background(pixels)
    middle = lab(ground.mean((0, 1)))
    name = list(GROUND_RGB)[int(np.argmin(((middle - _GROUND) ** 2).sum(-1)))]

    foreground = np.linalg.norm(pixels - ground, axis=-1) > CONTRAST
    depth = ndimage.distance_transform_edt(foreground)
    objects: list[Object] = []
    pieces, _ = ndimage.label(foreground)
    for number, window in enumerate(ndimage.find_objects(pieces), 1):
        if (pieces[window] == number).sum() < MIN_AREA:
            continue
        # Two pixels more on each side: the soft edge lies outside the foreground.
        rows, columns = (slice(max(part.start - 2, 0), part.stop + 2) for part in window)
        piece = pieces[rows, columns] == number
        here, under = pixels[rows, columns], ground[rows, columns]
        near = ndimage.binary_dilation(piece, iterations=2) & (piece | (pieces[rows, columns] == 0))
        colours = _colours(here, under, piece, depth[rows, columns])
        distances = [np.linalg.norm(here - colour, axis=-1) for colour in colours]
        for colour, distance in zip(colours, distances, strict=True):
            line = colour - under
            coverage = np.clip(((here - under) * line).sum(-1) / np.maximum((line**2).sum(-1), 1.0), 0, 1)
            coverage = np.where(near & (distance <= np.minimum.reduce(distances)), coverage, 0)
            parts, _ = ndimage.label(coverage > 0.5)
            for index, cut in enumerate(ndimage.find_objects(parts), 1):
                part = parts == index
                if part[cut].sum() < MIN_AREA:
                    continue
                around = ndimage.binary_dilation(part, iterations=2) & (part | (parts == 0))
                soft = np.clip((np.where(around, coverage, 0) - 0.06) / 0.88, 0, 1).astype(np.float32)
                kind, (x1, y1, x2, y2), score = _fit(soft, rows.start, columns.start, kinds)
                own = nearest_colour(colour)
                placed = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
                objects.append(Object(kind, own, placed, score))
    objects.sort(key=lambda found: (-found.score, found.box))
    return Detected(objects[:MAX_OBJECTS], name)
