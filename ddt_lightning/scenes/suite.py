"""Prompt suites and held-out combinations: GenEval-style prompts over shapes, and the scenes that training may see.

Some combinations never occur in a training scene, edit, question or text: pairs of kinds, numbers of a kind, colours
of a kind, places of one kind relative to another, and pairs of coloured kinds. The suite's prompts of five tags are
exactly these combinations; single_object cannot be held out. Every kind, colour, number and relation is seen in others.
A second suite asks for combinations that training does show. The two together tell memorised from generalised.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from itertools import combinations

import numpy as np

from ddt_lightning.scenes.check import RELATIONS, relations
from ddt_lightning.scenes.language import NUMBERS, OPPOSITE, article, pick, plural, text_line
from ddt_lightning.scenes.render import (
    CANVAS,
    COLOURS,
    HALF_BOX,
    KINDS,
    MARGIN,
    RADII,
    Scene,
    Shape,
    apart,
    box,
    place,
    sample_background,
)
from ddt_lightning.scenes.tasks import Edit, Question, sample_edit, sample_question

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_NAMES = tuple(COLOURS)

HELD_PAIRS = frozenset({("circle", "cross"), ("ring", "square"), ("diamond", "triangle")})  # each pair sorted
HELD_COUNTS = frozenset({("circle", 3), ("square", 4), ("triangle", 2), ("cross", 3), ("ring", 4), ("diamond", 2)})
# Two colours of every kind; 3 and 10 have no common factor, so that the colours differ from kind to kind.
HELD_COLOURS = frozenset((kind, _NAMES[(3 * k + shift) % 10]) for k, kind in enumerate(KINDS) for shift in (0, 5))
SEEN_PAIRS = tuple(pair for pair in combinations(sorted(KINDS), 2) if pair not in HELD_PAIRS)
# One place of every other pair: (A, relation, B) and, the same fact, (B, opposite, A).
_FACTS = [(a, RELATIONS[n % 4], b) for n, (a, b) in enumerate(SEEN_PAIRS)]
HELD_POSITIONS = frozenset(_FACTS + [(b, OPPOSITE[held], a) for a, held, b in _FACTS])


Looks = tuple[tuple[str, str], tuple[str, str]]
"""Two things as (kind, colour)."""


def _some_looks(seed: int, taken: frozenset[Looks] = frozenset()) -> frozenset[Looks]:
    """Four pairs of coloured kinds for every seen pair of kinds, from seen colours of both, none of them taken."""
    rng = np.random.default_rng(seed)
    chosen: list[Looks] = []
    for a, b in SEEN_PAIRS:
        looks = [
            ((a, first), (b, second))
            for first in _NAMES
            for second in _NAMES
            if first != second
            and not {(a, first), (b, second)} & HELD_COLOURS
            and ((a, first), (b, second)) not in taken
        ]
        chosen += [looks[i] for i in rng.choice(len(looks), 4, replace=False)]
    return frozenset(chosen)


HELD_LOOKS = _some_looks(20250422)


def held_out(scene: Scene) -> bool:
    """Whether the scene shows any held-out combination."""
    kinds = [shape.kind for shape in scene.shapes]
    if any((shape.kind, shape.colour) in HELD_COLOURS for shape in scene.shapes):
        return True
    if any((kind, kinds.count(kind)) in HELD_COUNTS for kind in kinds):
        return True
    for first, second in combinations(scene.shapes, 2):
        a, b = sorted((first, second), key=lambda shape: shape.kind)
        if (a.kind, b.kind) in HELD_PAIRS or ((a.kind, a.colour), (b.kind, b.colour)) in HELD_LOOKS:
            return True
        if a.kind != b.kind and any((a.kind, held, b.kind) in HELD_POSITIONS for held in relations(box(a), box(b))):
            return True
    return False


Combinations = tuple[
    Collection[tuple[str, str]],
    Collection[tuple[str, int]],
    Collection[tuple[str, str]],
    Collection[tuple[str, str, str]],
    Collection[Looks],
]
"""Pairs of kinds, numbers of a kind, colours of a kind, places of a kind, pairs of coloured kinds."""


def _held() -> Combinations:
    return HELD_PAIRS, HELD_COUNTS, HELD_COLOURS, HELD_POSITIONS, HELD_LOOKS


def _seen() -> Combinations:
    """All that training shows of the first four, and as many pairs of coloured kinds as are held out."""
    counts = {(kind, count) for kind in KINDS for count in (2, 3, 4)} - HELD_COUNTS
    colours = {(kind, colour) for kind in KINDS for colour in _NAMES} - HELD_COLOURS
    ordered = [*SEEN_PAIRS, *(pair[::-1] for pair in SEEN_PAIRS)]
    places = {(a, where, b) for a, b in ordered for where in RELATIONS} - HELD_POSITIONS
    return SEEN_PAIRS, counts, colours, places, _some_looks(20250423, HELD_LOOKS)


def suite(seen: bool = False) -> list[dict]:
    """The 150 prompts as GenEval metadata: tag, include, exclude (counting only), prompt; in the order of `TAGS`.

    Args:
        seen: instead, 258 prompts of combinations that training shows.
    """
    pairs, counts, colours, places, looks = _seen() if seen else _held()
    rows: list[dict] = []

    def add(tag: str, text: str, include: list[dict], exclude: list[dict] | None = None) -> None:
        row: dict = {"tag": tag, "include": include}
        if exclude:
            row["exclude"] = exclude
        rows.append({**row, "prompt": f"a photo of {text}"})

    for kind in KINDS:
        add("single_object", article(kind), [{"class": kind, "count": 1}])
    for pair in sorted(pairs):
        for a, b in (pair, pair[::-1]):
            add("two_object", f"{article(a)} and {article(b)}", [{"class": a, "count": 1}, {"class": b, "count": 1}])
    for kind, count in sorted(counts):
        more = [{"class": kind, "count": count + 1}]
        add("counting", f"{NUMBERS[count]} {plural(kind)}", [{"class": kind, "count": count}], more)
    for kind, colour in sorted(colours):
        add("colors", article(f"{colour} {kind}"), [{"class": kind, "count": 1, "color": colour}])
    for a, place_of_a, b in sorted(places):
        entries = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [place_of_a, 0]}]
        add("position", f"{article(a)} {place_of_a} {article(b)}", entries)
    for look in sorted(looks):
        for (a, first), (b, second) in (look, look[::-1]):
            entries = [{"class": a, "count": 1, "color": first}, {"class": b, "count": 1, "color": second}]
            add("color_attr", f"{article(f'{first} {a}')} and {article(f'{second} {b}')}", entries)
    return rows


def place_pair(rng: np.random.Generator, looks: list[tuple[str, str]], held: str) -> tuple[Shape, ...]:
    """Two shapes of the given kind and colour, the first in the one relation `held` to the second."""
    low, high = RADII[2]
    across, sign = held in ("left of", "right of"), -1 if held in ("left of", "above") else 1
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
        if apart(a, b) and relations(box(a), box(b)) == [held]:
            return a, b


def _looks(rng: np.random.Generator, kinds: list[str]) -> list[tuple[str, str]]:
    return [(kind, _NAMES[rng.integers(10)]) for kind in kinds]


def _mixture(rng: np.random.Generator, unseen: bool) -> Scene:
    """One draw from the mixture of scenes that the six tags need, with a held-out combination just if `unseen`."""
    pairs = tuple(combinations(sorted(KINDS), 2)) if unseen else SEEN_PAIRS
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
            shapes = place(rng, _looks(rng, [KINDS[i] for i in rng.permutation(len(KINDS))[:3]]))
        scene = Scene(tuple(shapes[i] for i in rng.permutation(len(shapes))), sample_background(rng))
        if held_out(scene) == unseen:
            return scene


def train_scene(rng: np.random.Generator) -> Scene:
    """A training scene: never a held-out combination."""
    return _mixture(rng, unseen=False)


def _allowed(scene: Scene) -> bool:
    return not held_out(scene)


def train_edit(rng: np.random.Generator, kind: str | None = None) -> Edit:
    """A training edit; neither its source nor its target shows a held-out combination."""
    return sample_edit(rng, kind, _allowed)


def train_question(rng: np.random.Generator, kind: str | None = None) -> Question:
    """A training question; neither its scene nor its text names a held-out combination."""
    return sample_question(rng, kind, train_scene, _allowed)


def train_text(rng: np.random.Generator) -> str:
    """A training line of text alone: a fact about shapes, or a sentence about a training scene."""
    return text_line(rng, train_scene(rng))


def val_scene(rng: np.random.Generator, unseen: bool = False) -> Scene:
    """A validation scene: as in training (from other seeds), or with a held-out combination if `unseen`."""
    return _mixture(rng, unseen)


def val_edit(rng: np.random.Generator, kind: str | None = None, unseen: bool = True) -> Edit:
    """A validation edit; if `unseen`, its source and its target both show a held-out combination."""
    return sample_edit(rng, kind, held_out if unseen else _allowed)


def val_question(rng: np.random.Generator, kind: str | None = None, unseen: bool = True) -> Question:
    """A validation question; if `unseen`, its scene shows a held-out combination."""
    if not unseen:
        return train_question(rng, kind)
    return sample_question(rng, kind, lambda source: val_scene(source, unseen=True))


def truth(metadata: dict, rng: np.random.Generator, seen: bool = False) -> Scene:
    """A scene that shows just what a prompt asks for; what it leaves open is drawn, if `seen` from what training shows.

    A prompt for held-out combinations has no such scene.
    """
    while True:
        looks, held = [], None
        for entry in metadata["include"]:
            looks += [(entry["class"], entry.get("color") or _NAMES[rng.integers(10)]) for _ in range(entry["count"])]
            held = entry["position"][0] if "position" in entry else held
        # The last entry is the one that stands in the relation to the first.
        shapes = place_pair(rng, looks[::-1], held) if held else place(rng, looks)
        scene = Scene(shapes, sample_background(rng))
        if not (seen and held_out(scene)):
            return scene


def as_circles(scene: Scene) -> Scene:
    """The scene with every shape drawn as a circle: what a checker that is taken in by blobs would pass."""
    return replace(scene, shapes=tuple(replace(shape, kind="circle") for shape in scene.shapes))
