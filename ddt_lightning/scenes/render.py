"""Renderer of scenes: shapes and a background in, an antialiased uint8 image `[H, W, 3]` out.

Lengths are pixels of a 64-side canvas (`CANVAS`), x to the right and y downwards, and scale with the wanted side. Every
kind is a signed distance function, so one pixel's coverage is analytic and the same scene gives the same bytes. The
background colours lie far from all ten shape colours, by day and by night: whatever is drawn can be read back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.scenes.outlines import OUTLINES, half_box, polygon_distance

Floats = NDArray[np.floating]
Box = tuple[float, float, float, float]

CANVAS = 64
KINDS = ("circle", "square", "triangle", "cross", "ring", "diamond")
ALL_KINDS = (*KINDS, *OUTLINES)
"""All 18 kinds that can be drawn; a world has the first 6, 12 or 18."""
# The ten GenEval colours in GenEval's order; the values are ours, chosen far apart.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "orange": (255, 136, 12),
    "yellow": (252, 228, 40),
    "green": (28, 150, 52),
    "blue": (36, 76, 224),
    "purple": (132, 30, 168),
    "pink": (255, 140, 200),
    "brown": (118, 62, 22),
    "black": (8, 8, 10),
    "white": (252, 252, 252),
}
GROUNDS = ("grey", "teal", "sand")
TIMES = ("day", "night")
GROUND_RGB: dict[str, tuple[int, int, int]] = {
    "grey day": (158, 162, 168),
    "grey night": (72, 76, 84),
    "teal day": (116, 186, 186),
    "teal night": (28, 84, 92),
    "sand day": (204, 190, 152),
    "sand night": (114, 114, 88),
}
MARGIN = 2.0  # free pixels between a shape and the border
GAP = 3.0  # free pixels between the boxes of two shapes
# Smallest and largest radius by number of shapes in the scene.
RADII = {1: (13.0, 22.0), 2: (11.0, 16.0), 3: (9.5, 12.5), 4: (9.0, 11.0)}

# Half width and half height of each kind's box in units of the radius; a shape's (x, y) is its box centre.
HALF_BOX = {
    "circle": (1.0, 1.0),
    "square": (0.86, 0.86),
    "triangle": (1.0, 0.9),
    "cross": (1.0, 1.0),
    "ring": (1.0, 1.0),
    "diamond": (0.78, 1.0),
    **{kind: half_box(corners) for kind, corners in OUTLINES.items()},
}
CROSS_ARM = 0.32  # half width of an arm
RING_HOLE = 0.55  # inner radius


@dataclass(frozen=True)
class Shape:
    """One coloured shape.

    Args:
        kind: one of `ALL_KINDS`.
        colour: a key of `COLOURS`.
        x: centre of the shape's box, pixels from the left of the 64-side canvas.
        y: centre of the shape's box, pixels from the top.
        radius: half the size in pixels (see `HALF_BOX`).
    """

    kind: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Background:
    """Background of a scene: a colour by day or by night, plain or with a soft linear shade.

    Args:
        colour: one of `GROUNDS`.
        time: `day` or `night`.
        shade: the largest deviation from the colour, in 8-bit levels, reached at the canvas' edge; 0 is plain.
        angle: direction of the shade in radians.
    """

    colour: str
    time: str
    shade: float = 0.0
    angle: float = 0.0

    @property
    def name(self) -> str:
        """The class that a checker can read back, e.g. `teal night`."""
        return f"{self.colour} {self.time}"


@dataclass(frozen=True)
class Scene:
    """Shapes that do not overlap, on a background."""

    shapes: tuple[Shape, ...]
    background: Background

    def to_dict(self) -> dict:
        """Plain data for json; `from_dict` reads it back."""
        return {"shapes": [vars(shape).copy() for shape in self.shapes], "background": vars(self.background).copy()}

    @staticmethod
    def from_dict(data: dict) -> "Scene":
        """The scene that `to_dict` wrote."""
        return Scene(tuple(Shape(**shape) for shape in data["shapes"]), Background(**data["background"]))


def signed_distance(kind: str, dx: Floats, dy: Floats, radius: float) -> Floats:
    """Distance to the outline in pixels, negative inside, for offsets `dx`, `dy` from the box centre.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind == "circle":
        return np.hypot(dx, dy) - radius
    if kind == "ring":
        middle, half = radius * (1 + RING_HOLE) / 2, radius * (1 - RING_HOLE) / 2
        return abs(np.hypot(dx, dy) - middle) - half
    ax, ay = abs(dx), abs(dy)
    width, height = (radius * side for side in HALF_BOX[kind]) if kind in HALF_BOX else (0.0, 0.0)
    if kind == "square":
        return np.maximum(ax, ay) - width
    if kind == "diamond":
        return (ax * height + ay * width - width * height) / math.hypot(width, height)
    if kind == "triangle":
        slope = math.hypot(2 * height, width)
        return np.maximum((ax * 2 * height - (dy + height) * width) / slope, dy - height)
    if kind == "cross":
        arm = radius * CROSS_ARM
        return np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ax - arm, ay - radius))
    if kind in OUTLINES:
        return radius * polygon_distance(OUTLINES[kind], dx / radius, dy / radius)
    raise ValueError(f"A shape's kind is {kind!r}; it must be one of {', '.join(ALL_KINDS)}.")


