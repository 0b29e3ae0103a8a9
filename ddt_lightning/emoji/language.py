"""Captions, prompts and plans of emoji: an emoji in, texts out, and plans back to attributes.

    woman firefighter: dark skin tone                   Unicode's own name
    woman firefighter, dark skin, noto style            a prompt
    a woman firefighter with dark skin, noto style      the prompt in a sentence's words
    noto, people and body, firefighter, woman, dark skin |      a plan

A plan names the attributes in words, the same word for the same attribute everywhere, and decides what a caption leaves
open. Its parts are separated by commas, and a bar ends it. The plan of an edit is that of the source, `to`, and that of
the target.
"""

import re
from collections.abc import Collection

import numpy as np

from ddt_lightning.emoji.facts import GENDERS, GROUPS, HAIR, STYLES, Emoji

END = " |"
TURN = " to "  # between the plans of source and target
TAGS = 3  # tags in a caption
_SKIN, _FACING = " skin", "facing "


def described(emoji: Emoji) -> str:
    """Content of an emoji in words, without its style: `woman firefighter, dark skin`."""
    parts = [emoji.head, emoji.hair, emoji.skin and emoji.skin + _SKIN, emoji.facing and _FACING + emoji.facing]
    return ", ".join(part for part in parts if part)


def spoken(emoji: Emoji) -> str:
    """Content of an emoji in the words of a sentence, without its style: `a woman firefighter with dark skin`.

    One adult has an article before it, but for names such as Mrs. Claus; things and groups of people have none.
    """
    worn = {"bald": None, "beard": "a beard"}.get(emoji.hair or "", emoji.hair)
    head = f"bald {emoji.head}" if emoji.hair == "bald" else emoji.head
    article = "" if not emoji.gender or head[0].isupper() else "an " if head[0] in "aeiou" else "a "
    having = " and ".join(part for part in (worn, emoji.skin and emoji.skin + _SKIN) if part)
    facing = f", {_FACING}{emoji.facing}" if emoji.facing else ""
    return article + head + (f" with {having}" if having else "") + facing


def prompt(emoji: Emoji) -> str:
    """A text that leaves nothing open: what it shows, and in which style."""
    return f"{described(emoji)}, {emoji.style} style"


def captions(emoji: Emoji, rng: np.random.Generator, unnamed: Collection[str] = ()) -> list[str]:
    """True captions in several wordings, each once: Unicode's name, then by name, style, group, tags, and as sentences.

    Args:
        emoji: the picture.
        rng: chooses among the tags.
        unnamed: names that no caption may use as a tag.
    """
    words = described(emoji)
    texts = [emoji.name, words, prompt(emoji), f"{emoji.style} emoji of {words}", f"{words} in {GROUPS[emoji.group]}"]
    tags = said_tags(emoji, unnamed)
    if tags:
        some = [tags[place] for place in sorted(rng.permutation(len(tags))[:TAGS])]
        texts += [f"{words} ({', '.join(some)})"]
    sentence = spoken(emoji)
    return list(dict.fromkeys([*texts, sentence, f"{sentence}, {emoji.style} style"]))


def said_tags(emoji: Emoji, unnamed: Collection[str] = ()) -> list[str]:
    """The tags that say something true beyond the name: none about gender, which an emoji's tags often get wrong."""
    known = {
        *re.findall(r"[\w'-]+", emoji.name.lower()),
        "woman",
        "man",
        "women",
        "men",
        "person",
        "people",
        "human",
        "adult",
    }
    return [tag for tag in emoji.tags if tag not in unnamed and not known.intersection(tag.lower().split())]


def write_plan(emoji: Emoji) -> str:
    """The plan of a picture."""
    return _items(emoji) + END


def write_edit_plan(source: Emoji, target: Emoji) -> str:
    """The plan of an edit."""
    return _items(source) + TURN + _items(target) + END


def read_plan(text: str) -> dict[str, str] | None:
    """The attributes that a plan names: `style`, `group`, `noun`, and those of gender, hair, skin and facing it has.

    Returns:
        None for an unfinished plan and for one that lacks a part or repeats one.
    """
    text = text.strip()
    return _attributes(text.removesuffix(END)) if text.endswith(END) else None


def read_edit_plan(text: str) -> tuple[dict[str, str] | None, dict[str, str] | None] | None:
    """Attributes of source and target of an edit's plan.

    Returns:
        None for an unfinished plan and one without `to`; each part is None where it lacks an attribute or repeats one.
    """
    text = text.strip()
    before, turn, after = text.removesuffix(END).partition(TURN)
    return (_attributes(before), _attributes(after)) if turn and text.endswith(END) else None


def plan_facts(emoji: Emoji) -> dict[str, str]:
    """The attributes that `read_plan` finds in the plan of an emoji."""
    named = {name: getattr(emoji, name) for name in ("style", "group", "noun", "gender", "hair", "skin", "facing")}
    return {name: one_part(value) for name, value in named.items() if value}


def one_part(words: str) -> str:
    """A name without the commas that separate parts of a plan: `family: man and boy`."""
    return words.replace(", ", " and ")


def _items(emoji: Emoji) -> str:
    found = plan_facts(emoji)
    found["group"] = GROUPS[emoji.group]
    found |= {"skin": found["skin"] + _SKIN} if "skin" in found else {}
    found |= {"facing": _FACING + found["facing"]} if "facing" in found else {}
    return ", ".join(found.values())


def _attributes(text: str) -> dict[str, str] | None:
    style, *rest = text.split(", ")
    groups = {words: group for group, words in GROUPS.items()}
    if style not in STYLES or len(rest) < 2 or rest[0] not in groups or not rest[1].strip():
        return None
    found = {"style": style, "group": groups[rest[0]], "noun": rest[1]}
    for part in rest[2:]:
        name = (
            "gender" if part in GENDERS
            else "hair" if part in HAIR
            else "skin" if part.endswith(_SKIN)
            else "facing" if part in (_FACING + "left", _FACING + "right")
            else None
        )  # fmt: skip
        if name is None or name in found:
            return None
        found[name] = part.removesuffix(_SKIN).removeprefix(_FACING)
    return found
