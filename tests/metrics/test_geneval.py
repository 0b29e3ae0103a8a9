import json
import os
from pathlib import Path

import numpy as np
import pytest

from ddt_lightning.metrics import geneval
from ddt_lightning.scenes.check import Object
from ddt_lightning.scenes.render import Background, Scene, Shape, render
from ddt_lightning.scenes.suite import suite

LEFT, RIGHT, TOP = (0, 20, 10, 30), (40, 20, 50, 30), (20, 0, 30, 10)


def thing(kind, colour="red", box=LEFT, score=0.9):
    return Object(kind, colour, box, score)


def prompt(tag, *include, exclude=None):
    return {"tag": tag, "include": list(include), "prompt": "a photo", **({"exclude": exclude} if exclude else {})}


def entry(kind, count=1, **more):
    return {"class": kind, "count": count, **more}


def official(objects, metadata):
    """djghosh13/geneval's rule written out again, on `(kind, colour, box)` in order of confidence."""

    def place(a, b):
        a, b = np.array(a, float).reshape(2, 2), np.array(b, float).reshape(2, 2)
        offset = a.mean(0) - b.mean(0)
        revised = np.maximum(np.abs(offset) - 0.1 * (a[1] - a[0] + b[1] - b[0]), 0) * np.sign(offset)
        if np.all(np.abs(revised) < 1e-3):
            return set()
        dx, dy = revised / np.linalg.norm(offset)
        return {
            name
            for name, true in zip(geneval_relations, (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5), strict=True)
            if true
        }

    geneval_relations = ("left of", "right of", "above", "below")
    classes = {}
    for kind, colour, box in objects:
        classes.setdefault(kind, []).append((colour, box))
    correct, groups = True, []
    for want in metadata["include"]:
        found, matched = classes.get(want["class"], [])[: want["count"]], True
        if len(found) < want["count"]:
            correct = matched = False
        else:
            if "color" in want and sum(colour == want["color"] for colour, _ in found) < want["count"]:
                correct = matched = False
            if "position" in want and matched:
                relation, target = want["position"]
                if groups[target] is None:
                    correct = matched = False
                else:
                    for _, box in found:
                        for _, other in groups[target]:
                            if relation not in place(box, other):
                                correct = matched = False
        groups.append(found if matched else None)
    for want in metadata.get("exclude", []):
        if len(classes.get(want["class"], [])) >= want["count"]:
            correct = False
    return correct


def compare(prompts, per_prompt, rng):
    colours, passed = geneval.COLOURS, 0
    for metadata in prompts:
        names = [want["class"] for want in metadata["include"]]
        wanted = [want.get("color") for want in metadata["include"]]
        for _ in range(per_prompt):
            raw = []
            for _ in range(rng.integers(0, 6)):
                slot = rng.integers(len(names))
                kind = names[slot] if rng.random() < 0.85 else "other"
                colour = wanted[slot] if wanted[slot] and rng.random() < 0.8 else colours[rng.integers(10)]
                x, y, w, h = (int(value) for value in rng.integers((0, 0, 5, 5), (60, 60, 25, 25)))
                raw.append((kind, colour, (x, y, x + w, y + h)))
            objects = [Object(*one, 1 - 0.01 * number) for number, one in enumerate(raw)]
            correct, reason = geneval.evaluate([objects[i] for i in rng.permutation(len(objects))], metadata)
            assert correct == official(raw, metadata), (metadata, raw, reason)
            assert correct == (reason == "")
            passed += correct
    return passed


def test_rule_equals_the_official_one_on_the_suite():
    assert compare(suite(), 20, np.random.default_rng(0)) > 300


