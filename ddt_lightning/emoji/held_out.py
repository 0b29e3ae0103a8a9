"""Held-out parts of the emoji world, by hash: the same for every run, whatever else is in the shards.

- `concept`: 5 % of the concepts, with all their genders, skin tones and styles. Nobody who was trained has seen one.
  Concepts that an example of the documentation asks for are never among them.
- `combination`: of people who come in genders and skin tones, two of the 15 pairs of gender and tone of each role, in
  all styles. Role and gender, role and tone, gender and tone are all seen: the three together are not.
- `style`: 5 % of the pictures of each style, which the other styles show. At most one style lacks a picture.

No picture of these parts is in a training image, edit or question, and no training question names a held-out concept.
"""

from collections.abc import Collection, Sequence

from ddt_lightning.emoji.facts import GENDERS, STYLES, TONES, Emoji
from ddt_lightning.seeding import key_bits

TRAIN = "train"
COMBINATION = "combination"
PARTS = ("concept", COMBINATION, "style")
CONCEPT_SHARE = 0.05
STYLE_SHARE = 0.05  # of the pictures of each style
ALWAYS_SHOWN = {"1F9D1-200D-1F692"}
"""Concepts that are never held out: the firefighter, the example of the README."""


def share(*key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return key_bits("held-out emoji", *key) / 2**64


def held_pairs(concept: str) -> set[tuple[str, str]]:
    """The two pairs of gender and skin tone of a role that are held out: two genders, two tones."""
    place, tones = key_bits("held-out emoji", "combination", concept), TONES[1:]
    first, second = place % 3, place // 3 % 5
    third = (second + 1 + place // 15 % 4) % 5
    return {(GENDERS[first], tones[second]), (GENDERS[(first + 1) % 3], tones[third])}


def part_of(emoji: Emoji, styles: Collection[str]) -> str:
    """The held-out part that an emoji belongs to, or `train`.

    Args:
        emoji: any one.
        styles: the styles of the world; a picture is held out in its style only where another style shows it.
    """
    if emoji.concept not in ALWAYS_SHOWN and share("concept", emoji.concept) < CONCEPT_SHARE:
        return "concept"
    if emoji.gender and emoji.skin and (emoji.gender, emoji.skin) in held_pairs(emoji.concept):
        return COMBINATION
    place = share("style", emoji.concept, emoji.gender or "", emoji.skin or "") / STYLE_SHARE
    held = STYLES[int(place)] if place < len(STYLES) else None
    return "style" if emoji.style == held and len(styles) > 1 else TRAIN


def split(world: Sequence[Emoji]) -> dict[str, list[Emoji]]:
    """The emoji of each part, `train` first.

    A picture that no other style shows is not held out in its style.
    """
    styles = {emoji.style for emoji in world}
    shown: dict[str, set[str]] = {}
    for emoji in world:
        shown.setdefault(emoji.code, set()).add(emoji.style)
    parts: dict[str, list[Emoji]] = {part: [] for part in (TRAIN, *PARTS)}
    for emoji in world:
        parts[part_of(emoji, styles & shown[emoji.code])].append(emoji)
    return parts
