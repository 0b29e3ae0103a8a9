"""Edits change one attribute, are asked for in words, and never touch held-out pictures in training."""

import numpy as np
import pytest

from ddt_lightning.emoji.edits import EDITS, choose, even, instruction, pairs
from ddt_lightning.emoji.facts import TONES, read_emoji
from ddt_lightning.emoji.held_out import PARTS, TRAIN, split
from tests.emoji.world import metadata

WORLD = read_emoji([*metadata("noto"), *metadata("twemoji")])
IDENTITY = {"code", "name", "head", "noun", "concept"}
MAY_CHANGE = {
    "skin": {"code", "name"}, "gender": {"code", "name", "head"}, "style": set(), "facing": {"code", "name"},
    "hair": IDENTITY - {"head", "noun"}, "time": IDENTITY, "face": IDENTITY,
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_pairs_differ_in_one_attribute(kind):
    found = list(pairs(WORLD, kind))
    assert found and len(set(found)) == len(found)
    for source, target in found:
        before, after = source.facts(), target.facts()
        assert before.keys() == after.keys()
        changed = {name for name in before if before[name] != after[name]}
        assert kind in changed and changed <= {kind, *MAY_CHANGE[kind]}, (source.name, target.name)


def test_all_pairs_are_found():
    roles = 5 + 2 * 2 + 1 + 2  # of people, those with two directions twice, and adults of three kinds of hair
    assert len(list(pairs(WORLD, "skin"))) == 2 * roles * 3 * 6 * 5
    assert len(list(pairs(WORLD, "gender"))) == 2 * roles * 6 * 3 * 2
    assert len(list(pairs(WORLD, "style"))) == len(WORLD)
    assert len(list(pairs(WORLD, "hair"))) == 2 * 3 * 6 * 2
    assert len(list(pairs(WORLD, "facing"))) == 2 * 2 * 3 * 6 * 2
    assert len(list(pairs(WORLD, "time"))) == 2 * 4 * 3
    assert len(list(pairs(WORLD, "face"))) == 2 * (3 * 2 + 2 * 1)  # a face never becomes a cat


def test_instructions_name_what_is_wanted():
    for kind in EDITS:
        for _, target in list(pairs(WORLD, kind))[:40]:
            texts = {instruction(kind, target, np.random.default_rng(n)) for n in range(20)}
            value = {"bald": ("bald", "remove the hair")}.get(getattr(target, kind), (getattr(target, kind),))
            assert len(texts) > 1 and all(any(word in text for word in value) for text in texts)
    _, target = next(pair for pair in pairs(WORLD, "face") if pair[1].face == "enraged face")
    assert instruction("face", target, np.random.default_rng(0)).endswith("an enraged face")


def test_training_edits_show_training_pictures_alone():
    parts = split(WORLD)
    known = set(parts[TRAIN])
    edits = choose(parts, TRAIN, 700, np.random.default_rng(0))
    assert {edit.source for edit in edits} | {edit.target for edit in edits} <= known
    assert len(edits) == 700 and {edit.kind for edit in edits} == set(EDITS)


@pytest.mark.parametrize("part", PARTS)
def test_held_out_edits_lead_to_held_out_pictures(part):
    parts = split(WORLD)
    edits = choose(parts, part, 100, np.random.default_rng(0))
    assert all(edit.target in parts[part] for edit in edits)
    allowed = set(parts[part]) | set([] if part == "concept" else parts[TRAIN])
    assert all(edit.source in allowed for edit in edits)
    assert edits or not parts[part]


def test_edits_are_those_of_the_seed():
    parts = split(WORLD)
    one, again, other = (choose(parts, TRAIN, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_two_tones_are_no_tone():
    assert all({source.skin, target.skin} <= set(TONES) for source, target in pairs(WORLD, "skin"))


def test_numbers_are_as_equal_as_they_can_be():
    assert even({"a": 100, "b": 2, "c": 30}, 60) == {"a": 29, "b": 2, "c": 29}
    assert even({"a": 3, "b": 2}, 60) == {"a": 3, "b": 2}
    assert even({"a": 0, "b": 9}, 4) == {"a": 0, "b": 4}
    assert sum(even({"a": 7, "b": 7, "c": 7}, 10).values()) == 10
    assert even({}, 3) == {}
