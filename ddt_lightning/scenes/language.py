"""Captions and sentences about scenes: a scene in, text out, and captions back to objects.

Every text is true of its scene, and a caption always accounts for every shape: it may leave out a colour, a place or
the background, never an object. The vocabulary is small (about 85 words) so that a tiny language model can learn it.
GenEval's own forms ("a photo of a red circle and a blue square") are a large share, because the suite asks in them.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ddt_lightning.scenes.check import relations
from ddt_lightning.scenes.render import ALL_KINDS, CANVAS, COLOURS, Scene, Shape, box

NUMBERS = ("zero", "one", "two", "three", "four")
SYNONYMS = {"disc": "circle", "plus": "cross", "hoop": "ring", "rhombus": "diamond"}
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def article(words: str) -> str:
    """The words with `a` or `an` before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(kind: str) -> str:
    """The plural of a kind or synonym."""
    return kind + ("es" if kind.endswith("s") else "s")


def relation(a: Shape, b: Shape) -> str | None:
    """The one GenEval relation of `a` to `b`, None if there is none or there are two."""
    held = relations(box(a), box(b))
    return held[0] if len(held) == 1 else None


def place_of(shape: Shape) -> str:
    """The name of the ninth of the canvas that holds the shape's centre."""
    row = ("top", "", "bottom")[min(int(shape.y * 3 / CANVAS), 2)]
    column = ("left", "", "right")[min(int(shape.x * 3 / CANVAS), 2)]
    return f"{row} {column}".strip() or "centre"


def at(name: str) -> str:
    """The place as a phrase, e.g. `at the top left`."""
    return f"in the {name}" if name == "centre" else f"on the {name}" if name in ("left", "right") else f"at the {name}"


