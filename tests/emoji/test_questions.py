"""Questions: true answers, balanced within each type, about the pictures that are given and nothing else."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from ddt_lightning.emoji.facts import GROUPS, read_emoji
from ddt_lightning.emoji.held_out import TRAIN, split
from ddt_lightning.emoji.questions import TYPES, WORDINGS, YES_NO, ask
from tests.emoji.world import metadata

WORLD = read_emoji([*metadata("noto"), *metadata("twemoji")])
FIELDS = {"name": "head", "group": "group"}


@pytest.fixture(scope="module")
def asked():
    return ask(WORLD, 1600, np.random.default_rng(0))


def value(emoji, attribute: str) -> str:
    found = emoji.facts()[FIELDS.get(attribute, attribute)]
    return GROUPS[found] if attribute == "group" else found


def test_types_come_in_turn(asked):
    assert Counter(one.kind for one in asked) == dict.fromkeys(TYPES, 200)


def test_answers_are_true(asked):
    for one in asked:
        if one.kind in WORDINGS:
            assert one.question in WORDINGS[one.kind] and one.answer == value(one.emoji, one.kind)


def test_answers_are_balanced(asked):
    for kind in TYPES:
        counts = Counter(one.answer for one in asked if one.kind == kind)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) > 1
    assert {one.answer for one in asked if one.kind == "gender"} == {"man", "woman"}
    assert {one.answer for one in asked if one.kind == "yes or no"} == {"yes", "no"}


def read_check(text: str) -> tuple[str, str]:
    """The attribute and the value that a question asks for."""
    for attribute, wordings in YES_NO.items():
        for wording in wordings:
            before, after = wording.split("{}")
            if text.startswith(before) and text.endswith(after) and attribute_fits(attribute, text, before, after):
                return attribute, text[len(before) : len(text) - len(after)]
    raise AssertionError(text)


def attribute_fits(attribute: str, text: str, before: str, after: str) -> bool:
    known = {value(one, attribute) for one in WORLD if FIELDS.get(attribute, attribute) in one.facts()}
    return text[len(before) : len(text) - len(after)] in known


def test_yes_and_no_are_true_and_the_question_alone_tells_nothing(asked):
    answers = defaultdict(Counter)
    for one in asked:
        if one.kind == "yes or no":
            attribute, named = read_check(one.question)
            assert one.answer == ("yes" if value(one.emoji, attribute) == named else "no"), one
            answers[attribute, named][one.answer] += 1
    assert len(answers) > 20
    for counts in answers.values():
        assert abs(counts["yes"] - counts["no"]) <= 1


def test_training_questions_know_nothing_of_held_out_concepts():
    parts = split(WORLD)
    known = set(parts[TRAIN])
    names = {one.head for one in parts["concept"]}
    asked = ask(parts[TRAIN], 2000, np.random.default_rng(0))
    assert all(one.emoji in known for one in asked)
    said = {one.answer for one in asked} | {read_check(one.question)[1]
                                            for one in asked if one.kind == "yes or no"}  # fmt: skip
    assert names and not names & said


def test_what_a_world_lacks_is_not_asked_for():
    things = [one for one in WORLD if one.head in ("pizza", "red apple") and one.style == "noto"]
    kinds = {one.kind for one in ask(things, 20, np.random.default_rng(0))}
    assert kinds == {"name", "yes or no"}
    assert ask(things[:1], 20, np.random.default_rng(0)) == []
