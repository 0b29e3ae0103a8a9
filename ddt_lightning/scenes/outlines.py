"""Outlines of the kinds beyond the first six: polygons in units of the radius, x to the right and y downwards.

Each lies around the centre of its box, whose longer half side is 1. Distance, area, centroid and length of the outline
follow from the corners, so that a kind is its polygon and its name. All are the same mirrored left to right, or, the
bolt, turned by half a circle: the centroid lies on the vertical through the centre.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Corners = tuple[tuple[float, float], ...]


def centred(points: Sequence[tuple[float, float]]) -> Corners:
    """The polygon moved and scaled so that its box lies around 0 and its longer half side is 1."""
    xs, ys = zip(*points, strict=True)
    x, y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return tuple(((px - x) / half, (py - y) / half) for px, py in points)


def mirrored(right: Sequence[tuple[float, float]]) -> Corners:
    """The polygon whose right half runs from top to bottom through these corners."""
    left = [(-x, y) for x, y in reversed(right) if x]
    return centred([*right, *left])


def _arc(radius: float, y: float, start: float, stop: float, corners: int) -> list[tuple[float, float]]:
    """Corners on a circle around (0, y), from one angle to another in degrees; 0 points right and 90 down."""
    angles = np.radians(np.linspace(start, stop, corners))
    return [(radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles.tolist()]


def _star() -> Corners:
    turns = [(math.pi * (n / 5 - 0.5), 0.45 if n % 2 else 1.0) for n in range(10)]
    return centred([(reach * math.cos(angle), reach * math.sin(angle)) for angle, reach in turns])


def _heart() -> Corners:
    turns = [math.pi * n / 18 for n in range(36)]
    ys = [5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t) for t in turns]
    return centred([(16 * math.sin(t) ** 3, y) for t, y in zip(turns, ys, strict=True)])


OUTLINES: dict[str, Corners] = {
    "star": _star(),
    "heart": _heart(),
    "arrow": mirrored([(0, -1), (0.9, -0.05), (0.36, -0.05), (0.36, 1)]),
    "bow": mirrored([(0, -0.2), (1, -0.75), (1, 0.75), (0, 0.2)]),
    "bar": mirrored([(1, -0.4), (1, 0.4)]),
    "pillar": mirrored([(0.4, -1), (0.4, 1)]),
    "crescent": centred([*_arc(1.0, 0.0, -21.9, 201.9, 23), *_arc(0.96, -0.62, 165.1, 14.9, 15)[1:-1]]),
    "dome": centred(_arc(1.0, 0.0, -180, 0, 25)),
    "bolt": centred([(-0.1, -1), (0.7, -1), (0.3, -0.2), (0.75, -0.2), (0.1, 1), (-0.7, 1), (-0.3, 0.2), (-0.75, 0.2)]),
    "tee": mirrored([(0.95, -1), (0.95, -0.36), (0.33, -0.36), (0.33, 1)]),
    "gate": mirrored([(0.95, -1), (0.95, 1), (0.38, 1), (0.38, -0.36)]),
    "chevron": mirrored([(0, -0.85), (1, 0.1), (1, 0.85), (0, -0.1)]),
}


def polygon_distance(corners: Corners, x: Floats, y: Floats) -> Floats:
    """Distance from the points `(x, y)` to the outline, negative inside; the shapes of `x` and `y` broadcast."""
    squared = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
    inside = np.zeros(squared.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:  # the edge is crossed by a ray to the right of the point
            inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * ex / (by - ay))
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)


def half_box(corners: Corners) -> tuple[float, float]:
    """Half width and half height."""
    return max(x for x, _ in corners), max(y for _, y in corners)


def area_and_centroid(corners: Corners) -> tuple[float, float]:
    """Area, and how far the centroid lies below the centre of the box."""
    xs, ys = np.array(corners).T
    nx, ny = np.roll(xs, -1), np.roll(ys, -1)
    cross = xs * ny - nx * ys
    return float(abs(cross.sum()) / 2), float(((ys + ny) * cross).sum() / (3 * cross.sum()))


def length(corners: Corners) -> float:
    """Length of the outline."""
    return sum(math.dist(a, b) for a, b in zip(corners, (*corners[1:], corners[0]), strict=True))
