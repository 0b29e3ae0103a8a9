"""Attributes of emoji: the metadata of pictures in, one `Emoji` for each of them out.

Unicode builds people from parts: a role (farmer, running), a gender, a skin tone and a direction. The code of an emoji
says its parts, its short name says them in words: `woman running: dark skin tone, facing right`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STYLES = ("noto", "twemoji", "openmoji")
GENDERS = ("man", "person", "woman")
TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")  # yellow: no tone is given
HAIR = ("red hair", "curly hair", "white hair", "bald", "blond hair", "beard")
GROUPS = {
    "smileys-emotion": "smileys and emotion",
    "people-body": "people and body",
    "animals-nature": "animals and nature",
    "food-drink": "food and drink",
    "travel-places": "travel and places",
    "activities": "activities",
    "objects": "objects",
    "symbols": "symbols",
    "flags": "flags",
    "component": "components",
}
"""Unicode's groups in words. The groups that OpenMoji adds (brands, interfaces) are not part of the world."""
WRONG = {("noto", "1F1E8-1F1F6")}
"""Pictures that show something else: this flag of Sark is that of Saudi Arabia."""

_JOIN = "-200D-"
_SIGNS = {"-200D-2640": "woman", "-200D-2642": "man"}
_ADULTS = {"1F468": "man", "1F9D1": "person", "1F469": "woman"}
_RIGHT = "-200D-27A1"
_SINGLE = {
    "1F468": ("man", "1F9D1"), "1F9D1": ("person", "1F9D1"), "1F469": ("woman", "1F9D1"),
    "1F474": ("man", "1F9D3"), "1F9D3": ("person", "1F9D3"), "1F475": ("woman", "1F9D3"),
    "1F934": ("man", "1FAC5"), "1FAC5": ("person", "1FAC5"), "1F478": ("woman", "1FAC5"),
    "1F385": ("man", "1F385"), "1F9D1-200D-1F384": ("person", "1F385"), "1F936": ("woman", "1F385"),
    "1FAC3": ("man", "1FAC4"), "1FAC4": ("person", "1FAC4"), "1F930": ("woman", "1FAC4"),
    "1F57A": ("man", "1F483"), "1F483": ("woman", "1F483"),
}  # fmt: skip
"""{code: (gender, concept)} where Unicode has a code of its own for each gender."""
_NOUNS = {"1F9D1": "adult", "1F9D3": "older adult", "1FAC5": "royal", "1F385": "Claus", "1F9DC": "merfolk"}
"""Names of concepts whose emoji do not share a word."""
_HAIRS = {
    "1F9D1-200D-1F9B0",
    "1F9D1-200D-1F9B1",
    "1F9D1-200D-1F9B2",
    "1F9D1-200D-1F9B3",
    "1F471",
}  # not with a beard: its hair is another, too
_FACES = ("face-smiling", "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical", "face-sleepy",
          "face-unwell", "face-concerned", "face-negative", "face-glasses", "face-hat")  # fmt: skip
_PLAIN = str.maketrans({"\u2019": "'", "\u201c": '"', "\u201d": '"'})  # quotes that nobody types


