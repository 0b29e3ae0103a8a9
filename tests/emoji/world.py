"""A small emoji world: real codes and names, made-up pictures."""

import io
from typing import Any

from PIL import Image

TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
NAMES = ("light", "medium-light", "medium", "medium-dark", "dark")
ROLES = {"1F33E": "farmer", "1F373": "cook", "1F527": "mechanic", "1F680": "astronaut", "2695-FE0F": "health worker"}
ACTIONS = {"1F3C3": "running", "1F9CE": "kneeling"}
HOURS = {"1F550": "one", "1F551": "two", "1F552": "three", "1F553": "four"}
THINGS = {
    "1F600": ("grinning face", "smileys-emotion", "face-smiling"),
    "1F609": ("winking face", "smileys-emotion", "face-smiling"),
    "1F621": ("enraged face", "smileys-emotion", "face-negative"),
    "1F638": ("grinning cat with smiling eyes", "smileys-emotion", "cat-face"),
    "1F63F": ("crying cat", "smileys-emotion", "cat-face"),
    "1F34E": ("red apple", "food-drink", "food-fruit"),
    "1F355": ("pizza", "food-drink", "food-prepared"),
    "1F98A": ("fox", "animals-nature", "animal-mammal"),
    "1F339": ("rose", "animals-nature", "plant-flower"),
    "1F1EB-1F1F7": ("flag: France", "flags", "country-flag"),
    "1F9DE": ("genie", "people-body", "person-fantasy"),
    "1F460": ("woman\u2019s sandal", "objects", "clothing"),
}


def row(code: str, name: str, *, base: str | None = None, skin: int | str = 0, style: str = "noto",
        group: str = "people-body", subgroup: str = "person-role",
        tags: tuple[str, ...] = ()) -> dict[str, Any]:  # fmt: skip
    """Metadata of one picture."""
    return {
        "style": style, "hexcode": code, "base": base or code, "annotation": name, "tags": list(tags), "group": group,
        "subgroup": subgroup, "skin": skin,
    }  # fmt: skip


def toned(code: str, name: str, after: int, details: str = "", tags: tuple[str, ...] = (), **facts) -> list[dict]:
    """A person without skin tone and in the five tones; the tone stands behind the `after`-th code point."""
    points = code.split("-")
    found = [row(code, name + (f": {details}" if details else ""), tags=tags, **facts)]
    for number, (tone, words) in enumerate(zip(TONES, NAMES, strict=True), 1):
        spoken = ", ".join([f"{words} skin tone", *([details] if details else [])])
        points_of_it = "-".join([*points[:after], tone, *points[after:]])
        found.append(row(points_of_it, f"{name}: {spoken}", base=code, skin=number, **facts))
    return found


def metadata(style: str = "noto") -> list[dict[str, Any]]:
    """The pictures of one style."""
    rows = []
    for code, name in ROLES.items():
        for first, gender in (("1F468", "man "), ("1F9D1", ""), ("1F469", "woman ")):
            rows += toned(f"{first}-200D-{code}", gender + name, 1, tags=("man", "tool", name), style=style)
    for code, name in ACTIONS.items():
        for sign, gender in (("-200D-2642-FE0F", "man"), ("", "person"), ("-200D-2640-FE0F", "woman")):
            for way, details in (("", ""), ("-200D-27A1-FE0F", "facing right")):
                rows += toned(f"{code}{sign}{way}", f"{gender} {name}", 1, details, style=style)
    for first, gender in (("1F468", "man"), ("1F9D1", "person"), ("1F469", "woman")):
        rows += toned(first, gender, 1, style=style, subgroup="person")
        for code, hair in (("1F9B0", "red hair"), ("1F9B2", "bald")):
            rows += toned(f"{first}-200D-{code}", gender, 1, hair, style=style, subgroup="person")
    rows += [
        row(code, f"{hour} o\u2019clock", group="travel-places", subgroup="time", style=style)
        for code, hour in HOURS.items()
    ]
    rows += [
        row(code, name, group=group, subgroup=subgroup, style=style) for code, (name, group, subgroup) in THINGS.items()
    ]
    return rows


def picture(number: int) -> bytes:
    """A PNG file of 8 px that no other number has."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 77)).save(stream, "PNG")
    return stream.getvalue()
