"""Attributes of emoji, by names and codes that were looked up by hand."""

import pytest

from ddt_lightning.emoji.facts import GROUPS, distinct, read_emoji
from tests.emoji.world import metadata, picture, row, toned


def one(rows: list[dict], code: str):
    return next(emoji for emoji in read_emoji(rows) if emoji.code == code)


def test_a_person_has_role_gender_tone_and_direction():
    found = one(metadata(), "1F3C3-1F3FF-200D-2640-FE0F-200D-27A1-FE0F")
    assert (found.head, found.noun, found.concept) == ("woman running", "running", "1F3C3")
    assert (found.gender, found.skin, found.facing, found.hair) == ("woman", "dark", "right", None)
    assert one(metadata(), "1F3C3").facts() == {
        "style": "noto", "code": "1F3C3", "name": "person running", "group": "people-body", "concept": "1F3C3",
        "family": "1F3C3", "head": "person running", "noun": "running", "gender": "person", "skin": "yellow",
        "facing": "left",
    }  # fmt: skip


def test_one_concept_in_three_genders():
    found = {e.code: e for e in read_emoji(metadata())}
    farmers = [found[f"{first}-200D-1F33E"] for first in ("1F468", "1F9D1", "1F469")]
    assert [farmer.gender for farmer in farmers] == ["man", "person", "woman"]
    assert {(farmer.concept, farmer.noun) for farmer in farmers} == {("1F9D1-200D-1F33E", "farmer")}


NAMED = [
    ("1F9DC-200D-2640-FE0F", "mermaid", "woman", "merfolk"),
    ("1F9DC", "merperson", "person", "merfolk"),
    ("1F475", "old woman", "woman", "older adult"),
    ("1F474", "old man", "man", "older adult"),
    ("1F934", "prince", "man", "royal"),
    ("1F478", "princess", "woman", "royal"),
    ("1F57A", "man dancing", "man", "dancing"),
    ("1F483", "woman dancing", "woman", "dancing"),
    ("1F930", "pregnant woman", "woman", "pregnant"),
    ("1FAC4", "pregnant person", "person", "pregnant"),
    ("1F9CF-200D-2642-FE0F", "deaf man", "man", "deaf"),
    ("1F9CF", "deaf person", "person", "deaf"),
    ("1F385", "Santa Claus", "man", "Claus"),
    ("1F936", "Mrs. Claus", "woman", "Claus"),
    ("1F93C-200D-2640-FE0F", "women wrestling", None, "women wrestling"),
    ("1F468-200D-1F466", "family: man, boy", None, "family: man, boy"),
    ("1F6CC", "person in bed", None, "person in bed"),
    ("1F9D1-200D-1FA70", "ballet dancer", None, "ballet dancer"),  # there is no other gender
]


@pytest.mark.parametrize(("code", "name", "gender", "noun"), NAMED)
def test_names_without_a_pattern(code, name, gender, noun):
    rows = [row(one, words, subgroup="family" if words.startswith("family") else "x") for one, words, *_ in NAMED]
    found = one(rows, code)
    assert (found.name, found.gender, found.noun, found.skin) == (name, gender, noun, None)


def test_hair_is_an_attribute_of_one_family():
    red = one(metadata(), "1F469-1F3FD-200D-1F9B0")
    assert (red.head, red.noun, red.hair, red.skin, red.gender) == ("woman", "adult", "red hair", "medium", "woman")
    assert red.family == one(metadata(), "1F468-200D-1F9B2").family == one(metadata(), "1F9D1").family == "1F9D1"
    assert red.concept != one(metadata(), "1F9D1").concept
    (beard,) = read_emoji([row("1F9D4-200D-2642-FE0F", "man: beard")])
    assert beard.hair == "beard" and beard.family != "1F9D1"  # a beard comes with hair of its own


def test_clocks_faces_and_quotes():
    rows = metadata()
    assert one(rows, "1F552").time == "three o'clock" and one(rows, "1F552").family == "clock"
    assert one(rows, "1F600").face == "grinning face" and one(rows, "1F600").family == "face"
    assert one(rows, "1F63F").family == "cat" and one(rows, "1F355").face is None
    assert one(rows, "1F460").head == "woman's sandal" and one(rows, "1F460").gender is None
    assert one(rows, "1F1EB-1F1F7").head == "flag: France"


def test_two_people_have_two_tones():
    code = "1F469-1F3FB-200D-1F91D-200D-1F468-1F3FF"
    name = "woman and man holding hands: light skin tone, dark skin tone"
    rows = [row("1F46B", "woman and man holding hands", subgroup="family")]
    rows += [row(code, name, base="1F46B", skin="1,5", subgroup="family")]
    untoned, found = read_emoji(rows)
    assert (found.skin, found.head, found.gender) == ("light and dark", "woman and man holding hands", None)
    assert untoned.skin == "yellow"


def test_tags_of_the_untoned_picture_serve_all():
    found = one(metadata(), "1F469-1F3FB-200D-1F33E")
    assert found.tags == ("man", "tool", "farmer")


def test_what_the_world_does_not_have_is_refused():
    for wrong in (row("1F4A9", "x", style="apple"), row("E000", "x", group="extras-openmoji")):
        with pytest.raises(ValueError, match="'x' is of style"):
            read_emoji([wrong])
    with pytest.raises(ValueError, match=r'"skin" \(7\)'):
        read_emoji([row("1F385", "Santa Claus"), row("1F385-1F3FB", "Santa Claus", base="1F385", skin=7)])


def test_of_equal_pictures_the_name_that_claims_least_is_kept():
    rows = [
        row("1F1E8-1F1F5", "flag: Clipperton Island", group="flags"),
        row("1F1EB-1F1F7", "flag: France", group="flags"),
        row("1F468-200D-1F393", "man student"),
        row("1F9D1-200D-1F393", "student"),
        *toned("1F3C2", "snowboarder", 1),
        row("1F1E8-1F1F6", "flag: Sark", group="flags"),
        row("E040", "some brand", group="extras-openmoji"),
        row("1F1EB-1F1F7", "flag: France", group="flags", style="twemoji"),
    ]
    pictures = [picture(n) for n in (1, 1, 2, 2, *[3] * 6, 4, 5, 1)]
    assert [(rows[n]["annotation"], rows[n]["style"]) for n in distinct(rows, pictures)] == [
        ("flag: France", "noto"), ("student", "noto"), ("snowboarder", "noto"), ("flag: France", "twemoji"),
    ]  # fmt: skip
    assert all(rows[n]["group"] in GROUPS for n in distinct(rows, pictures))
