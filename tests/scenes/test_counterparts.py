import numpy as np

from ddt_lightning.scenes.counterparts import counterpart, mirrored, opposed
from ddt_lightning.scenes.language import OPPOSITE, relation
from ddt_lightning.scenes.render import KINDS, Scene, Shape, apart, box, fits, place, sample_background, sample_scene
from ddt_lightning.scenes.suite import WORLD, held_out, place_pair, train_scene


def test_mirrored_scenes_are_mirrored_in_place_and_only_there():
    rng = np.random.default_rng(0)
    for number in range(60):
        scene, across = sample_scene(rng), bool(number % 2)
        other = mirrored(scene, across)
        assert other.background == scene.background and mirrored(other, across) == scene
        for a, b in zip(scene.shapes, other.shapes, strict=True):
            assert (a.kind, a.colour, a.radius) == (b.kind, b.colour, b.radius) and fits(b)
            (x1, y1, x2, y2), (u1, v1, u2, v2) = box(a), box(b)
            expected = (64 - x2, y1, 64 - x1, y2) if across else (x1, 64 - y2, x2, 64 - y1)
            assert np.allclose((u1, v1, u2, v2), expected)


def test_opposed_scenes_have_the_opposite_relation_of_the_same_shapes():
    rng, exchanged = np.random.default_rng(1), 0
    for number in range(80):
        where = list(OPPOSITE)[number % 4]
        first, second = (KINDS[n] for n in rng.permutation(6)[:2])
        scene = Scene(place_pair(rng, [(first, "red"), (second, "blue")], where), sample_background(rng))
        other = opposed(scene)
        assert relation(*scene.shapes) == where and relation(*other.shapes) == OPPOSITE[where]
        assert apart(*other.shapes) and all(fits(shape) for shape in other.shapes)
        assert [(s.kind, s.colour, s.radius) for s in other.shapes] == [
            (s.kind, s.colour, s.radius) for s in scene.shapes
        ]
        exchanged += (other.shapes[0].x, other.shapes[0].y) == (scene.shapes[1].x, scene.shapes[1].y)
    assert 20 < exchanged < 80
    for looks in ([("circle", "red")], [("circle", "red"), ("circle", "blue")]):
        assert opposed(Scene(place(rng, looks), scene.background)) is None


def test_counterparts_show_nothing_that_is_held_out():
    rng, found = np.random.default_rng(2), 0
    for number in range(150):
        scene = train_scene(rng)
        other = counterpart(scene, rng, WORLD, flips=number % 3 != 0, contrast=number % 3 != 1)
        if other is not None:
            found += 1
            assert other != scene and not held_out(other)
    assert found > 60
    # this place of the two is shown and its mirror image is held out
    scene = Scene((Shape("circle", "yellow", 45, 32, 12), Shape("diamond", "yellow", 18, 32, 12)), scene.background)
    assert not held_out(scene) and held_out(mirrored(scene, True))
    assert counterpart(scene, rng, WORLD, flips=False, contrast=True) is None
