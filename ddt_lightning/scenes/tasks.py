"""Tasks on scenes: edits (source, instruction, target) and questions (scene, question, answer).

An instruction leaves nothing open that a checker compares: what is added or moved goes to a named place, and a named
shape is the only one of its name. Answers are drawn evenly before the scene is, so that each question type is balanced.
`allow` arguments are tests on scenes: `suite` passes the one that keeps held-out combinations out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ddt_lightning.scenes.language import NUMBERS, OPPOSITE, article, at, pick, place_of, plural, relation
from ddt_lightning.scenes.render import (
    COLOURS,
    GROUNDS,
    KINDS,
    TIMES,
    Background,
    Box,
    Scene,
    Shape,
    apart,
    box,
    fits,
    place,
    sample_background,
    sample_looks,
    sample_scene,
)

Allow = Callable[[Scene], bool]
AllowLooks = Callable[[Sequence[tuple[str, str]]], bool]
Draw = Callable[[np.random.Generator], Scene]

LOCAL_EDITS = ("add", "remove", "replace", "recolour", "move")
GLOBAL_EDITS = ("background", "daynight")
EDITS = LOCAL_EDITS + GLOBAL_EDITS
QUESTIONS = ("count", "colour", "kind", "yesno", "position")
# Name and centre of the places an instruction can name.
PLACES = {
    "top left": (13.0, 13.0),
    "top": (32.0, 13.0),
    "top right": (51.0, 13.0),
    "left": (13.0, 32.0),
    "centre": (32.0, 32.0),
    "right": (51.0, 32.0),
    "bottom left": (13.0, 51.0),
    "bottom": (32.0, 51.0),
    "bottom right": (51.0, 51.0),
}
EDIT_RADII = (9.0, 11.0)  # shapes of edited scenes: every one fits into every place


@dataclass(frozen=True)
class Edit:
    """An instruction that turns `source` into `target`; `kind` is one of `EDITS`."""

    kind: str
    source: Scene
    instruction: str
    target: Scene

    @property
    def boxes(self) -> list[Box]:
        """Boxes of all shapes that differ between source and target; empty for global edits."""
        changed = set(self.source.shapes) ^ set(self.target.shapes)
        return [box(shape) for shape in (*self.source.shapes, *self.target.shapes) if shape in changed]


@dataclass(frozen=True)
class Question:
    """A question about `scene` with its one-word `answer`; `kind` is one of `QUESTIONS`."""

    kind: str
    scene: Scene
    question: str
    answer: str


def mention(kind: str, colour: str) -> Scene:
    """The scene that holds just what a text names, for an `allow` test of the text."""
    return Scene((Shape(kind, colour, 32.0, 32.0, 14.0),), Background(GROUNDS[0], TIMES[0]))


def _name(shape: Shape, scene: Scene, rng: np.random.Generator) -> str:
    """The shape's name without article: with its colour where the kind alone is ambiguous, and often otherwise."""
    alone = sum(other.kind == shape.kind for other in scene.shapes) == 1
    return shape.kind if alone and rng.random() < 0.4 else f"{shape.colour} {shape.kind}"


