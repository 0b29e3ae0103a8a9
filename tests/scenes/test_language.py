import re
from collections import Counter

import numpy as np
import pytest

from ddt_lightning.metrics.answers import caption_match
from ddt_lightning.scenes.language import (
    FACTS,
    OPPOSITE,
    both_ways,
    caption,
    parse_caption,
    place_of,
    relation,
    text_line,
)
from ddt_lightning.scenes.render import Background, Scene, Shape, sample_scene
from ddt_lightning.scenes.suite import suite, train_scene

GROUND = Background("teal", "night")


@pytest.fixture(scope="module")
def captioned():
    rng = np.random.default_rng(0)
    scenes = [train_scene(rng) if n % 2 else sample_scene(rng) for n in range(1500)]
    return [(scene, caption(scene, rng)) for scene in scenes]


def test_captions_name_all_objects_and_no_other(captioned):
    for scene, text in captioned:
        objects = [(shape.kind, shape.colour) for shape in scene.shapes]
        assert caption_match(parse_caption(text), objects), text
        assert not caption_match(parse_caption(text), [*objects, ("circle", "red")])


def test_captions_are_true_of_places_and_grounds(captioned):
    seen = Counter()
    words = {"to the left of": "left of", "to the right of": "right of", "over": "above", "under": "below"}
    for scene, text in captioned:
        found = re.search(r"(to the left of|to the right of|left of|right of|above|below|over|under)", text)
        if found:
            first, second = parse_caption(text)
            a = next(shape for shape in scene.shapes if shape.kind == first[0])
            b = next(shape for shape in scene.shapes if shape.kind == second[0])
            assert relation(a, b) == words.get(found[0], found[0]), text
            seen["relation"] += 1
        place = re.search(r"(?:at|on|in) the ((?:top|bottom)? ?(?:left|right|centre|top|bottom)?)\b", text)
        if place:
            assert place[1].strip() == place_of(scene.shapes[0]), text
            seen["place"] += 1
        for word, truth in (("night", scene.background.time), ("by day", f"by {scene.background.time}")):
            if word in text:
                assert word == truth
                seen["time"] += 1
        ground = re.search(r"on a (\w+) background", text)
        if ground:
            assert ground[1] == scene.background.colour
            seen["ground"] += 1
        assert not re.search(r"there is (\d|two|three|four)|there are an? ", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
    assert all(seen[what] >= 10 for what in ("relation", "place", "time", "ground")), seen


def test_captions_vary_within_a_small_vocabulary(captioned):
    texts = [text for _, text in captioned]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    assert len(words) < 90
    assert len(set(texts)) > 0.5 * len(texts)
    openings = sum(text.startswith("a photo of") for text in texts) / len(texts)
    assert 0.55 < openings < 0.85
    assert any(re.search(r"\b[234] ", text) for text in texts) and any("that is" in text for text in texts)


def test_suite_prompts_parse():
    for row in suite():
        parsed = parse_caption(row["prompt"])
        assert parsed is not None, row["prompt"]
        asked = Counter((entry["class"], entry.get("color"), entry["count"]) for entry in row["include"])
        assert Counter(parsed) == asked


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a photo of a red circle and two blue rings.", [("circle", "red", 1), ("ring", "blue", 2)]),
        ("3 crosses that are pink", [("cross", "pink", 3)]),
        ("A hoop to the left of a rhombus at night", [("ring", None, 1), ("diamond", None, 1)]),
        ("a disc in the centre on a sand background", [("circle", None, 1)]),
        ("a circle and a dog", None),
        ("two circle", None),
        ("a circles", None),
        ("a red circle that is blue", None),
        ("a photo of", None),
        ("", None),
    ],
)
def test_parse_caption(text, parsed):
    assert parse_caption(text) == parsed


def test_opposites_and_ambiguous_relations():
    a, b = Shape("circle", "red", 15, 30, 9), Shape("ring", "red", 45, 34, 9)
    assert relation(a, b) == "left of" and OPPOSITE[relation(b, a)] == "left of"
    diagonal = Shape("ring", "red", 45, 60, 9)
    assert relation(a, diagonal) is None


def test_lines_of_text_are_true():
    rng = np.random.default_rng(1)
    shapes = (Shape("circle", "red", 13, 32, 9), Shape("ring", "blue", 51, 32, 9))
    lines = {text_line(rng, Scene(shapes, GROUND)) for _ in range(600)} - set(FACTS)
    assert lines == {
        "there is a circle.",
        "there is a ring.",
        "the circle is red.",
        "the ring is blue.",
        "the circle is on the left.",
        "the ring is on the right.",
        "the circle is left of the ring.",
        "the ring is right of the circle.",
        "it is night.",
        "the background is teal.",
    }
    assert text_line(rng) in FACTS


def test_both_ways_say_one_fact_from_either_side():
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(200):
        scene = train_scene(rng)
        texts = both_ways(scene, rng)
        if not texts:
            assert len(scene.shapes) != 2 or scene.shapes[0].kind == scene.shapes[1].kind or not relation(*scene.shapes)
            continue
        found += 1
        there, back = (parse_caption(text) for text in texts)
        assert there is not None and back == there[::-1]
        (word,) = (word for word in OPPOSITE if f" {word} " in texts[0])
        assert f" {OPPOSITE[word]} " in texts[1] and relation(*scene.shapes) == word
    assert found > 40
