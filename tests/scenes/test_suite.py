import re
from collections import Counter

import numpy as np
import pytest

from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.scenes.check import RELATIONS, Object
from ddt_lightning.scenes.combinations import held
from ddt_lightning.scenes.language import caption, parse_caption, relation
from ddt_lightning.scenes.render import COLOURS, KINDS, box
from ddt_lightning.scenes.suite import (
    TAGS,
    held_out,
    suite,
    train_edit,
    train_question,
    train_scene,
    train_text,
    truth,
    val_edit,
    val_question,
    val_scene,
)
from ddt_lightning.scenes.tasks import EDITS, QUESTIONS
from ddt_lightning.scenes.world import World

ASKED = [row for row in suite() if row["tag"] != "single_object"]


def objects(scene):
    return [Object(shape.kind, shape.colour, box(shape), 1.0) for shape in scene.shapes]


def shown(scene):
    """The prompts of the five held-out tags that a perfect detector finds fulfilled, by the metric's own rule."""
    kinds = {shape.kind for shape in scene.shapes}
    near = [row for row in ASKED if kinds.issuperset(entry["class"] for entry in row["include"])]
    # The rule looks at the first object of a kind; every order is tried by moving each object to the front.
    orders = [sorted(objects(scene), key=lambda one: one is not first) for first in objects(scene)] or [[]]
    for number in range(len(scene.shapes)):
        found = objects(scene)
        orders.append([*found[number:], *found[:number]])
    return [row["prompt"] for row in near if any(evaluate(order, row)[0] for order in orders)]


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [train_scene(rng) for _ in range(2500)]


def test_suite_has_genevals_form():
    rows = suite()
    assert len(rows) >= 148 and rows == suite()
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert set(Counter(row["tag"] for row in rows)) == set(TAGS)
    for row in rows:
        assert set(row) == {"tag", "include", "prompt"} | ({"exclude"} if row["tag"] == "counting" else set())
        assert row["prompt"].startswith("a photo of ")
        keys = {"colors": {"class", "count", "color"}, "color_attr": {"class", "count", "color"}}
        assert all(set(entry) >= keys.get(row["tag"], {"class", "count"}) for entry in row["include"])
        if row["tag"] == "position":
            assert row["include"][1]["position"][1] == 0 and "position" not in row["include"][0]
        if row["tag"] == "counting":
            (entry,), (more,) = row["include"], row["exclude"]
            assert more == {"class": entry["class"], "count": entry["count"] + 1} and 2 <= entry["count"] <= 4
        if row["tag"] == "color_attr":
            first, second = row["include"]
            assert first["class"] != second["class"] and first["color"] != second["color"]


def test_training_scenes_fulfil_no_prompt_of_the_suite(scenes):
    assert not any(held_out(scene) for scene in scenes)
    assert not [prompt for scene in scenes[:1500] for prompt in shown(scene)]


def test_training_edits_and_questions_fulfil_no_prompt_of_the_suite():
    rng = np.random.default_rng(1)
    for number in range(350):
        edit = train_edit(rng, EDITS[number % len(EDITS)], even=number % 5 == 0)
        assert not shown(edit.source) and not shown(edit.target)
        assert not held_out(edit.source) and not held_out(edit.target)
    for number in range(250):
        question = train_question(rng, QUESTIONS[number % len(QUESTIONS)])
        assert not shown(question.scene) and not held_out(question.scene)


def test_even_training_edits_have_one_two_and_three_shapes_equally_often():
    rng = np.random.default_rng(3)
    counts = Counter(len(train_edit(rng, "recolour", even=True).source.shapes) for _ in range(300))
    assert set(counts) == {1, 2, 3} and all(70 <= number <= 130 for number in counts.values())  # 100 +- 3.7 sd
    assert {len(train_edit(rng, "remove", even=True).source.shapes) for _ in range(30)} == {2, 3}
    usual = Counter(len(train_edit(rng).source.shapes) for _ in range(300))
    assert usual[1] > 5 * usual[3]