@dataclass(frozen=True)
class Emoji:
    """Attributes of a picture: what it shows, and its style. An attribute that an emoji does not have is None.

    Args:
        style: of `STYLES`.
        code: Unicode's code points, with the skin tone.
        name: Unicode's short name, with the skin tone.
        group: a key of `GROUPS`.
        tags: words for it, those of the emoji without skin tone.
        concept: the code without gender, skin tone and direction.
        family: the concept, or what emoji that can be turned into one another share: adults of any hair, clocks, faces.
        head: the name without skin tone, hair and direction, e.g. `woman running`.
        noun: the name without gender, too, e.g. `running`.
        gender: of `GENDERS`, of a single adult that comes in several.
        skin: of `TONES`, or two tones with `and` between them, of what comes in several.
        hair: of `HAIR`.
        facing: `left` or `right`, of what comes in both.
        time: of a clock.
        face: the expression of a smiley or a cat.
    """

    style: str
    code: str
    name: str
    group: str
    tags: tuple[str, ...]
    concept: str
    family: str
    head: str
    noun: str
    gender: str | None = None
    skin: str | None = None
    hair: str | None = None
    facing: str | None = None
    time: str | None = None
    face: str | None = None

    def facts(self) -> dict[str, Any]:
        """The attributes that it has, for a sample's json."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "tags"}


def read_emoji(rows: Sequence[Mapping[str, Any]]) -> list[Emoji]:
    """The emoji that metadata describes, one for each row.

    Args:
        rows: metadata of all pictures: `style`, `hexcode`, `base` (code without skin tone), `annotation` (short name),
            `tags`, `group`, `subgroup`, and `skin` (0 none, 1 light .. 5 dark, `a,b` for two people). Attributes that
            an emoji has are seen from those that the others have.

    Raises:
        ValueError: a row of an unknown style, group or skin tone.
    """
    codes = {bare(row["base"]) for row in rows}
    split = [split_code(bare(row["base"]), codes, _several(row)) for row in rows]
    genders: dict[str, set[str | None]] = {}
    for gender, concept, _ in split:
        genders.setdefault(concept, set()).add(gender)
    toned = {(row["style"], row["base"]) for row in rows if str(row["skin"]) != "0"}
    tags = {(row["style"], row["hexcode"]): row["tags"] for row in rows}
    found = []
    for row, (gender, concept, facing) in zip(rows, split, strict=True):
        place = (row["style"], row["base"])
        gender = gender if len(genders[concept] - {None}) > 1 else None
        found.append(_emoji(row, gender, concept, facing, place in toned, tags.get(place, row["tags"])))
    return found


def distinct(rows: Sequence[Mapping[str, Any]], pictures: Sequence[bytes]) -> list[int]:
    """Numbers of the rows that belong to the world: of equal pictures the one whose name claims least.

    Left out are pictures of other groups, wrong ones, and pictures under several names, such as the flag of France for
    territories, or a student that is also the man student. A kept name is true of its picture.

    Args:
        rows: as in `read_emoji`.
        pictures: the file of each.
    """
    best: dict[tuple[str, bytes], tuple[tuple, int]] = {}
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        code, name = row["hexcode"], row["annotation"]
        if row["group"] not in GROUPS or (row["style"], bare(code)) in WRONG:
            continue
        claims = (str(row["skin"]) != "0", "1F9D1" not in code, code.count("-"), len(name), code)
        key = (row["style"], picture)
        best[key] = min(best.get(key, (claims, number)), (claims, number))
    return sorted(number for _, number in best.values())


def bare(code: str) -> str:
    """A code without the selectors that say nothing about the picture."""
    return "-".join(part for part in code.split("-") if part != "FE0F")


def split_code(base: str, codes: set[str], several: bool) -> tuple[str | None, str, str | None]:
    """Gender, concept and direction that a code says.

    Args:
        base: the code without skin tone and selectors.
        codes: all such codes.
        several: whether it shows several people, who have no gender of their own.
    """
    facing = "right" if base.endswith(_RIGHT) else "left" if base + _RIGHT in codes else None
    base = base.removesuffix(_RIGHT)
    if base in _SINGLE:
        return *_SINGLE[base], facing
    for sign, gender in _SIGNS.items():
        if sign in base:
            return None if several else gender, base.replace(sign, ""), facing
    first, join, rest = base.partition(_JOIN)
    if first in _ADULTS and join and not several:
        return _ADULTS[first], f"1F9D1{join}{rest}", facing
    gendered = any(base + sign in codes for sign in _SIGNS)
    return "person" if gendered and not several else None, base, facing


def _several(row: Mapping[str, Any]) -> bool:
    return row["subgroup"] == "family" or row["annotation"].split()[0].strip(":") in ("men", "women", "people")


def _emoji(
    row: Mapping[str, Any], gender: str | None, concept: str, facing: str | None, toned: bool, tags: Sequence[str]
) -> Emoji:
    style, group, subgroup = row["style"], row["group"], row["subgroup"]
    if style not in STYLES or group not in GROUPS:
        raise ValueError(f"{row['annotation']!r} is of style {style} and group {group}, which the world does not have.")
    name = row["annotation"].translate(_PLAIN)
    head, _, details = name.partition(": ")
    parts = details.split(", ") if details else []
    rest = [part for part in parts if not part.endswith("skin tone") and not part.startswith("facing ")]
    hair = next((part for part in rest if part in HAIR), None)
    head = head if hair or not rest else f"{head}: {', '.join(rest)}"
    noun = head
    if gender:
        words = [word for word in head.split() if word not in GENDERS]
        noun = _NOUNS.get("1F9D1" if hair else concept) or " ".join(words)
    family, time, face = ("1F9D1" if concept in _HAIRS else concept), None, None
    if subgroup == "time" and head.endswith(("o'clock", "-thirty")):
        family, time = "clock", head
    elif subgroup in _FACES and head.endswith("face"):
        family, face = "face", head
    elif subgroup == "cat-face":
        family, face = "cat", head
    skin = _skin(str(row["skin"])) if toned else None
    tags = [tag.translate(_PLAIN) for tag in dict.fromkeys(tags)]
    return Emoji(
        style, row["hexcode"], name, group, tuple(tags), concept, family, head, noun, gender, skin, hair, facing, time,
        face,
    )  # fmt: skip


def _skin(numbers: str) -> str:
    try:
        return " and ".join(TONES[int(number)] for number in numbers.split(","))
    except (ValueError, IndexError):
        raise ValueError(f'"skin" ({numbers}) must be 0 to 5, or two such numbers with a comma.') from None