def test_rule_equals_the_official_one_on_the_official_prompts():
    data = os.environ.get("DDT_DATA")
    if not data:
        pytest.skip("DDT_DATA is not set")
    lines = (Path(data) / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    assert compare([json.loads(line) for line in lines], 4, np.random.default_rng(1)) > 200


def test_only_counting_minds_extra_objects():
    extra = [thing("circle"), thing("circle", "blue", RIGHT), thing(None, box=TOP)]
    assert geneval.evaluate(extra, prompt("single_object", entry("circle")))[0]
    two = prompt("counting", entry("circle", 2), exclude=[entry("circle", 3)])
    assert geneval.evaluate(extra, two)[0]
    right, reason = geneval.evaluate([*extra, thing("circle", box=TOP)], two)
    assert not right and reason == "expected circle<3, found 3"
    assert geneval.evaluate(extra[:1], two)[1] == "expected circle>=2, found 1"


def test_only_the_most_confident_object_is_looked_at():
    red = prompt("colors", entry("circle", color="red"))
    objects = [thing("circle", "red", score=0.8), thing("circle", "blue", RIGHT, score=0.9)]
    right, reason = geneval.evaluate(objects, red)
    assert not right and reason == "expected red circle>=1, found 0 red; and 1 blue"
    assert geneval.evaluate(objects[:1], red)[0]


def test_position_needs_its_target():
    metadata = prompt("position", entry("ring"), entry("circle", position=["left of", 0]))
    assert geneval.evaluate([thing("circle"), thing("ring", box=RIGHT)], metadata) == (True, "")
    reason = geneval.evaluate([thing("circle", box=RIGHT), thing("ring")], metadata)[1]
    assert reason == "expected circle left of target, found right of target"
    reason = geneval.evaluate([thing("circle")], metadata)[1]
    assert reason == "expected ring>=1, found 0\nno target for circle to be left of"


def test_layout_ignores_kinds_and_takes_different_objects():
    layout = {"ignore_kind": True}
    both = prompt("color_attr", entry("ring", color="red"), entry("cross", color="blue"))
    assert geneval.evaluate([thing(None, "blue"), thing("circle", "red", RIGHT)], both, **layout)[0]
    assert not geneval.evaluate([thing("ring", "red"), thing("cross", "red", RIGHT)], both, **layout)[0]
    two = prompt("two_object", entry("ring"), entry("cross"))
    assert not geneval.evaluate([thing("ring")], two, **layout)[0]
    # The choice of objects matters: the less confident one is right.
    place = prompt("position", entry("ring"), entry("cross", color="blue", position=["left of", 0]))
    objects = [thing("circle", "blue", RIGHT, 0.99), thing("circle", "blue", LEFT, 0.5), thing("circle", "red", RIGHT)]
    assert geneval.evaluate(objects, place, **layout)[0]
    assert not geneval.evaluate([thing("x", "blue", TOP), thing("x", "red", (20, 40, 30, 50))], place, **layout)[0]
    three = prompt("counting", entry("ring", 3), exclude=[entry("ring", 4)])
    assert geneval.evaluate([thing("circle")] * 3, three, **layout)[0] is True
    assert not geneval.evaluate([thing("circle")] * 4, three, **layout)[0]


def test_rows_have_the_official_form():
    prompts = [row for row in suite()[:3] for _ in range(2)]
    scene = Scene((Shape("circle", "red", 30, 30, 12),), Background("grey", "day"))
    rows = geneval.score(np.stack([render(scene)] * 6), prompts)
    assert list(rows[0]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert [row["filename"] for row in rows[:3]] == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/samples/0000.png",
    ]
    assert [row["correct"] for row in rows] == [True, True, False, False, False, False]
    assert all(isinstance(row["correct"], bool) for row in rows)
    assert json.loads(rows[0]["metadata"]) == prompts[0]
    (box,) = json.loads(rows[0]["details"])["circle"]
    assert box[:4] == pytest.approx([18, 18, 42, 42], abs=0.3) and 0.9 < box[4] <= 1
    assert json.loads(json.dumps(rows)) == rows
    with pytest.raises(ValueError, match="must agree"):
        geneval.rows([[]], [])


def fake(tag, text, *correct):
    return [{"tag": tag, "metadata": text, "correct": one} for one in correct]


def test_summary_is_the_mean_over_tags():
    rows = fake("colors", "a", True, True, False, False) + fake("colors", "b", False, False, False, False)
    rows += fake("position", "c", True, True)
    assert geneval.summary(rows) == {"colors": 0.25, "position": 1.0, "overall": 0.625}
    assert geneval.totals(rows) == {"images": 10, "prompts": 3, "correct_images": 0.4, "correct_prompts": 2 / 3}
    assert np.isnan(geneval.summary([])["overall"])


@pytest.mark.parametrize(("correct", "number"), [(0, 24), (24, 24), (7, 24), (50, 160)])
def test_wilson_is_the_formula(correct, number):
    """The roots p of (share - p)^2 = z^2 p (1 - p) / n."""
    z, share = 1.959963984540054, correct / number
    roots = np.roots([1 + z**2 / number, -2 * share - z**2 / number, share**2])
    assert geneval.wilson(correct, number) == pytest.approx(sorted(roots.real), abs=1e-9)


def test_intervals():
    rng = np.random.default_rng(2)
    rows = [row for n in range(60) for row in fake("colors", str(n), *(rng.random(4) < 0.3).tolist())]
    rows += fake("position", "all", *[True] * 8)
    found = geneval.intervals(rows)
    assert found == geneval.intervals(rows)
    low, high = found["overall"]
    assert low < geneval.summary(rows)["overall"] < high
    # The share of 240 images in one of two tags: the standard error is half of that tag's.
    assert high - low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 240) ** 0.5 / 2, rel=0.25)
    assert geneval.wilson(0, 0) == (0.0, 1.0)


def test_shuffled_prompts_ask_for_something_else():
    prompts = [row for row in suite() for _ in range(2)]
    others = geneval.shuffled(prompts)
    assert others == geneval.shuffled(prompts)
    for mine, other in zip(prompts, others, strict=True):
        assert mine["tag"] == other["tag"] and geneval.demand(mine) != geneval.demand(other)
    a = prompt("position", entry("ring"), entry("circle", position=["left of", 0]))
    b = prompt("position", entry("circle"), entry("ring", position=["right of", 0]))
    assert geneval.demand(a) == geneval.demand(b)
    with pytest.raises(ValueError, match="needs two"):
        geneval.shuffled([a, b])
