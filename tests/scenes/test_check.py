from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from ddt_lightning.metrics.geneval import rows, shuffled, summary
from ddt_lightning.scenes.check import MIN_AREA, detect, relations
from ddt_lightning.scenes.render import (
    ALL_KINDS,
    COLOURS,
    GROUND_RGB,
    KINDS,
    Background,
    Scene,
    Shape,
    place,
    render,
    sample_background,
    sample_looks,
    sample_scene,
)
from ddt_lightning.scenes.suite import as_circles, suite, truth

PROMPTS = [row for row in suite() for _ in range(4)]


def soil(image, rng, blur, noise):
    """Blur and noise as a small tokenizer's reconstruction has them."""
    blurred = ndimage.gaussian_filter(image.astype(float), (blur, blur, 0))
    return np.clip(blurred + rng.normal(0, noise, image.shape) + 0.5, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def truths():
    rng = np.random.default_rng(2)
    return [truth(row, rng) for row in PROMPTS]


def test_ceiling_and_shuffled_floor(truths):
    found = [detect(render(scene)).objects for scene in truths]
    assert summary(rows(found, PROMPTS))["overall"] >= 0.99
    assert min(summary(rows(found, PROMPTS)).values()) >= 0.95
    assert summary(rows(found, shuffled(PROMPTS)))["overall"] <= 0.05
    layout = summary(rows(found, PROMPTS, ignore_kind=True))
    assert layout["overall"] >= 0.99
    # Without kinds some tags ask for little; the floor is high and is to be shown beside the score.
    assert summary(rows(found, shuffled(PROMPTS), ignore_kind=True))["overall"] <= 0.5


def test_blurred_and_noisy_truths_pass(truths):
    rng = np.random.default_rng(3)
    found = [detect(soil(render(scene), rng, 0.7, 7)).objects for scene in truths]
    assert summary(rows(found, PROMPTS))["overall"] >= 0.97


@pytest.mark.parametrize("soiled", [False, True])
def test_circles_for_every_shape_do_not_pass(truths, soiled):
    rng = np.random.default_rng(4)
    chosen = [n for n, row in enumerate(PROMPTS) if all(entry["class"] != "circle" for entry in row["include"])][::2]
    images = [render(as_circles(truths[n])) for n in chosen]
    images = [soil(image, rng, 1.0, 8) for image in images] if soiled else images
    found = [detect(image).objects for image in images]
    assert summary(rows(found, [PROMPTS[n] for n in chosen]))["overall"] <= 0.05


def test_blank_and_noise_show_nothing():
    rng = np.random.default_rng(5)
    for rgb in GROUND_RGB.values():
        assert detect(np.full((64, 64, 3), rgb, np.uint8)).objects == []
    for _ in range(5):
        noise = detect(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
        assert all(one.kind is None for one in noise.objects)


def test_random_blobs_are_mostly_rejected():
    rng = np.random.default_rng(6)
    ys, xs = np.mgrid[:64, :64]
    named = Counter()
    for _ in range(100):
        field = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 5) - 1e-4 * ((xs - 32) ** 2 + (ys - 32) ** 2)
        labels, _ = ndimage.label(field > np.sort(field.ravel())[-int(rng.uniform(250, 900))])
        blob = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
        image = np.full((64, 64, 3), GROUND_RGB["grey day"], np.uint8)
        image[blob] = COLOURS["red"]
        named.update(one.kind for one in detect(image).objects)
    assert named[None] >= 0.8 * named.total()


@pytest.mark.parametrize("kind", KINDS)
def test_every_look_on_every_ground(kind):
    for colour in COLOURS:
        for ground in GROUND_RGB:
            scene = Scene((Shape(kind, colour, 30.0, 33.0, 11.0),), Background(*ground.split(), 10.0, 1.0))
            found = detect(render(scene))
            assert [(one.kind, one.colour) for one in found.objects] == [(kind, colour)], (kind, colour, ground)
            assert found.background == ground


@pytest.mark.parametrize("number", [12, 18])
def test_more_kinds_are_told_apart(number):
    """At least 0.99 of the renders of every kind are read as it, also blurred and noisy, in scenes of up to four."""
    rng, kinds = np.random.default_rng(number), ALL_KINDS[:number]
    shown, right = Counter(), Counter()
    for count in range(number * 26):
        looks = [(kinds[count % number], "red"), *sample_looks(rng, int(rng.integers(0, 4)), kinds)]
        scene = Scene(place(rng, looks), sample_background(rng))
        image = soil(render(scene), rng, 0.7, 7) if count % 2 else render(scene)
        found = Counter((one.kind, one.colour) for one in detect(image, kinds).objects)
        for shape in scene.shapes:
            shown[shape.kind] += 1
            right[shape.kind] += min(found[shape.kind, shape.colour], 1)
    assert min(shown.values()) >= 50 and all(right[kind] >= 0.99 * shown[kind] for kind in kinds), (right, shown)


def test_a_kind_that_is_not_asked_about_is_not_named():
    ground = Background("grey", "day")
    for kind in ALL_KINDS[6:]:
        found = detect(render(Scene((Shape(kind, "red", 32.0, 32.0, 14.0),), ground))).objects
        assert [one.kind for one in found] == [None], kind


def test_places_of_random_scenes_at_several_sides():
    rng = np.random.default_rng(7)
    for number in range(60):
        scene, side = sample_scene(rng), (64, 128, 48)[number % 3]
        found = detect(render(scene, side))
        assert Counter((one.kind, one.colour) for one in found.objects) == Counter(
            (shape.kind, shape.colour) for shape in scene.shapes
        )
        assert found.background == scene.background.name
        for one in found.objects:
            x, y = (one.box[0] + one.box[2]) / 2 * 64 / side, (one.box[1] + one.box[3]) / 2 * 64 / side
            assert min(np.hypot(shape.x - x, shape.y - y) for shape in scene.shapes) < 0.5
        assert [one.score for one in found.objects] == sorted((one.score for one in found.objects), reverse=True)


def test_touching_shapes_of_two_colours_are_cut_apart():
    shapes = (Shape("square", "red", 22.0, 32.0, 11.0), Shape("circle", "blue", 42.0, 32.0, 11.0))
    found = detect(render(Scene(shapes, Background("sand", "day"))))
    assert {(one.kind, one.colour) for one in found.objects} == {("square", "red"), ("circle", "blue")}


def test_specks_are_not_objects():
    image = np.full((64, 64, 3), GROUND_RGB["grey night"], np.uint8)
    image[10:14, 10:14] = 255
    assert 16 < MIN_AREA and detect(image).objects == []


def reference_relations(a, b):
    """The official code's formula, with arrays."""
    a, b = np.array(a).reshape(2, 2), np.array(b).reshape(2, 2)
    offset = (a.mean(0)) - (b.mean(0))
    revised = np.maximum(np.abs(offset) - 0.1 * ((a[1] - a[0]) + (b[1] - b[0])), 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    names = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, true in names.items() if true}


def test_relations_are_the_official_ones():
    rng = np.random.default_rng(8)
    for _ in range(2000):
        (x, y, w, h), (u, v, p, q) = rng.integers(0, 40, (2, 4))
        a, b = (x, y, x + w + 1, y + h + 1), (u, v, u + p + 1, v + q + 1)
        assert set(relations(a, b)) == reference_relations(a, b)
    assert relations((0, 0, 4, 4), (0, 0, 4, 4)) == []
    assert set(relations((0, 0, 4, 4), (30, 30, 34, 34))) == {"left of", "above"}


def test_errors():
    with pytest.raises(ValueError, match="give uint8"):
        detect(np.zeros((64, 64, 3), np.float32))
