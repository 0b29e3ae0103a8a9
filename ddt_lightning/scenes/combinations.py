"""Combinations of kinds, colours, numbers and places: all that a world has, and those that training never shows.

A combination that is held out occurs in no training scene, edit, question or text: some pairs of kinds, numbers of a
kind, colours of a kind, places of one kind relative to another, and pairs of coloured kinds. Every kind, colour, number
and relation is seen in others. Two ways to hold places out measure different things:

- `mirror`: of a pair of kinds one place is held out, and the mirror image of it is shown. A model that knows the pair
  and the axis draws what it has seen, so that a prompt also measures how well it resists that habit.
- `novel`: a pair of kinds is never shown along one axis, neither way round. There is no habit to resist.

Whatever the smallest world holds out by default, larger worlds and those that show fewer pairs hold out, too
(`HeldOut.covers`): its prompts are fair to all of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from ddt_lightning.scenes.check import RELATIONS, relations
from ddt_lightning.scenes.language import OPPOSITE
from ddt_lightning.scenes.render import ALL_KINDS, COLOURS, Scene, box
from ddt_lightning.scenes.world import SIZES, Split, World

Pair = tuple[str, str]
Fact = tuple[str, str, str]
Looks = tuple[tuple[str, str], tuple[str, str]]
"""Two things as (kind, colour)."""

AXES = (("left of", "right of"), ("above", "below"))
COLOUR_NAMES = tuple(COLOURS)
FIRST_HELD: tuple[Pair, ...] = (("circle", "cross"), ("diamond", "triangle"), ("ring", "square"))  # each pair sorted
LOOKS_HELD, LOOKS_SEEN = 20250422, 20250423  # seeds of pairs of coloured kinds


@dataclass(frozen=True)
class HeldOut:
    """Combinations that training never shows.

    Args:
        pairs: two kinds, sorted.
        counts: kind and number.
        colours: kind and colour.
        positions: (A, relation, B) and, the same fact, (B, opposite, A).
        looks: two coloured kinds, sorted by kind.
    """

    pairs: frozenset[Pair]
    counts: frozenset[tuple[str, int]]
    colours: frozenset[Pair]
    positions: frozenset[Fact]
    looks: frozenset[Looks]

    def shown_by(self, scene: Scene) -> bool:
        """Whether the scene shows any of these combinations."""
        if self.shown_by_looks([(shape.kind, shape.colour) for shape in scene.shapes]):
            return True
        return any(
            a.kind != b.kind and any((a.kind, held, b.kind) in self.positions for held in relations(box(a), box(b)))
            for a, b in combinations(scene.shapes, 2)
        )

    def shown_by_looks(self, looks: Sequence[tuple[str, str]]) -> bool:
        """Whether things of these kinds and colours show any of these combinations, wherever they stand."""
        kinds = [kind for kind, _ in looks]
        if any(look in self.colours for look in looks):
            return True
        if any((kind, kinds.count(kind)) in self.counts for kind in kinds):
            return True
        pairs = [tuple(sorted(pair, key=lambda look: look[0])) for pair in combinations(looks, 2)]
        return any((a[0], b[0]) in self.pairs or (a, b) in self.looks for a, b in pairs)

    def covers(self, other: "HeldOut") -> bool:
        """Whether whatever `other` holds out is held out here, too; a place also where its pair of kinds is."""

        def places(one: Fact) -> bool:
            return one in self.positions or tuple(sorted((one[0], one[2]))) in self.pairs

        def look(one: Looks) -> bool:
            return one in self.looks or (one[0][0], one[1][0]) in self.pairs

        whole = self.pairs >= other.pairs and self.counts >= other.counts and self.colours >= other.colours
        return whole and all(map(places, other.positions)) and all(map(look, other.looks))


@cache
def kinds_of(world: World) -> tuple[str, ...]:
    """The kinds of shapes."""
    return ALL_KINDS[: world.kinds]


@cache
def pairs_of(world: World) -> tuple[Pair, ...]:
    """All pairs of kinds, each sorted; those of a smaller world come first."""
    found: dict[Pair, None] = {}
    for size in SIZES[: SIZES.index(world.kinds) + 1]:
        found |= dict.fromkeys(combinations(sorted(ALL_KINDS[:size]), 2))
    return tuple(found)


@cache
def seen_pairs(world: World) -> tuple[Pair, ...]:
    """The pairs of kinds that training shows."""
    pairs = pairs_of(world)
    held = set(held_order(pairs)[: round((1 - world.pairs_shown) * len(pairs))])
    return tuple(pair for pair in pairs if pair not in held)


@cache
def held(world: World) -> HeldOut:
    """All that training never shows."""
    splits: tuple[Split, ...] = ("mirror", "novel")
    places = frozenset(fact for split in splits if world.holds(split) for fact in held_places(world, split))
    counts = frozenset((kind, (3, 4, 2)[k % 3]) for k, kind in enumerate(kinds_of(world)))
    colours = frozenset(
        # 3 and 10 have no common factor, so that the two colours differ from kind to kind
        (kind, COLOUR_NAMES[(3 * k + shift) % 10])
        for k, kind in enumerate(kinds_of(world))
        for shift in (0, 5)
    )
    pairs, shown = frozenset(pairs_of(world)) - frozenset(seen_pairs(world)), set(seen_pairs(world))
    looks = some_looks(LOOKS_HELD, _numbered(pairs_of(world)), colours)
    return HeldOut(pairs, counts, colours, places, frozenset(one for one in looks if (one[0][0], one[1][0]) in shown))


def held_places(world: World, split: Split) -> list[Fact]:
    """The places of a split, in both wordings, of the pairs that training shows."""
    numbered, shown = _numbered(pairs_of(world)), set(seen_pairs(world))
    if split == "mirror":  # one of the four places in turn
        found = [(a, RELATIONS[n % 4], b) for n, (a, b) in enumerate(numbered) if (a, b) in shown]
    else:
        lost = {pair: axis for pair, axis in without_axis(numbered).items() if pair in shown}
        found = [(a, where, b) for (a, b), axis in lost.items() for where in axis]
    return [*found, *((b, OPPOSITE[where], a) for a, where, b in found)]


def shows(scene: Scene, world: World) -> bool:
    """Whether training may show the scene."""
    return not held(world).shown_by(scene)


def held_order(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs in the order in which they are held out: so that each kind lacks about as many partners as any other.

    Those that are held out at all come first, then, among equals, those with kinds that the smallest world lacks: what
    that world holds out and shows changes as little as possible.
    """
    order, rest = list(FIRST_HELD), [pair for pair in reversed(pairs) if pair not in FIRST_HELD]
    lost = Counter(kind for pair in order for kind in pair)
    while rest:
        chosen = min(rest, key=lambda pair: (max(lost[kind] for kind in pair), sum(lost[kind] for kind in pair)))
        rest.remove(chosen)
        order.append(chosen)
        lost.update(chosen)
    return order


