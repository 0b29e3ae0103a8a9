"""Numbers and places together: two things of a kind and colour, both in one place relative to a thing of another kind.

    a photo of two red circles left of a blue diamond

The scenes, captions and prompts of these are apart from the others, which name numbers or places, never both: what was
measured without them stays comparable. Three things do not fit beside a fourth: GenEval's relations are narrow cones.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from ddt_lightning.scenes.check import RELATIONS, relations
from ddt_lightning.scenes.combinations import COLOUR_NAMES, held, kinds_of, seen_pairs, shows
from ddt_lightning.scenes.language import OPPOSITE, article, caption, pick, plural
from ddt_lightning.scenes.render import Scene, Shape, box, place, sample_background
from ddt_lightning.scenes.world import World

CAPTIONS = 2  # captions of each image that name no place
Group = tuple[str, str, str]
"""Kind of the two, relation, and kind of the third: `("circle", "left of", "diamond")`."""


def groups(world: World, seen: bool) -> list[Group]:
    """The groups of a world whose pair of kinds training shows, and two of whose kind.

    Args:
        world: whose combinations.
        seen: groups whose place training shows, too; else those whose place it never shows for two single things.
    """
    unseen, pairs = held(world), seen_pairs(world)
    return [
        (kind, where, other)
        for kind, other in permutations(kinds_of(world), 2)
        for where in RELATIONS
        if tuple(sorted((kind, other))) in pairs
        and (kind, 2) not in unseen.counts
        and ((kind, where, other) not in unseen.positions) == seen
    ]


def group_suite(seen: bool, world: World) -> list[dict]:
    """One prompt for each group as GenEval metadata, in colours that training shows for its kinds; always the same."""
    rng, rows = np.random.default_rng(20250424), []
    for kind, where, other in groups(world, seen):
        first, second = _colours(rng, kind, other, world)
        rows.append(
            {
                "tag": "groups",
                "include": [
                    {"class": other, "count": 1, "color": second},
                    {"class": kind, "count": 2, "color": first, "position": [where, 0]},
                ],
                "exclude": [{"class": kind, "count": 3}],
                "prompt": f"a photo of {_two(kind, first)} {where} {article(f'{second} {other}')}",
            }
        )
    return rows


def place_group(rng: np.random.Generator, looks: list[tuple[str, str]], where: str) -> tuple[Shape, ...]:
    """Shapes of the given kind and colour, all but the last in the relation `where` to the last.

    GenEval's rule is the same: a further relation, of one that stands aslant, does no harm.
    """

    def fits(shape: Shape, before: Sequence[Shape]) -> bool:
        return not before or where in relations(box(shape), box(before[0]))

    last, *some = place(rng, looks[::-1], fits=fits)
    return (*some[::-1], last)


def group_scene(rng: np.random.Generator, world: World) -> tuple[Scene, Group]:
    """A training scene of a group, which shows no held-out combination, and what it shows."""
    known = groups(world, seen=True)
    while True:
        kind, where, other = group = known[int(rng.integers(len(known)))]
        looks = [(kind, _colour(rng, kind, world))] * 2 + [(other, _colour(rng, other, world))]
        shapes = place_group(rng, looks, where)
        scene = Scene(tuple(shapes[i] for i in rng.permutation(len(shapes))), sample_background(rng))
        if shows(scene, world):
            return scene, group


def group_captions(scene: Scene, group: Group, rng: np.random.Generator) -> list[str]:
    """True captions of the scene of a group, each once: its place from either side, with and without colours.

    The first is with colours; some that name no place come last.
    """
    kind, where, other = group
    colours = {shape.kind: shape.colour for shape in scene.shapes}
    texts = []
    for coloured in (True, False):
        two = _two(kind, colours[kind] if coloured else None)
        one = article(f"{colours[other]} {other}" if coloured else other)
        texts += [f"a photo of {two} {where} {one}", f"a photo of {one} {OPPOSITE[where]} {two}"]
    return list(dict.fromkeys([*texts, *(caption(scene, rng) for _ in range(CAPTIONS))]))


def _two(kind: str, colour: str | None) -> str:
    return " ".join(word for word in ("two", colour, plural(kind)) if word)


def _colour(rng: np.random.Generator, kind: str, world: World) -> str:
    """A colour that training shows for a kind."""
    return pick(rng, [colour for colour in COLOUR_NAMES if (kind, colour) not in held(world).colours])


def _colours(rng: np.random.Generator, kind: str, other: str, world: World) -> tuple[str, str]:
    """Colours of two kinds that training shows, alone and together."""
    while True:
        first, second = _colour(rng, kind, world), _colour(rng, other, world)
        if tuple(sorted([(kind, first), (other, second)])) not in held(world).looks:
            return first, second