def _edited(kind: str, source: Scene, rng: np.random.Generator, kinds: Sequence[str]) -> tuple[Scene, str] | None:
    """One try at an edit of this kind: the target and the instruction, None if it does not fit the source."""
    shapes, ground = source.shapes, source.background
    colour, new_kind, spot = pick(rng, list(COLOURS)), pick(rng, kinds), pick(rng, list(PLACES))
    x, y = PLACES[spot]
    if kind == "background":
        to = pick(rng, [name for name in GROUNDS if name != ground.colour])
        wording = pick(rng, ("make the background {}", "change the background to {}", "put it on a {} background"))
        return Scene(shapes, replace(ground, colour=to)), wording.format(to)
    if kind == "daynight":
        to = "day" if ground.time == "night" else "night"
        wording = pick(rng, ("make it {}", "change it to {}", f"turn {ground.time} into {{}}"))
        return Scene(shapes, replace(ground, time=to)), wording.format(to)
    if kind == "add":
        new = Shape(new_kind, colour, x, y, round(float(rng.uniform(*EDIT_RADII)), 2))
        if len(shapes) > 3 or not all(apart(new, other) for other in shapes):
            return None
        wording = pick(rng, ("add {} {}", "put {} {}", "draw {} {}"))
        return Scene((*shapes, new), ground), wording.format(article(f"{colour} {new_kind}"), at(spot))

    index = int(rng.integers(len(shapes)))
    old, others = shapes[index], shapes[:index] + shapes[index + 1 :]
    if any((other.kind, other.colour) == (old.kind, old.colour) for other in others):
        return None
    name = _name(old, source, rng)
    if kind == "remove":
        return (
            (Scene(others, ground), pick(rng, ("remove", "delete", "take away")) + f" the {name}") if others else None
        )
    if kind == "move":
        new = replace(old, x=x, y=y)
        if place_of(old) == spot or not all(apart(new, other) for other in others):
            return None
        wording = pick(rng, ("move the {} to the {}", "put the {} {}"))
        where = spot if wording.startswith("move") else at(spot)
        instruction = wording.format(name, where)
    elif kind == "recolour":
        new = replace(old, colour=colour)
        wording = pick(rng, ("make the {} {}", "paint the {} {}", "change the colour of the {} to {}"))
        instruction = wording.format(name, colour)
    elif kind == "replace":
        keep = rng.random() < 0.5
        new = replace(old, kind=new_kind, colour=old.colour if keep else colour)
        to = article(new_kind if keep else f"{colour} {new_kind}")
        instruction = pick(rng, ("replace the {} with {}", "turn the {} into {}")).format(name, to)
    else:
        raise ValueError(f"An edit's kind is {kind!r}; it must be one of {', '.join(EDITS)}.")
    same = new.kind == old.kind if kind == "replace" else new == old
    if same or not fits(new) or not all(apart(new, other) for other in others):
        return None
    return Scene((*others[:index], new, *others[index:]), ground), instruction


def edit_scene(
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    allow_looks: AllowLooks = lambda looks: True,
) -> Scene:
    """A scene to edit: `count` shapes, by default 1-3, of any look that is allowed, small enough for every place."""
    while True:
        looks = sample_looks(rng, int(rng.integers(1, 4)) if count is None else count, kinds)
        if allow_looks(looks):
            return Scene(place(rng, looks, EDIT_RADII), sample_background(rng))


def sample_edit(
    rng: np.random.Generator,
    kind: str | None = None,
    allow: Allow = lambda scene: True,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    allow_looks: AllowLooks = lambda looks: True,
) -> Edit:
    """An edit whose source and target both pass `allow`.

    Args:
        rng: where the draws come from.
        kind: one of `EDITS`, by default any.
        allow: a test on both scenes.
        kinds: what shapes there are.
        count: shapes of the source, by default 1-3 as often as such scenes pass `allow`; the only shape of a scene
            cannot be removed.
        allow_looks: a test on the kinds and colours of the source, which saves placing shapes that `allow` turns down.
    """
    kind = kind or pick(rng, EDITS)
    if kind == "remove" and count == 1:
        raise ValueError("`count` (1): an edit that removes a shape needs a scene of 2 shapes or more.")
    while True:
        source = edit_scene(rng, kinds, count, allow_looks)
        if not allow(source):
            continue
        made = _edited(kind, source, rng, kinds)
        if made and allow(made[0]):
            return Edit(kind, source, made[1], made[0])


