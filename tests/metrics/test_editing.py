import numpy as np
import pytest

from ddt_lightning.metrics.editing import exact_match, kept_l1
from ddt_lightning.scenes.render import Background, Scene, Shape, render

GROUND = Background("grey", "day")
CIRCLE, RING = Shape("circle", "red", 18, 20, 10), Shape("ring", "blue", 46, 44, 10)
TARGET = Scene((CIRCLE, RING), GROUND)


def moved(shape, dx):
    return Shape(shape.kind, shape.colour, shape.x + dx, shape.y, shape.radius)


def test_exact_match_minds_kind_colour_count_and_place():
    target = TARGET.to_dict()
    wrong = [
        (CIRCLE,),
        (CIRCLE, Shape("circle", "blue", 46, 44, 10)),
        (CIRCLE, Shape("ring", "red", 46, 44, 10)),
        (CIRCLE, RING, Shape("cross", "white", 50, 12, 9)),
        (moved(CIRCLE, 8), RING),
        (),
    ]
    assert exact_match(render(TARGET), target)
    assert exact_match(render(TARGET, 128), target)
    assert exact_match(render(Scene((moved(CIRCLE, 5), RING), GROUND)), target)
    assert not any(exact_match(render(Scene(shapes, GROUND)), target) for shapes in wrong)
    assert exact_match(render(Scene((moved(CIRCLE, 8), RING), GROUND)), target, tolerance=0.2)


def test_exact_match_minds_the_background_on_request():
    night = render(Scene((CIRCLE, RING), Background("grey", "night")))
    assert exact_match(night, TARGET.to_dict())
    assert not exact_match(night, TARGET.to_dict(), background=True)


def test_two_of_a_look_are_matched_in_the_best_order():
    a, b = Shape("cross", "red", 20, 32, 9), Shape("cross", "red", 44, 32, 9)
    assert exact_match(render(Scene((b, a), GROUND)), Scene((a, b), GROUND).to_dict())


def test_kept_l1_is_the_mean_outside_of_the_boxes():
    a = np.zeros((64, 64, 3), np.uint8)
    b = a.copy()
    b[10:20, 10:20] = 255
    assert kept_l1(a, b, []) == pytest.approx(100 / 4096)
    assert kept_l1(a, b, [(10, 10, 20, 20)]) == 0
    b[:, 40:] = 51
    assert kept_l1(a, b, [(10.0, 10.0, 20.0, 20.0)]) == pytest.approx(0.2 * 64 * 24 / (4096 - 12 * 12))
    assert kept_l1(b, b, [(-5, -5, 3, 3), (60, 60, 90, 90)]) == 0


def test_errors():
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="must agree"):
        kept_l1(image, image[:32], [])
    with pytest.raises(ValueError, match="nothing is left"):
        kept_l1(image, image, [(0, 0, 64, 64)])