def without_axis(numbered: Sequence[Pair]) -> dict[Pair, tuple[str, str]]:
    """The axis along which a pair is never shown in the `novel` split, for the pairs that have one.

    It is the one along which the `mirror` split leaves the pair alone, and each kind lacks one partner on an axis at
    most: all kinds are seen along both.
    """
    found: dict[Pair, tuple[str, str]] = {}
    used: set[tuple[str, tuple[str, str]]] = set()
    for n, pair in enumerate(numbered):
        axis = AXES[1] if n % 4 < 2 else AXES[0]
        if not {(kind, axis) for kind in pair} & used:
            found[pair] = axis
            used |= {(kind, axis) for kind in pair}
    return found


def some_looks(
    seed: int, pairs: Sequence[Pair], held_colours: frozenset[Pair], taken: frozenset[Looks] = frozenset()
) -> frozenset[Looks]:
    """Four pairs of coloured kinds for every pair of kinds, from colours of both that training shows, none taken."""
    rng = np.random.default_rng(seed)
    chosen: list[Looks] = []
    for a, b in pairs:
        looks = [
            ((a, first), (b, second))
            for first in COLOUR_NAMES
            for second in COLOUR_NAMES
            if first != second
            and not {(a, first), (b, second)} & held_colours
            and ((a, first), (b, second)) not in taken
        ]
        chosen += [looks[i] for i in rng.choice(len(looks), 4, replace=False)]
    return frozenset(chosen)


def _numbered(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs in the order that their held-out places and looks go by: those that most worlds hold out are last."""
    return [*(pair for pair in pairs if pair not in FIRST_HELD), *FIRST_HELD]
