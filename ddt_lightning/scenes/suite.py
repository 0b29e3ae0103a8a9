"""Prompt suites, and the scenes, edits, questions and texts that training shows or that ask for what it does not.

What training shows is a matter of the world (`combinations.py`). The suite's prompts, in GenEval's form and by its
tags, ask for just the combinations that are held out; single_object cannot be. A second suite asks for combinations
that training does show. The two together tell memorised from generalised. Prompts for places of the `novel` split are
a suite apart.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import numpy as np

from ddt_lightning.scenes.check import RELATIONS, relations
from ddt_lightning.scenes.combinations import (
    COLOUR_NAMES,
    LOOKS_SEEN,
    Fact,
    HeldOut,
    held,
    held_places,
    kinds_of,
    pairs_of,
    seen_pairs,
    shows,
    some_looks,
)
from ddt_lightning.scenes.groups import place_group
from ddt_lightning.scenes.language import NUMBERS, article, pick, plural, text_line
from ddt_lightning.scenes.render import (
    CANVAS,
    HALF_BOX,
    MARGIN,
    RADII,
    Scene,
    Shape,
    apart,
    box,
    place,
    sample_background,
)
from ddt_lightning.scenes.tasks import EDITS, Edit, Question, further_questions, sample_edit, sample_question
from ddt_lightning.scenes.world import Split, World

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
WORLD = World()


def held_out(scene: Scene, world: World = WORLD) -> bool:
    """Whether the scene shows any combination that the world holds out."""
    return not shows(scene, world)


def _seen(world: World) -> HeldOut:
    """All that training shows, but of pairs of coloured kinds only as many as are held out."""
    kinds, pairs, unseen = kinds_of(world), seen_pairs(world), held(world)
    counts = {(kind, count) for kind in kinds for count in (2, 3, 4)} - unseen.counts
    colours = {(kind, colour) for kind in kinds for colour in COLOUR_NAMES} - unseen.colours
    ordered = [*pairs, *(pair[::-1] for pair in pairs)]
    places = {(a, where, b) for a, b in ordered for where in RELATIONS} - unseen.positions
    looks = some_looks(LOOKS_SEEN, pairs, unseen.colours, unseen.looks)
    return HeldOut(frozenset(pairs), frozenset(counts), frozenset(colours), frozenset(places), looks)


def suite(seen: bool = False, world: World = WORLD, split: Split = "mirror") -> list[dict]:
    """The prompts as GenEval metadata: tag, include, exclude (counting only), prompt; in the order of `TAGS`.

    Args:
        seen: prompts of combinations that training shows, 258 in the smallest world, in place of 150 held out.
        world: whose combinations.
        split: `novel` asks only for the places of that split; `mirror` asks for everything else that is held out.

    Raises:
        ValueError: the places of the `novel` split are asked for, and the world shows them, or `seen` ones are.
    """
    if split == "novel":
        if seen or not world.holds("novel"):
            raise ValueError(
                "`split` (novel) asks for places that training never shows: leave `seen` out, and say by `held_out` "
                "(novel or both) that the shards were made without them."
            )
        return [_position(fact) for fact in sorted(held_places(world, "novel"))]
    asked = _seen(world) if seen else held(world)
    places: Collection[Fact] = asked.positions
    if not seen:
        places = held_places(world, "mirror") if world.holds("mirror") else []
    rows: list[dict] = []

    def add(tag: str, text: str, include: list[dict], exclude: list[dict] | None = None) -> None:
        row: dict = {"tag": tag, "include": include}
        if exclude:
            row["exclude"] = exclude
        rows.append({**row, "prompt": f"a photo of {text}"})

    for kind in kinds_of(world):
        add("single_object", article(kind), [{"class": kind, "count": 1}])
    for pair in sorted(asked.pairs):
        for a, b in (pair, pair[::-1]):
            add("two_object", f"{article(a)} and {article(b)}", [{"class": a, "count": 1}, {"class": b, "count": 1}])
    for kind, count in sorted(asked.counts):
        more = [{"class": kind, "count": count + 1}]
        add("counting", f"{NUMBERS[count]} {plural(kind)}", [{"class": kind, "count": count}], more)
    for kind, colour in sorted(asked.colours):
        add("colors", article(f"{colour} {kind}"), [{"class": kind, "count": 1, "color": colour}])
    rows += [_position(fact) for fact in sorted(places)]
    for look in sorted(asked.looks):
        for (a, first), (b, second) in (look, look[::-1]):
            entries = [{"class": a, "count": 1, "color": first}, {"class": b, "count": 1, "color": second}]
            add("color_attr", f"{article(f'{first} {a}')} and {article(f'{second} {b}')}", entries)
    return rows


def _position(fact: Fact) -> dict:
    a, where, b = fact
    entries = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [where, 0]}]
    return {"tag": "position", "include": entries, "prompt": f"a photo of {article(a)} {where} {article(b)}"}


def place_pair(rng: np.random.Generator, looks: list[tuple[str, str]], where: str) -> tuple[Shape, ...]:
    """Two shapes of the given kind and colour, the first in the one relation `where` to the second."""
    low, high = RADII[2]
    across, sign = where in ("left of", "right of"), -1 if where in ("left of", "above") else 1
    while True:
        radii = rng.uniform(low, high, 2)
        # Within 24 degrees of the axis and a little apart, so that no other relation holds.
        angle, reach = rng.uniform(-0.42, 0.42), rng.uniform(24, 42)
        along, beside = sign * reach * math.cos(angle), reach * math.sin(angle)
        offsets = [(along, beside) if across else (beside, along), (0.0, 0.0)]
        extents = [
            (offset[axis] - HALF_BOX[kind][axis] * radius, offset[axis] + HALF_BOX[kind][axis] * radius)
            for axis in (0, 1)
            for offset, (kind, _), radius in zip(offsets, looks, radii, strict=True)
        ]
        ranges = [
            (MARGIN - min(a[0], b[0]), CANVAS - MARGIN - max(a[1], b[1])) for a, b in (extents[:2], extents[2:])
        ]  # of the second shape's centre
        if any(start > stop for start, stop in ranges):
            continue
        x, y = (rng.uniform(*span) for span in ranges)
        a, b = (
            Shape(kind, colour, round(float(x + dx), 2), round(float(y + dy), 2), round(float(radius), 2))
            for (kind, colour), (dx, dy), radius in zip(looks, offsets, radii, strict=True)
        )
        if apart(a, b) and relations(box(a), box(b)) == [where]:
            return a, b


def _looks(rng: np.random.Generator, kinds: list[str]) -> list[tuple[str, str]]:
    return [(kind, COLOUR_NAMES[rng.integers(10)]) for kind in kinds]


def _mixture(rng: np.random.Generator, unseen: bool, world: World) -> Scene:
    """One draw from the mixture of scenes that the six tags need, with a held-out combination just if `unseen`."""
    pairs = pairs_of(world) if unseen else seen_pairs(world)
    form = rng.random()
    while True:
        pair = list(pairs[rng.integers(len(pairs))])
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        if form < 0.20:  # one shape
            shapes = place(rng, _looks(rng, [first]))
        elif form < 0.45:  # two to four of a kind, often of one colour
            count = int(rng.integers(2, 5))
            looks = _looks(rng, [first] * count)
            shapes = place(rng, looks[:1] * count if rng.random() < 0.6 else looks)
        elif form < 0.85:  # two kinds in a clear relation
            shapes = place_pair(rng, _looks(rng, [first, second]), pick(rng, RELATIONS))
        elif form < 0.93:  # some of a kind and one of another
            looks = _looks(rng, [first, second])
            shapes = place(rng, looks[:1] * int(rng.integers(2, 4)) + looks[1:])
        else:  # three kinds
            shapes = place(rng, _looks(rng, [kinds_of(world)[i] for i in rng.permutation(world.kinds)[:3]]))
        scene = Scene(tuple(shapes[i] for i in rng.permutation(len(shapes))), sample_background(rng))
        if held_out(scene, world) == unseen:
            return scene


def train_scene(rng: np.random.Generator, world: World = WORLD) -> Scene:
    """A training scene: never a held-out combination."""
    return _mixture(rng, False, world)


def train_edit(rng: np.random.Generator, kind: str | None = None, world: World = WORLD, even: bool = False) -> Edit:
    """A training edit; neither its source nor its target shows a held-out combination.

    Args:
        rng: where the draws come from.
        kind: one of `EDITS`, by default any.
        world: whose combinations.
        even: sources of one, two and three shapes are equally frequent. Without it the number is drawn anew with every
            scene that is turned down, and only one source in sixteen has three shapes, since most scenes of three show
            a held-out combination.
    """
    count = None
    if even:
        kind = kind or pick(rng, EDITS)
        count = int(rng.integers(2 if kind == "remove" else 1, 4))
    return sample_edit(
        rng,
        kind,
        partial(shows, world=world),
        kinds_of(world),
        count,
        allow_looks=lambda looks: not held(world).shown_by_looks(looks),
    )


def train_question(rng: np.random.Generator, kind: str | None = None, world: World = WORLD) -> Question:
    """A training question; neither its scene nor its text names a held-out combination."""
    return sample_question(rng, kind, partial(train_scene, world=world), partial(shows, world=world), kinds_of(world))


def train_questions(rng: np.random.Generator, number: int, world: World = WORLD) -> list[Question]:
    """A training question and up to `number - 1` others about its scene."""
    first = train_question(rng, world=world)
    return [first, *further_questions(rng, first, number - 1, partial(shows, world=world), kinds_of(world))]


def train_text(rng: np.random.Generator, world: World = WORLD) -> str:
    """A training line of text alone: a fact about shapes, or a sentence about a training scene."""
    return text_line(rng, train_scene(rng, world))


def val_scene(rng: np.random.Generator, unseen: bool = False, world: World = WORLD) -> Scene:
    """A validation scene: as in training (from other seeds), or with a held-out combination if `unseen`."""
    return _mixture(rng, unseen, world)


def val_edit(rng: np.random.Generator, kind: str | None = None, unseen: bool = True, world: World = WORLD) -> Edit:
    """A validation edit; if `unseen`, its source and its target both show a held-out combination."""
    allow: Callable[[Scene], bool] = partial(held_out, world=world) if unseen else partial(shows, world=world)
    return sample_edit(rng, kind, allow, kinds_of(world))


def val_question(
    rng: np.random.Generator, kind: str | None = None, unseen: bool = True, world: World = WORLD
) -> Question:
    """A validation question; if `unseen`, its scene shows a held-out combination."""
    if not unseen:
        return train_question(rng, kind, world)
    return sample_question(rng, kind, partial(val_scene, unseen=True, world=world), kinds=kinds_of(world))


def truth(metadata: dict, rng: np.random.Generator, seen: bool = False, world: World = WORLD) -> Scene:
    """A scene that shows just what a prompt asks for; what it leaves open is drawn, if `seen` from what training shows.

    A prompt for held-out combinations has no such scene.
    """
    while True:
        looks, where = [], None
        for entry in metadata["include"]:
            colour = entry.get("color")
            looks += [(entry["class"], colour or COLOUR_NAMES[rng.integers(10)]) for _ in range(entry["count"])]
            where = entry["position"][0] if "position" in entry else where
        # The last entry is the one that stands in the relation to the first.
        related = place_pair if len(looks) == 2 else place_group
        shapes = related(rng, looks[::-1], where) if where else place(rng, looks)
        scene = Scene(shapes, sample_background(rng))
        if not (seen and held_out(scene, world)):
            return scene


def as_circles(scene: Scene) -> Scene:
    """The scene with every shape drawn as a circle: what a checker that is taken in by blobs would pass."""
    return replace(scene, shapes=tuple(replace(shape, kind="circle") for shape in scene.shapes))
