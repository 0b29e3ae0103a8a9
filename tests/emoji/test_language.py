"""Captions and plans say what the picture shows, and plans are read back."""

import numpy as np
import pytest

from ddt_lightning.emoji.facts import read_emoji
from ddt_lightning.emoji.language import (
    captions,
    plan_facts,
    prompt,
    read_edit_plan,
    read_plan,
    said_tags,
    spoken,
    write_edit_plan,
    write_plan,
)
from tests.emoji.world import metadata, row

WORLD = read_emoji([*metadata("noto"), *metadata("twemoji")])


def named(code: str, style: str = "noto"):
    return next(one for one in WORLD if (one.code, one.style) == (code, style))


def test_captions_of_a_person():
    texts = captions(named("1F469-1F3FB-200D-1F527", "twemoji"), np.random.default_rng(0))
    assert texts == [
        "woman mechanic: light skin tone",
        "woman mechanic, light skin",
        "woman mechanic, light skin, twemoji style",
        "twemoji emoji of woman mechanic, light skin",
        "woman mechanic, light skin in people and body",
        "woman mechanic, light skin (tool)",
        "a woman mechanic with light skin",
        "a woman mechanic with light skin, twemoji style",
    ]
    assert prompt(named("1F9CE-200D-27A1-FE0F")) == "person kneeling, yellow skin, facing right, noto style"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1F468-200D-1F9B0", "a man with red hair and yellow skin"),
        ("1F469-1F3FF-200D-1F9B2", "a bald woman with dark skin"),
        ("1F9D1-1F3FF-200D-1F680", "an astronaut with dark skin"),
        ("1F9CE-1F3FB-200D-27A1-FE0F", "a person kneeling with light skin, facing right"),
        ("1F355", "pizza"),
    ],
)
def test_content_in_the_words_of_a_sentence(code, words):
    assert spoken(named(code)) == words


def test_a_name_and_several_people_have_no_article_and_a_beard_has_one():
    claus, *_ = read_emoji([row("1F936", "Mrs. Claus"), row("1F385", "Santa Claus")])
    people, _ = read_emoji(
        [
            row("1F46B-1F3FF", "woman and man holding hands: dark skin tone", base="1F46B", skin=5, subgroup="family"),
            row("1F46B", "woman and man holding hands", subgroup="family"),
        ]
    )
    bearded, *_ = read_emoji(
        [
            row("1F9D4-200D-2642-FE0F", "man: beard"),
            row("1F9D4", "person: beard"),
            row("1F9D4-200D-2640", "woman: beard"),
        ]
    )
    assert spoken(claus) == "Mrs. Claus"
    assert spoken(people) == "woman and man holding hands with dark skin"
    assert spoken(bearded) == "a man with a beard"


def test_captions_are_different_and_leave_no_attribute_out():
    for one in WORLD:
        texts = captions(one, np.random.default_rng(0))
        assert len(set(texts)) == len(texts) >= 4
        for text in texts[1:]:
            assert all(value in text for value in (one.head, one.hair or "", one.skin or "", one.facing or ""))


def test_tags_say_nothing_about_gender_and_nothing_that_is_held_out():
    (one,) = read_emoji(
        [row("1F477-200D-2640-FE0F", "woman construction worker", tags=("man", "hat", "build", "worker"))]
    )
    assert said_tags(one) == ["hat", "build"]
    assert said_tags(one, {"hat"}) == ["build"]


def test_plans_are_read_back():
    for one in WORLD:
        assert read_plan(write_plan(one)) == plan_facts(one)
    assert write_plan(named("1F469-1F3FF-200D-1F33E")) == "noto, people and body, farmer, woman, dark skin |"
    (family,) = read_emoji([row("1F468-200D-1F466", "family: man, boy", subgroup="family")])
    assert read_plan(write_plan(family))["noun"] == "family: man and boy"


def test_plans_tell_all_pictures_apart():
    assert len({write_plan(one) for one in WORLD}) == len(WORLD)


def test_edit_plans_are_read_back():
    source, target = named("1F468-200D-1F9B0"), named("1F468-200D-1F9B2")
    text = write_edit_plan(source, target)
    assert read_edit_plan(text) == (plan_facts(source), plan_facts(target))
    assert read_plan(text) is None and read_edit_plan(write_plan(source)) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "|", "noto |", "noto, food and drink |", "noto, food and drink, pizza", "apple, food and drink, pizza |",
        "noto, vegetables, pizza |", "noto, people and body, cook, woman, man |", "noto, people and body, cook, tall |",
        "noto, people and body, , woman |",
    ],
)  # fmt: skip
def test_what_is_no_plan_is_not_read(text):
    assert read_plan(text) is None