def _asked(
    kind: str, answer: str, scene: Scene, rng: np.random.Generator, allow: Allow, kinds_of_world: Sequence[str]
) -> str | None:
    """A question of this kind about the scene with just this answer, None if the scene has none."""
    shapes = scene.shapes
    kinds = Counter(shape.kind for shape in shapes)
    one = shapes[int(rng.integers(len(shapes)))]
    if kind == "count":
        count = NUMBERS.index(answer)
        if len(kinds) > 1 and len(shapes) == count and rng.random() < 0.5:
            return "how many shapes are there?"
        return f"how many {plural(one.kind)} are there?" if kinds[one.kind] == count else None
    if kind == "colour":
        asked = [shape for shape in shapes if shape.colour == answer and kinds[shape.kind] == 1]
        return f"what colour is the {asked[0].kind}?" if asked else None
    if kind == "kind":
        asked = [shape for shape in shapes if shape.kind == answer]
        unique = [shape for shape in asked if sum(other.colour == shape.colour for other in shapes) == 1]
        return f"which shape is {unique[0].colour}?" if unique else None
    if kind == "yesno":
        if answer == "yes":
            return f"is there {article(f'{one.colour} {one.kind}')}?"
        # A false question takes a kind or colour that is there, so that it cannot be answered by half.
        look = (one.kind, pick(rng, list(COLOURS))) if rng.random() < 0.5 else (pick(rng, kinds_of_world), one.colour)
        there = any((shape.kind, shape.colour) == look for shape in shapes)
        return None if there or not allow(mention(*look)) else f"is there {article(f'{look[1]} {look[0]}')}?"
    if kind == "position":
        if len(shapes) != 2 or len(kinds) != 2:
            return None
        held = relation(shapes[0], shapes[1])
        a, b = shapes if held and held.split()[0] == answer else shapes[::-1]
        fits = held and answer in (held.split()[0], OPPOSITE[held].split()[0])
        return f"where is the {_name(a, scene, rng)} relative to the {_name(b, scene, rng)}?" if fits else None
    raise ValueError(f"A question's kind is {kind!r}; it must be one of {', '.join(QUESTIONS)}.")


# Answers by question; those to `kind` are the world's kinds, here of the smallest.
ANSWERS: dict[str, tuple[str, ...]] = {
    "count": NUMBERS[1:],
    "colour": tuple(COLOURS),
    "kind": KINDS,
    "yesno": ("yes", "no"),
    "position": ("left", "right", "above", "below"),
}


def sample_question(
    rng: np.random.Generator,
    kind: str | None = None,
    draw: Draw = sample_scene,
    allow: Allow = lambda scene: True,
    kinds: Sequence[str] = KINDS,
) -> Question:
    """A question about a scene from `draw`, with an answer drawn evenly from those that its kind can have.

    Args:
        rng: where the draws come from.
        kind: one of `QUESTIONS`, by default any.
        draw: makes the scenes.
        allow: what a question that is answered with no may name (see `mention`).
        kinds: what shapes there are.
    """
    kind = kind or pick(rng, QUESTIONS)
    answers = {**ANSWERS, "kind": tuple(kinds)}
    answer = pick(rng, answers[kind]) if kind in answers else ""
    while True:
        scene = draw(rng)
        question = _asked(kind, answer, scene, rng, allow, kinds)
        if question:
            return Question(kind, scene, question, answer)


def further_questions(
    rng: np.random.Generator,
    first: Question,
    number: int,
    allow: Allow = lambda scene: True,
    kinds: Sequence[str] = KINDS,
) -> list[Question]:
    """Up to so many other questions about the scene of a question, all different; arguments as `sample_question`.

    Their answers are those that the scene has, so that they are not balanced as those of `sample_question` are.
    """
    answers = {**ANSWERS, "kind": tuple(kinds)}
    asked = {first.question: first}
    for _ in range(3 * number):
        kind = pick(rng, QUESTIONS)
        for n in rng.permutation(len(answers[kind])):
            answer = answers[kind][n]
            text = _asked(kind, answer, first.scene, rng, allow, kinds)
            if text:
                asked.setdefault(text, Question(kind, first.scene, text, answer))
                break
    return list(asked.values())[1 : number + 1]
