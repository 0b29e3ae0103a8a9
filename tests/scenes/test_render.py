import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ddt_lightning.scenes.check import AREA, CENTROID
from ddt_lightning.scenes.outlines import OUTLINES, polygon_distance
from ddt_lightning.scenes.render import (
    CANVAS,
    COLOURS,
    GAP,
    GROUND_RGB,
    HALF_BOX,
    KINDS,
    MARGIN,
    RADII,
    Background,
    Scene,
    Shape,
    apart,
    box,
    place,
    render,
    sample_scene,
    signed_distance,
)

GREY = Background("grey", "day")


def coverage(kind, radius, side=CANVAS):
    """Coverage of one black shape in the middle, from the image itself."""
    image = render(Scene((Shape(kind, "black", 32.3, 31.6, radius),), GREY), side).astype(float)
    ground, black = np.array(GROUND_RGB["grey day"], float), np.array(COLOURS["black"], float)
    return ((image - ground) * (black - ground)).sum(-1) / ((black - ground) ** 2).sum()


def mask(kind, radius, fine=16):
    """The shape's exact area at high resolution, by point-in-shape tests written out independently."""
    grid = (np.arange(CANVAS * fine) + 0.5) / fine
    x, y = (grid[None, :] - 32.3) / radius, (grid[:, None] - 31.6) / radius
    ax, ay = abs(x), abs(y)
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": (ax <= 0.86) & (ay <= 0.86),
        "triangle": (y <= 0.9) & (ax <= (y + 0.9) / 1.8),
        "cross": ((ax <= 1) & (ay <= 0.32)) | ((ay <= 1) & (ax <= 0.32)),
        "ring": (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2),
        "diamond": ax / 0.78 + ay <= 1,
    }[kind]
    return inside.reshape(CANVAS, fine, CANVAS, fine).mean((1, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [9.0, 15.7, 22.0])
def test_coverage_is_that_of_supersampling(kind, radius):
    drawn, exact = coverage(kind, radius), mask(kind, radius)
    assert abs(drawn.sum() - exact.sum()) / exact.sum() < 0.01
    # A distance gives the coverage of a straight edge; at an acute corner one pixel may be off by more.
    assert np.abs(drawn - exact).max() < 0.35 and np.abs(drawn - exact).mean() < 0.003


@pytest.mark.parametrize("kind", KINDS)
def test_box_area_and_centroid(kind):
    exact = mask(kind, 15.7)
    shape = Shape(kind, "black", 32.3, 31.6, 15.7)
    rows, columns = np.where(exact > 0)
    x1, y1, x2, y2 = box(shape)
    assert (math.floor(x1), math.floor(y1)) == (columns.min(), rows.min())
    assert (math.ceil(x2), math.ceil(y2)) == (columns.max() + 1, rows.max() + 1)
    assert exact.sum() == pytest.approx(AREA[kind] * 15.7**2, rel=0.003)
    centroid = (exact.sum(1) * (np.arange(CANVAS) + 0.5)).sum() / exact.sum()
    assert centroid == pytest.approx(31.6 + CENTROID.get(kind, 0.0) * 15.7, abs=0.05)


@pytest.mark.parametrize("kind", sorted(OUTLINES))
def test_outlines_are_filled_boxed_and_measured(kind):
    """Against Pillow's filled polygon of the same corners, at high resolution."""
    radius, fine = 15.7, 16
    corners = [((32.3 + radius * x) * fine, (31.6 + radius * y) * fine) for x, y in OUTLINES[kind]]
    canvas = Image.new("L", (CANVAS * fine, CANVAS * fine))
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    exact = np.asarray(canvas, float).reshape(CANVAS, fine, CANVAS, fine).mean((1, 3))
    error = coverage(kind, radius) - exact
    assert abs(error).max() < 0.35 and abs(error).mean() < 0.01
    assert exact.sum() == pytest.approx(AREA[kind] * radius**2, rel=0.02)
    for axis, centre, offset in ((0, 32.3, 0.0), (1, 31.6, CENTROID[kind] * radius)):
        centroid = (exact.sum(axis) * (np.arange(CANVAS) + 0.5)).sum() / exact.sum()
        assert centroid == pytest.approx(centre + offset, abs=0.1)
    assert max(HALF_BOX[kind]) == pytest.approx(1)
    xs, ys = (np.array(axis) for axis in zip(*OUTLINES[kind], strict=True))
    assert (xs.max(), ys.max(), -xs.min(), -ys.min()) == pytest.approx(HALF_BOX[kind] * 2)


def test_distance_to_an_outline_is_that_of_its_edges():
    xs, ys = np.meshgrid(np.linspace(-1.5, 1.5, 13), np.linspace(-1.5, 1.5, 11))
    bar = OUTLINES["bar"]  # a rectangle of half sides 1 and 0.4, whose distance has a closed form
    dx, dy = abs(xs) - 1, abs(ys) - 0.4
    expected = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    assert polygon_distance(bar, xs, ys) == pytest.approx(expected, abs=1e-12)


def test_other_sides_show_the_same_scene():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng)
        large = render(scene, 128).astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(large - render(scene)).mean() < 1.0
    assert render(scene, 32).shape == (32, 32, 3)


def test_same_seed_same_bytes_and_json_keeps_the_scene():
    for seed in range(20):
        scene, again = (sample_scene(np.random.default_rng(seed)) for _ in range(2))
        assert scene == again
        read = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
        assert read == scene
        assert render(read).tobytes() == render(scene).tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shapes_keep_their_distance(count):
    rng = np.random.default_rng(count)
    for _ in range(100):
        shapes = place(rng, [(KINDS[rng.integers(6)], "red")] * count)
        assert len(shapes) == count
        for number, shape in enumerate(shapes):
            x1, y1, x2, y2 = box(shape)
            assert min(x1, y1) >= MARGIN - 0.02 and max(x2, y2) <= CANVAS - MARGIN + 0.02
            assert RADII[count][0] - 0.01 <= shape.radius <= RADII[count][1] + 0.01
            assert all(apart(shape, other, GAP) for other in shapes[:number])


def test_shade_is_a_ramp_of_the_given_strength():
    image = render(Scene((), Background("teal", "night", 12.0, 0.0))).astype(float)
    assert np.ptp(image.std(0)) < 1e-6  # no change along y
    assert image[0, -1, 0] - image[0, 0, 0] == pytest.approx(24, abs=1.5)
    assert image.mean((0, 1)) == pytest.approx(GROUND_RGB["teal night"], abs=0.6)


def test_errors():
    with pytest.raises(ValueError, match="must be one of circle"):
        signed_distance("blob", np.zeros((1, 1)), np.zeros((1, 1)), 5.0)
    with pytest.raises(ValueError, match="5 shapes"):
        place(np.random.default_rng(0), [("circle", "red")] * 5)
