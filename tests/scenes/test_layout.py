"""Plans in words: what they say of a scene, what is read back, and what the rules of images make of them."""

import re

import numpy as np
import pytest

from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.scenes.language import caption
from ddt_lightning.scenes.layout import (
    CELL,
    STEP,
    mentioned,
    plan_objects,
    read_edit_plan,
    read_plan,
    write_edit_plan,
    write_plan,
)
from ddt_lightning.scenes.render import Background, Scene, Shape
from ddt_lightning.scenes.suite import suite, train_edit, train_scene, truth
from ddt_lightning.scenes.tasks import EDITS

SCENE = Scene(
    (Shape("square", "green", 22.1, 50.0, 10.4), Shape("circle", "blue", 21.0, 17.9, 12.0)),
    Background("teal", "day", shade=9.0, angle=1.0),
)


def test_plan_in_reading_order_and_in_order_of_mention():
    assert write_plan(SCENE) == "blue circle 5 4 6, green square 5 12 5, teal day |"
    below = "a photo of a square below a circle"
    assert write_plan(SCENE, below) == "green square 5 12 5, blue circle 5 4 6, teal day |"


def test_plan_is_read_back_on_its_grid():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = train_scene(rng)
        text = caption(scene, rng)
        plan = write_plan(scene, text)
        found = read_plan(plan)
        assert found is not None
        assert found.background == Background(scene.background.colour, scene.background.time)
        for planned, shape in zip(found.shapes, mentioned(scene, text), strict=True):
            assert (planned.kind, planned.colour) == (shape.kind, shape.colour)
            assert max(abs(planned.x - shape.x), abs(planned.y - shape.y)) <= CELL / 2
            assert abs(planned.radius - shape.radius) <= STEP / 2
        assert write_plan(found, text) == plan  # the grid's own points stay


def test_order_follows_counts_colours_and_synonyms():
    shapes = (Shape("ring", "red", 50, 10, 9), Shape("ring", "blue", 10, 10, 9), Shape("cross", "red", 30, 50, 9))
    scene = Scene(shapes, Background("grey", "night"))
    order = [(shape.kind, shape.colour) for shape in mentioned(scene, "a plus, a red hoop and a blue ring")]
    assert order == [("cross", "red"), ("ring", "red"), ("ring", "blue")]
    order = [(shape.kind, shape.colour) for shape in mentioned(scene, "a photo of two rings and a cross")]
    assert order == [("ring", "blue"), ("ring", "red"), ("cross", "red")]  # of one kind: from left to right


@pytest.mark.parametrize("text", ["a photo of a circle", "a photo of a red square and a blue circle", "two of them"])
def test_caption_of_another_scene_is_refused(text):
    with pytest.raises(ValueError, match="does not account"):
        write_plan(SCENE, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "teal day |",
        "blue circle 5 4 6, teal day",  # not ended
        "blue circle 5 4 6 |",  # no background
        "blue circle 5 16 6, teal day |",  # off the grid
        "blue circle 5 4 0, teal day |",
        "blue circle 5 4, teal day |",
        "blue oval 5 4 6, teal day |",
        "blue circle 5 4 6 and, teal day |",
        "blue circle 5 4 6, teal dusk |",
    ],
)
def test_what_is_no_plan_is_not_read(text):
    assert read_plan(text) is None


@pytest.mark.parametrize("seen", [False, True])
def test_plan_of_the_truth_fulfils_its_prompt_and_no_other_kind_of_it(seen):
    rng = np.random.default_rng(1)
    right = []
    for prompt in suite(seen):
        scene = truth(prompt, rng, seen)
        planned = read_plan(write_plan(scene, prompt["prompt"]))
        assert planned is not None
        right.append(evaluate(plan_objects(planned), prompt)[0])
        wrong = Scene(tuple(Shape("circle", "red", 32, 32, 12) for _ in range(1)), planned.background)
        if prompt["include"][0]["class"] != "circle":
            assert not evaluate(plan_objects(wrong), prompt)[0]
    # a place near the border of a relation's rule can fall beyond it on the grid
    assert np.mean(right) > 0.98


@pytest.mark.parametrize("kind", EDITS)
def test_edit_plan_names_source_and_target(kind):
    rng = np.random.default_rng(2)
    for _ in range(20):
        edit = train_edit(rng, kind)
        found = read_edit_plan(write_edit_plan(edit))
        assert found is not None
        for planned, scene in zip(found, (edit.source, edit.target), strict=True):
            want = read_plan(write_plan(scene))
            assert want is not None and planned is not None
            assert set(planned.shapes) == set(want.shapes) and planned.background == want.background
        source, target = found
        assert source and target
        kept = [shape for shape in source.shapes if shape in target.shapes]
        assert kept == [shape for shape in target.shapes if shape in source.shapes]  # in the same order
        if kind in ("replace", "recolour", "move"):
            assert len(source.shapes) == len(target.shapes)


def test_what_is_removed_keeps_its_place_in_the_plan():
    rng = np.random.default_rng(3)
    for _ in range(20):
        edit = train_edit(rng, "remove", even=True)
        source, target = (part.split(", ") for part in write_edit_plan(edit).split(" to "))
        changed = [
            (before, after) for before, after in zip(source, target, strict=True) if before != after.removesuffix(" |")
        ]
        ((before, after),) = changed
        assert after == re.sub(r"^\w+", "no", before)
    shortened = "blue circle 5 4 6, red ring 5 9 6, teal day to red ring 5 9 6, teal day |"
    assert read_edit_plan(shortened) == read_edit_plan(shortened.replace(" to ", " to no circle 5 4 6, "))
    nothing = read_edit_plan("blue circle 5 4 6, teal day to no circle 5 4 6, teal day |")
    assert nothing is not None and nothing[0] is not None and nothing[1] is None
    unknown = read_edit_plan("blue circle 5 4 6, teal day to no circles 5 4 6, red ring 5 9 6, teal day |")
    assert unknown is not None and unknown[1] is None


def test_half_an_edit_plan_is_not_read():
    assert read_edit_plan(write_plan(SCENE)) is None
    assert read_edit_plan("blue circle 5 4 6, teal day to red circle 5 4 6, teal day") is None
    whole = read_edit_plan("blue circle 5 4 6, teal day to red circle 5 4 6, teal day |")
    assert whole is not None and None not in whole
    for source, target in ((0, 1), (1, 0)):  # a part that cannot be read leaves the other one
        parts = ["blue circles 5 4 6, teal day", "red circle 5 4 6, teal day"]
        assert read_edit_plan(f"{parts[source]} to {parts[target]} |") == tuple(
            whole[1] if number else None for number in (source, target)
        )
