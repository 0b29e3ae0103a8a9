"""VQA v2's accuracy against the official script's rules and published values."""

import pytest

from ddt_lightning.metrics.vqav2 import CONTRACTIONS, accuracy, plain, without_marks
from ddt_lightning.shards.images import read_images


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("red, white", "red white"),  # a comma beside a space goes
        ("black/white", "black white"),  # a mark between letters becomes a space
        ("black-white, red", "black white red"),
        ("1,000-2", "10002"),  # with a comma between digits all marks go
        ("3.5 m.", "3.5 m"),
        ("u.s.a.", "usa"),
        ("what?", "what "),
        ("it's", "it's"),
    ],
)
def test_punctuation(text, result):
    assert without_marks(text) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("A Dog", "dog"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("the two men", "2 men"),
        ("dont know", "don't know"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("a", ""),
    ],
)
def test_words(text, result):
    assert plain(text) == result


def test_contractions_are_as_many_as_the_official_ones_that_can_match():
    # 120 entries less "let's", "she's" (to themselves) and the four of "I" (answers are in lower case by then).
    assert len(CONTRACTIONS) == 120 - 2 - 4
    assert CONTRACTIONS["yall'd've"] == "y'all'd've" and CONTRACTIONS["ow's'at"] == "'ow's'at"


@pytest.mark.parametrize(("matches", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people(matches, value):
    assert accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(value)


def test_peoples_answers_are_changed_only_where_they_differ():
    assert accuracy("t-shirt", ["t-shirt"] * 10) == 0  # "t shirt" against "t-shirt": the official script's oddity
    assert accuracy("t-shirt", ["t-shirt"] * 9 + ["coat"]) == 1
    assert accuracy("Two.", ["2"] * 10) == 1 and accuracy("2", ["two"] * 10) == 0
    assert accuracy("the dog\n", ["dog"] * 5 + ["cat"] * 5) == 1


def test_ten_answers_are_needed():
    with pytest.raises(ValueError, match="has 3 texts"):
        accuracy("a", ["a"] * 3)


def test_real_answers_score_themselves(ddt_data):
    samples = read_images([f"{ddt_data}/vqa/vqav2coco-val-*.tar"])
    asked = [q["answers"] for sample in samples for q in sample.questions if len(q["answers"]) == 10]
    assert len(asked) > 10
    best = [max(accuracy(said, answers) for said in answers) for answers in asked]
    assert min(best) >= 0.3 and sum(best) / len(best) > 0.8
