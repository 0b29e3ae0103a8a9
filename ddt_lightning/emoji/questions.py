"""Questions about emoji, with answers balanced within each type.

Of the types that ask for an attribute every answer is right equally often. A question that is answered by yes or no
asks for every value as often with the one answer as with the other, so that the text alone tells nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddt_lightning.emoji.facts import GROUPS, TONES, Emoji
from ddt_lightning.scenes.language import pick

WORDINGS = {
    "name": ("what is this?", "what does the picture show?", "which emoji is this?"),
    "group": ("which group does it belong to?", "what kind of emoji is it?"),
    "style": ("in which style is it drawn?", "which style is this?"),
    "skin": ("which skin tone is it?", "what is the skin tone?"),
    "gender": ("is it a man or a woman?", "is this a man or a woman?"),
    "facing": ("which way does it face?", "is it facing left or right?"),
    "time": ("what time is it?", "what time does the clock show?"),
}
"""{type: wordings}; the answer is the value of the attribute."""
YES_NO = {
    "name": ("is it the {} emoji?", "does it show the {} emoji?"),
    "group": ("does it belong to {}?",),
    "style": ("is it drawn in {} style?",),
    "skin": ("is the skin {}?", "does it have {} skin?"),
    "gender": ("is it a {}?", "is this a {}?"),
    "time": ("does the clock show {}?", "is it {}?"),
}
"""{attribute: wordings} of the questions that are answered by yes or no."""
TYPES = (*WORDINGS, "yes or no")


@dataclass(frozen=True)
class Question:
    """A question about a picture, its answer, and its type."""

    kind: str
    emoji: Emoji
    question: str
    answer: str


def answer_of(emoji: Emoji, attribute: str) -> str | None:
    """The attribute in words; None where it does not have it, or where there is no one answer."""
    if attribute == "name":
        return emoji.head
    if attribute == "group":
        return GROUPS[emoji.group]
    if attribute == "gender" and emoji.gender == "person":
        return None
    value: str | None = getattr(emoji, attribute)
    return None if attribute == "skin" and value not in TONES else value


def ask(world: Sequence[Emoji], number: int, rng: np.random.Generator) -> list[Question]:
    """Questions about pictures of one part: the types in turn, and the answers of each type in turn.

    Args:
        world: the pictures. Their names and attributes are the only ones that are asked for.
        number: how many.
        rng: of everything drawn.
    """
    values: dict[str, dict[str, list[Emoji]]] = {name: defaultdict(list) for name in WORDINGS}
    for attribute, found in values.items():
        for emoji in world:
            if (answer := answer_of(emoji, attribute)) is not None:
                found[answer].append(emoji)
    usable = {name: _shuffled(found, rng) for name, found in values.items() if len(found) > 1}
    checks = [name for name in YES_NO if name in usable]
    types = [name for name in TYPES if name in usable or (name == "yes or no" and checks)]
    asked: list[Question] = []
    turn = 0
    while types and len(asked) < number:
        for kind in types:
            if kind == "yes or no":
                cycle, place = divmod(turn, len(checks))
                asked.append(_yes_or_no(checks[place], usable[checks[place]], cycle, cycle % 2 == place % 2, rng))
            else:
                answers = list(usable[kind])
                answer = answers[turn % len(answers)]
                asked.append(Question(kind, _one(usable[kind][answer], rng), pick(rng, WORDINGS[kind]), answer))
        turn += 1
    return asked[:number]


def _yes_or_no(
    attribute: str, values: dict[str, list[Emoji]], turn: int, true: bool, rng: np.random.Generator
) -> Question:
    """A question for a value that comes in two turns, once where it is true and once where it is not."""
    names = list(values)
    named = shown = names[turn // 2 % len(names)]
    while not true and shown == named:
        shown = pick(rng, names)
    text = pick(rng, YES_NO[attribute]).format(named)
    return Question("yes or no", _one(values[shown], rng), text, "yes" if true else "no")


def _one(some: Sequence[Emoji], rng: np.random.Generator) -> Emoji:
    return some[int(rng.integers(len(some)))]


def _shuffled(values: dict[str, list[Emoji]], rng: np.random.Generator) -> dict[str, list[Emoji]]:
    names = sorted(values)
    return {names[place]: values[names[place]] for place in rng.permutation(len(names))}
