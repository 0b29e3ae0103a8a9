import math

import pytest

from ddt_lightning.metrics.answers import accuracy, caption_match, normalise, score


@pytest.mark.parametrize(
    ("said", "normal"),
    [("Two.", "2"), (" The red  circle ", "red circle"), ("a", "a"), ("it's", "its"), ("yes!", "yes"), ("", "")],
)
def test_normalise(said, normal):
    assert normalise(said) == normal


def test_one_answer_needs_an_exact_match():
    assert score("two", "2") == score("2", ["two"]) == score("A cat", ["dog", "cat"]) == 1
    assert score("three", "2") == 0 and score("", "red") == 0


@pytest.mark.parametrize(("matches", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_answers_follow_vqa(matches, value):
    # The official code's published values for ten annotators.
    assert score("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(value)


def test_accuracy():
    assert accuracy(["red", "no"], ["red", ["yes"]]) == 0.5
    assert math.isnan(accuracy([], []))
    with pytest.raises(ValueError, match="must agree"):
        accuracy(["red"], [])


SCENE = [("circle", "red"), ("circle", "blue"), ("ring", "red")]


@pytest.mark.parametrize(
    ("parsed", "match", "full"),
    [
        ([("circle", None, 2), ("ring", None, 1)], True, False),
        ([("circle", "red", 1), ("circle", "blue", 1), ("ring", "red", 1)], True, True),
        ([("circle", "red", 1), ("circle", None, 1), ("ring", "red", 1)], True, False),
        ([("circle", "red", 2), ("ring", "red", 1)], False, False),
        ([("circle", None, 2)], False, False),
        ([("circle", None, 2), ("ring", None, 2)], False, False),
        ([("circle", None, 2), ("cross", None, 1)], False, False),
        ([("circle", None, 2), ("ring", "blue", 1)], False, False),
        (None, False, False),
        ([], False, False),
    ],
)
def test_caption_match(parsed, match, full):
    assert caption_match(parsed, SCENE) is match
    assert caption_match(parsed, SCENE, colours=True) is full


def test_an_empty_scene_is_matched_by_an_empty_caption_only():
    assert caption_match([], []) and not caption_match([("circle", None, 1)], [])
