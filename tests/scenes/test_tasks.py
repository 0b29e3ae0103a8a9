from collections import Counter

import numpy as np
import pytest

from ddt_lightning.metrics.editing import exact_match, kept_l1
from ddt_lightning.scenes.render import CANVAS, MARGIN, apart, box, render
from ddt_lightning.scenes.suite import train_edit, train_question, val_edit, val_question
from ddt_lightning.scenes.tasks import ANSWERS, EDITS, GLOBAL_EDITS, QUESTIONS, sample_edit, sample_question


@pytest.mark.parametrize("kind", EDITS)
def test_the_checker_finds_the_target_and_not_the_source(kind):
    rng = np.random.default_rng(EDITS.index(kind))
    for make in (train_edit, val_edit):
        for _ in range(15):
            edit = make(rng, kind)
            source, target = render(edit.source), render(edit.target)
            whole = kind in GLOBAL_EDITS
            assert edit.kind == kind
            assert exact_match(target, edit.target.to_dict(), background=True)
            assert not exact_match(source, edit.target.to_dict(), background=whole), edit.instruction
            assert (edit.boxes == []) == whole
            if whole:
                assert edit.source.shapes == edit.target.shapes
            else:
                assert edit.source.background == edit.target.background
                assert kept_l1(source, target, edit.boxes) == 0
                assert 1 <= len(edit.boxes) <= 2


@pytest.mark.parametrize("kind", EDITS)
def test_instructions_name_one_shape_and_stay_in_the_world(kind):
    rng = np.random.default_rng(10 + EDITS.index(kind))
    for _ in range(40):
        edit = sample_edit(rng, kind)
        for scene in (edit.source, edit.target):
            assert 1 <= len(scene.shapes) <= 4
            for number, shape in enumerate(scene.shapes):
                x1, y1, x2, y2 = box(shape)
                assert min(x1, y1) >= MARGIN - 0.02 and max(x2, y2) <= CANVAS - MARGIN + 0.02
                assert all(apart(shape, other) for other in scene.shapes[:number])
        words = edit.instruction.split()
        if kind in ("remove", "replace", "recolour", "move"):
            (gone,) = set(edit.source.shapes) - set(edit.target.shapes)
            assert gone.kind in words
            coloured = f"{gone.colour} {gone.kind}" in edit.instruction
            alike = [shape for shape in edit.source.shapes if shape.kind == gone.kind]
            named = [shape for shape in alike if shape.colour == gone.colour or not coloured]
            assert named == [gone], edit.instruction


def answer(question):
    """The answer worked out again from the scene and the words of the question."""
    shapes, words = question.scene.shapes, question.question.rstrip("?").split()
    if question.kind == "count":
        names = {"shapes": None, "crosses": "cross"}
        asked = names.get(words[2], words[2].rstrip("s"))
        return ("zero", "one", "two", "three", "four")[sum(asked in (None, shape.kind) for shape in shapes)]
    if question.kind == "colour":
        (one,) = [shape for shape in shapes if shape.kind == words[-1]]
        return one.colour
    if question.kind == "kind":
        (one,) = [shape for shape in shapes if shape.colour == words[-1]]
        return one.kind
    if question.kind == "yesno":
        return "yes" if tuple(words[-2:]) in {(shape.colour, shape.kind) for shape in shapes} else "no"
    a, b = (
        next(shape for shape in shapes if shape.kind == kind)
        for kind in (words[words.index("relative") - 1], words[-1])
    )
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


@pytest.mark.parametrize("kind", QUESTIONS)
def test_answers_are_true_and_balanced(kind):
    rng = np.random.default_rng(20 + QUESTIONS.index(kind))
    for make in (train_question, val_question, sample_question):
        asked = [make(rng, kind) for _ in range(240 if make is val_question else 50)]
        assert all(answer(question) == question.answer for question in asked)
        if make is val_question:
            counts, share = Counter(question.answer for question in asked), 1 / len(ANSWERS[kind])
            sigma = (len(asked) * share * (1 - share)) ** 0.5
            assert all(abs(counts[one] - len(asked) * share) < 4 * sigma for one in ANSWERS[kind]), counts
            assert set(counts) <= set(ANSWERS[kind])


def test_any_kind_and_errors():
    rng = np.random.default_rng(30)
    assert {sample_edit(rng).kind for _ in range(100)} == set(EDITS)
    assert {sample_question(rng).kind for _ in range(80)} == set(QUESTIONS)
    with pytest.raises(ValueError, match="must be one of add"):
        sample_edit(rng, "rotate")
    with pytest.raises(ValueError, match=r"`count` \(1\)"):
        sample_edit(rng, "remove", count=1)
    with pytest.raises(ValueError, match="must be one of count"):
        sample_question(rng, "size")