def _noun(kind: str, colour: str | None, count: int, rng: np.random.Generator, plain: bool) -> str:
    """A noun phrase such as `three red circles`; not `plain`: with synonyms, digits and other orders now and then."""
    name = kind
    if not plain and rng.random() < 0.15:
        name = next((word for word, meant in SYNONYMS.items() if meant == kind), kind)
    name = name if count == 1 else plural(name)
    number = str(count) if not plain and count > 1 and rng.random() < 0.5 else NUMBERS[count]
    if colour is None:
        return article(name) if count == 1 else f"{number} {name}"
    if not plain and rng.random() < 0.15:
        tail = f"that {'is' if count == 1 else 'are'} {colour}"
        return f"{article(name) if count == 1 else f'{number} {name}'} {tail}"
    return article(f"{colour} {name}") if count == 1 else f"{number} {colour} {name}"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of a scene of one or more shapes that accounts for all of them.

    About six in ten are in a GenEval form; the others vary the opening, the words, the order of words, the number's
    spelling, and name a place or the background now and then.
    """
    plain = rng.random() < 0.6
    shapes = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))]
    kinds = {shape.kind for shape in shapes}
    held = relation(shapes[0], shapes[1]) if len(shapes) == len(kinds) == 2 and rng.random() < 0.45 else None
    # Prompts that count and prompts that place leave the colours out: these captions do so more often than others.
    coloured = rng.random() < (0.5 if held or len(kinds) < len(shapes) else 0.7)
    groups = Counter((shape.kind, shape.colour if coloured else None) for shape in shapes)
    nouns = [_noun(kind, colour, count, rng, plain) for (kind, colour), count in groups.items()]
    text = _joined(nouns)
    if held:
        text = f"{nouns[0]} {held if plain else pick(rng, RELATION_WORDS[held])} {nouns[1]}"
    if plain:
        return f"a photo of {text}"
    if len(shapes) == 1 and rng.random() < 0.4:
        text = f"{text} {at(place_of(shapes[0]))}"
    many = next(iter(groups.values())) > 1
    text = pick(rng, ("", "a photo of ", "a picture of ", "there are " if many else "there is ")) + text
    if rng.random() < 0.3:
        ground = scene.background
        time = "at night" if ground.time == "night" else "by day"
        text += " " + pick(rng, (f"on a {ground.colour} background", time))
    return text


def both_ways(scene: Scene, rng: np.random.Generator) -> list[str]:
    """The relation of two single shapes of different kinds said from either side, in GenEval's form; empty for others.

    A model that reads "a circle above a square" in training does not learn "a square below a circle" from it.
    """
    if len(scene.shapes) != 2:
        return []
    a, b = scene.shapes
    held = relation(a, b)
    if held is None or a.kind == b.kind:
        return []
    coloured = rng.random() < 0.5
    first, second = (article(f"{shape.colour} {shape.kind}" if coloured else shape.kind) for shape in (a, b))
    return [f"a photo of {first} {held} {second}", f"a photo of {second} {OPPOSITE[held]} {first}"]


_KIND_WORDS = {
    word: (kind, many)
    for name, kind in [*zip(ALL_KINDS, ALL_KINDS, strict=True), *SYNONYMS.items()]
    for word, many in ((name, False), (plural(name), True))
}
_COUNT_WORDS = {"a": 1, "an": 1, **{word: n for n, word in enumerate(NUMBERS) if n}, **{str(n): n for n in range(1, 5)}}
_NOUN = re.compile(
    rf"\b({'|'.join(_COUNT_WORDS)})\s+(?:({'|'.join(COLOURS)})\s+)?({'|'.join(_KIND_WORDS)})\b"
    rf"(?:\s+that\s+(?:is|are)\s+({'|'.join(COLOURS)})\b)?"
)
_FILLER = re.compile(
    r"\b(?:a (?:photo|picture) of|there (?:is|are)|on a (?:grey|teal|sand) background|at night|by day"
    r"|(?:at|on|in) the (?:top left|top right|bottom left|bottom right|top|bottom|left|right|centre)"
    r"|(?:to the )?(?:left|right) of|above|over|below|under|and)\b|[,.\s]+"
)


def parse_caption(text: str) -> list[tuple[str, str | None, int]] | None:
    """The objects a caption names: `(kind, colour or None, count)` each; None if any word is not understood."""
    text = text.lower().strip()
    found: list[tuple[str, str | None, int]] = []
    for number, colour, word, late in _NOUN.findall(text):
        (kind, many), count = _KIND_WORDS[word], _COUNT_WORDS[number]
        if many != (count > 1) or (colour and late):
            return None
        found.append((kind, colour or late or None, count))
    rest = _FILLER.sub("", _NOUN.sub(" ", text))
    return None if rest or not found else found


FACTS = (
    "a circle is round.",
    "a disc is a circle.",
    "a ring is a circle with a hole.",
    "a hoop is a ring.",
    "a square has four sides.",
    "a square has four corners.",
    "a triangle has three sides.",
    "a triangle has three corners.",
    "a cross has four arms.",
    "a plus is a cross.",
    "a diamond has four sides.",
    "a rhombus is a diamond.",
    "the sky is dark at night.",
    "two and one are three.",
    "two and two are four.",
    "three and one are four.",
    "a square is not round.",
    "a circle has no corners.",
)


def text_line(rng: np.random.Generator, scene: Scene | None = None) -> str:
    """One short true sentence: about shapes in general, or about `scene` if one is given."""
    if scene is None or rng.random() < 0.2:
        return pick(rng, FACTS)
    one = scene.shapes[int(rng.integers(len(scene.shapes)))]
    count = sum(shape.kind == one.kind for shape in scene.shapes)
    held = relation(scene.shapes[0], scene.shapes[1]) if len(scene.shapes) == 2 else None
    options = [f"there {'is' if count == 1 else 'are'} {_noun(one.kind, None, count, rng, True)}."]
    if count == 1:
        options += [f"the {one.kind} is {one.colour}.", f"the {one.kind} is {at(place_of(one))}."]
    if held and scene.shapes[0].kind != scene.shapes[1].kind:
        a, b = scene.shapes
        options += [f"the {a.kind} is {held} the {b.kind}.", f"the {b.kind} is {OPPOSITE[held]} the {a.kind}."]
    options.append("it is night." if scene.background.time == "night" else "it is day.")
    options.append(f"the background is {scene.background.colour}.")
    return pick(rng, options)