def test_training_texts_name_no_held_out_look(scenes):
    rng = np.random.default_rng(2)
    texts = [caption(scene, rng) for scene in scenes]
    texts += [train_edit(rng).instruction for _ in range(700)] + [train_text(rng) for _ in range(500)]
    texts += [train_question(rng, "yesno").question for _ in range(500)]
    unseen = {f"{colour} {kind}" for kind, colour in held(World()).colours}
    looks = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})")
    assert not [text for text in texts for found in looks.finditer(text) if found[0] in unseen]
    prompts = {row["prompt"] for row in ASKED}
    assert not prompts & set(texts)
    for text in texts[: len(scenes)]:
        counts = Counter()
        for kind, _, count in parse_caption(text):
            counts[kind] += count
        assert not held(World()).counts & set(counts.items())


def test_held_out_truths_are_held_out_and_fulfil_their_prompt():
    rng = np.random.default_rng(3)
    for row in suite():
        for _ in range(2):
            scene = truth(row, rng)
            assert evaluate(objects(scene), row) == (True, "")
            assert row["tag"] == "single_object" or held_out(scene)
            assert len(scene.shapes) == sum(entry["count"] for entry in row["include"])


def test_the_second_suite_asks_for_what_training_shows(scenes):
    rows = suite(seen=True)
    assert set(Counter(row["tag"] for row in rows)) == set(TAGS) and len({row["prompt"] for row in rows}) == len(rows)
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in ASKED}
    rng = np.random.default_rng(5)
    for row in rows:
        scene = truth(row, rng, seen=True)
        assert evaluate(objects(scene), row) == (True, "") and not held_out(scene)
    plain = [row for row in rows if row["tag"] not in ("color_attr", "colors")]  # no rarer than one scene in 250
    assert all(any(evaluate(objects(scene), row)[0] for scene in scenes) for row in plain)


def test_validation_is_unseen_on_request():
    rng = np.random.default_rng(4)
    assert not any(held_out(val_scene(rng)) for _ in range(50))
    assert all(held_out(val_scene(rng, unseen=True)) for _ in range(50))
    for kind in EDITS:
        edit = val_edit(rng, kind)
        assert held_out(edit.source) and held_out(edit.target)
        assert not held_out(val_edit(rng, kind, unseen=False).target)
    for kind in QUESTIONS:
        assert held_out(val_question(rng, kind).scene)
        assert not held_out(val_question(rng, kind, unseen=False).scene)


def test_training_has_what_the_six_tags_need(scenes):
    looks, counts, facts, forms = Counter(), Counter(), Counter(), Counter()
    for scene in scenes:
        kinds = Counter(shape.kind for shape in scene.shapes)
        looks.update((shape.kind, shape.colour) for shape in scene.shapes)
        counts.update(kinds.items())
        forms[len(scene.shapes), len(kinds)] += 1
        if len(scene.shapes) == len(kinds) == 2:
            facts[relation(*scene.shapes)] += 1
    total = len(scenes)
    assert forms[1, 1] > 0.15 * total and forms[2, 2] > 0.35 * total
    assert sum(number for (_, different), number in forms.items() if different == 1) > 0.4 * total
    assert facts[None] == 0 and all(facts[name] > 0.08 * total for name in RELATIONS)
    for kind in KINDS:
        assert sum(counts[kind, number] > 30 for number in (1, 2, 3, 4)) == 3
        assert sum(looks[kind, colour] > 20 for colour in COLOURS) == 8
    for colour in COLOURS:
        assert sum(looks[kind, colour] > 20 for kind in KINDS) >= 4


def test_same_seed_same_scenes():
    for make in (train_scene, train_edit, train_question, train_text, val_scene, val_edit, val_question):
        assert make(np.random.default_rng(5)) == make(np.random.default_rng(5))
