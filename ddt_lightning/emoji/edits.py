"""Edits between emoji that differ in one attribute: skin tone, gender, style, hair, direction, clock time, face."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ddt_lightning.emoji.facts import TONES, Emoji
from ddt_lightning.emoji.held_out import TRAIN
from ddt_lightning.scenes.language import article, pick

EDITS = ("skin", "gender", "style", "hair", "facing", "time", "face")
WITHIN_FAMILY = ("hair", "time", "face")  # edits that lead from one concept to another
WORDINGS = {
    "skin": ("make the skin {}", "change the skin tone to {}", "give it {} skin"),
    "gender": ("make it a {}", "turn it into a {}", "change it to a {}"),
    "style": ("draw it in {} style", "change the style to {}", "the same in {}"),
    "facing": ("make it face {}", "turn it to the {}", "let it look {}"),
    "time": ("set the clock to {}", "make it {}", "change the time to {}"),
    "face": ("make it {}", "turn it into {}", "change it to {}"),
}
BALD = ("make it bald", "remove the hair")
HAIR = ("give it {}", "change the hair to {}", "with {}, please")


@dataclass(frozen=True)
class Edit:
    """An edit: its kind, the picture before and after it, and what a user says."""

    kind: str
    source: Emoji
    target: Emoji
    instruction: str


def pairs(world: Sequence[Emoji], kind: str) -> Iterator[tuple[Emoji, Emoji]]:
    """All ordered pairs of emoji that differ in one attribute alone, which both have.

    Two people of different skin tones are left out: the tones of both would change.
    """
    groups: dict[tuple, dict[str, Emoji]] = defaultdict(dict)
    for emoji in world:
        value = getattr(emoji, kind)
        if value is None or (kind == "skin" and value not in TONES):
            continue
        others = [getattr(emoji, other) for other in EDITS if other != kind]
        same = () if kind in WITHIN_FAMILY else (emoji.concept,) if kind == "gender" else (emoji.concept, emoji.head)
        groups[emoji.family, *same, *others].setdefault(value, emoji)
    for group in groups.values():
        yield from permutations(group.values(), 2)


def instruction(kind: str, target: Emoji, rng: np.random.Generator) -> str:
    """Instruction that leads from the source to the target."""
    value = getattr(target, kind)
    if kind == "hair":
        return pick(rng, BALD if value == "bald" else HAIR).format(value)
    return pick(rng, WORDINGS[kind]).format(article(value) if kind == "face" else value)


def choose(parts: Mapping[str, Sequence[Emoji]], part: str, number: int, rng: np.random.Generator) -> list[Edit]:
    """Edits of a part, as many of each kind as there are up to equal numbers, in mixed order.

    In training both pictures are training pictures. Of a held-out part the target is held out; the source is of the
    same part or, except for held-out concepts, a training picture.

    Args:
        parts: the emoji of each part.
        part: `train` or a held-out one.
        number: at most so many edits.
        rng: of everything drawn.
    """
    targets = set(parts[part])
    sources = [] if part in (TRAIN, "concept") else parts[TRAIN]
    world = [*parts[part], *sources]
    found = {kind: [pair for pair in pairs(world, kind) if pair[1] in targets] for kind in EDITS}
    edits = []
    for kind, wanted in even({kind: len(some) for kind, some in found.items()}, number).items():
        for place in rng.permutation(len(found[kind]))[:wanted]:
            source, target = found[kind][place]
            edits.append(Edit(kind, source, target, instruction(kind, target, rng)))
    return [edits[place] for place in rng.permutation(len(edits))]


def even(available: Mapping[str, int], number: int) -> dict[str, int]:
    """Numbers that add up to `number`, or to all there are, and are as equal as what is available allows."""
    taken = dict.fromkeys(available, 0)
    left = min(number, sum(available.values()))
    while left:
        open_ = [kind for kind in available if taken[kind] < available[kind]]
        step = max(1, left // len(open_))
        for kind in open_:
            more = min(step, available[kind] - taken[kind], left)
            taken[kind] += more
            left -= more
    return taken
