"""Held-out parts: the same everywhere, no leak, every factor seen."""

from itertools import combinations

import pytest

from ddt_lightning.emoji.facts import GENDERS, STYLES, TONES, Emoji, read_emoji
from ddt_lightning.emoji.held_out import (
    ALWAYS_SHOWN,
    CONCEPT_SHARE,
    PARTS,
    TRAIN,
    held_pairs,
    part_of,
    share,
    split,
)
from tests.emoji.world import metadata


@pytest.fixture(scope="module")
def world() -> list[Emoji]:
    return read_emoji([*metadata("noto"), *metadata("twemoji")])


def thing(number: int, style: str = "noto") -> Emoji:
    code = f"{number:X}"
    return Emoji(style, code, code, "objects", (), code, code, code, code)


def test_shares_and_places_are_fixed():
    things = [thing(number, style) for number in range(4000) for style in STYLES]
    parts = {part: members for part, members in split(things).items()}
    assert 0.04 < len(parts["concept"]) / len(things) < 0.06
    for style in STYLES:
        mine = [one for one in parts["style"] if one.style == style]
        assert 0.035 < len(mine) / 4000 < 0.06
    assert len({one.code for one in parts["style"]}) == len(parts["style"])  # at most one style lacks a picture
    assert {one.code for one in parts["concept"]}.isdisjoint(one.code for one in [*parts[TRAIN], *parts["style"]])
    assert [one.code for one in parts["concept"] if one.style == "noto"][:4] == ["11", "2A", "2C", "36"]  # for ever


def test_a_part_does_not_depend_on_what_else_is_there(world):
    parts = {one: part for part, members in split(world).items() for one in members}
    alone = {one: part_of(one, {"noto", "twemoji"}) for one in world}
    assert parts == alone
    third = split([*world, *read_emoji(metadata("openmoji"))])
    assert {one: part for part, members in third.items() for one in members if one.style != "openmoji"} == parts


def test_the_example_of_the_readme_is_never_a_held_out_concept():
    """Its hash would hold it out, and two of its pairs of gender and tone are held out like those of any role."""
    (concept,) = ALWAYS_SHOWN
    assert share("concept", concept) < CONCEPT_SHARE
    people = [
        Emoji("noto", "", "", "people-body", (), concept, concept, "firefighter", "firefighter", gender, skin)
        for gender in GENDERS
        for skin in TONES
    ]
    held = {(one.gender, one.skin) for one in people if part_of(one, ["noto", "twemoji"]) != TRAIN}
    assert held == held_pairs(concept)


def test_nothing_is_held_out_in_the_only_style(world):
    noto = [one for one in world if one.style == "noto"]
    parts = split(noto)
    assert not parts["style"]
    assert parts["concept"] == [one for one in split(world)["concept"] if one.style == "noto"]
    assert not split([thing(number) for number in range(2000)])["style"]


@pytest.mark.parametrize("concept", [f"{number:X}" for number in range(60)])
def test_two_pairs_of_different_genders_and_tones(concept):
    (one, first), (other, second) = held_pairs(concept)
    assert {one, other} <= set(GENDERS) and {first, second} <= set(TONES[1:])
    assert one != other and first != second


def test_all_pairs_are_held_out_somewhere():
    found = {pair for number in range(300) for pair in held_pairs(f"{number:X}")}
    assert len(found) == len(GENDERS) * 5


def factors(emoji: Emoji) -> dict[str, str]:
    return {"role": emoji.concept, "gender": emoji.gender, "tone": emoji.skin}


def check_combinations(world: list[Emoji]) -> None:
    """A held-out triple is seen in no style, and its factors two by two are."""
    parts = split(world)
    seen = {tuple(factors(one).values()) for one in parts[TRAIN]}
    pairs = {tuple((name, factors(one)[name]) for name in names)
             for one in parts[TRAIN] for names in combinations(("role", "gender", "tone"), 2)}  # fmt: skip
    assert parts["combination"]
    for one in parts["combination"]:
        mine = factors(one)
        assert tuple(mine.values()) not in seen
        for names in combinations(("role", "gender", "tone"), 2):
            assert tuple((name, mine[name]) for name in names) in pairs, one.name


def test_held_out_combinations_are_of_seen_factors(world):
    check_combinations(world)


def test_every_picture_is_in_one_part(world):
    parts = split(world)
    assert list(parts) == [TRAIN, *PARTS]
    assert sorted(map(str, world)) == sorted(str(one) for members in parts.values() for one in members)