def box(shape: Shape) -> Box:
    """The shape's box `(x1, y1, x2, y2)` in pixels of the 64-side canvas."""
    width, height = HALF_BOX[shape.kind]
    return (
        shape.x - width * shape.radius,
        shape.y - height * shape.radius,
        shape.x + width * shape.radius,
        shape.y + height * shape.radius,
    )


def render(scene: Scene, side: int = CANVAS) -> NDArray[np.uint8]:
    """Draw the scene as uint8 `[side, side, 3]`."""
    scale = side / CANVAS
    grid = np.arange(side, dtype=np.float32) + 0.5
    image = np.empty((side, side, 3), np.float32)
    ground = scene.background
    image[:] = GROUND_RGB[ground.name]
    if ground.shade:
        along = (grid / side * 2 - 1) * ground.shade
        ramp = math.cos(ground.angle) * along[None, :] + math.sin(ground.angle) * along[:, None]
        image += ramp[:, :, None] / (abs(math.cos(ground.angle)) + abs(math.sin(ground.angle)))
    for shape in scene.shapes:
        x1, y1, x2, y2 = (edge * scale for edge in box(shape))
        rows = slice(max(int(y1) - 1, 0), max(int(y2) + 2, 0))
        columns = slice(max(int(x1) - 1, 0), max(int(x2) + 2, 0))
        dx, dy = grid[None, columns] - shape.x * scale, grid[rows, None] - shape.y * scale
        inside = np.clip(0.5 - signed_distance(shape.kind, dx, dy, shape.radius * scale), 0, 1)[:, :, None]
        window = image[rows, columns]
        window += inside * (np.array(COLOURS[shape.colour], np.float32) - window)
    return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def apart(a: Shape, b: Shape, gap: float = GAP) -> bool:
    """Whether the boxes of two shapes leave `gap` free pixels between them on one axis."""
    ax1, ay1, ax2, ay2 = box(a)
    bx1, by1, bx2, by2 = box(b)
    return max(bx1 - ax2, ax1 - bx2, by1 - ay2, ay1 - by2) >= gap


def fits(shape: Shape) -> bool:
    """Whether the shape keeps its margin to the canvas' border."""
    x1, y1, x2, y2 = box(shape)
    # Coordinates are rounded to 0.01; the tolerance takes that up.
    return min(x1, y1) >= MARGIN - 0.02 and max(x2, y2) <= CANVAS - MARGIN + 0.02


def sample_background(rng: np.random.Generator) -> Background:
    """A background of any class: half plain, half softly shaded."""
    colour, time = GROUNDS[rng.integers(len(GROUNDS))], TIMES[rng.integers(2)]
    if rng.random() < 0.5:
        return Background(colour, time)
    return Background(colour, time, round(float(rng.uniform(4, 14)), 1), round(float(rng.uniform(0, 2 * math.pi)), 2))


def place(
    rng: np.random.Generator,
    looks: list[tuple[str, str]],
    radii: tuple[float, float] | None = None,
    fits: Callable[[Shape, Sequence[Shape]], bool] = lambda shape, before: True,
) -> tuple[Shape, ...]:
    """Put shapes of the given `(kind, colour)` anywhere without overlap.

    Args:
        rng: where the draws come from.
        looks: kind and colour of each shape, at most four.
        radii: smallest and largest radius; by default from the number of shapes.
        fits: whether a shape may stand where it was put, given those before it.

    Raises:
        ValueError: no or more than four shapes are wanted.
    """
    if len(looks) not in RADII:
        raise ValueError(f"`looks` has {len(looks)} shapes; a scene holds 1 to {max(RADII)}.")
    low, high = radii or RADII[len(looks)]
    while True:
        shapes: list[Shape] = []
        for kind, colour in looks:
            for draw in rng.random((24, 3)).tolist():
                radius = low + (high - low) * draw[2]
                half_width, half_height = (radius * side + MARGIN for side in HALF_BOX[kind])
                x = half_width + (CANVAS - 2 * half_width) * draw[0]
                y = half_height + (CANVAS - 2 * half_height) * draw[1]
                # Rounded so that a scene in json stays short.
                shape = Shape(kind, colour, round(x, 2), round(y, 2), round(radius, 2))
                if all(apart(shape, other) for other in shapes) and fits(shape, shapes):
                    shapes.append(shape)
                    break
            else:
                break
        if len(shapes) == len(looks):
            return tuple(shapes)


def sample_looks(rng: np.random.Generator, count: int, kinds: Sequence[str] = KINDS) -> list[tuple[str, str]]:
    """Kind and colour of so many shapes, each drawn evenly from these kinds and all colours."""
    names = list(COLOURS)
    drawn = zip(rng.integers(len(kinds), size=count), rng.integers(len(names), size=count), strict=True)
    return [(kinds[k], names[c]) for k, c in drawn]


def sample_scene(rng: np.random.Generator, kinds: Sequence[str] = KINDS) -> Scene:
    """Any scene of the world with these kinds: 1-4 shapes of any kinds and colours, anywhere."""
    looks = sample_looks(rng, int(rng.integers(1, 5)), kinds)
    return Scene(place(rng, looks), sample_background(rng))
