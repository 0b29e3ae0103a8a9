"""Plans in words: a scene as a line of text that a language model writes before it draws, and back.

    blue circle 5 4 6, green square 5 12 5, teal day |

Each object is its colour and kind, the cell of its centre on a 16 x 16 grid (column from the left, row from the top)
and its radius in steps of two pixels of the 64-side canvas; the background's colour and time come last, and a bar ends
the plan. Objects stand in the order in which the caption mentions them, so that writing a plan is reading the caption
word by word; what the caption leaves open, the plan decides. The plan of an edit is that of the source, `to`, and that
of the target with the objects in the same order. A removed object keeps its place and has `no` for its colour, so that
word for word most of the target repeats the source:

    blue circle 5 4 6, green square 5 12 5, teal day to no circle 5 4 6, green square 5 12 5, teal day |
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from ddt_lightning.scenes.check import Object
from ddt_lightning.scenes.language import parse_caption
from ddt_lightning.scenes.render import ALL_KINDS, CANVAS, COLOURS, GROUNDS, TIMES, Background, Scene, Shape, box
from ddt_lightning.scenes.tasks import Edit

CELL = 4.0  # pixels of a cell of the grid
STEP = 2.0  # pixels of a step of the radius
CELLS = int(CANVAS / CELL)
END = " |"
TURN = " to "  # between the plans of source and target
REMOVED = "no"  # in place of the colour of an object that the target lacks

_LAYOUT = rf"({'|'.join(ALL_KINDS)}) (\d{{1,2}}) (\d{{1,2}}) (\d{{1,2}})"
_OBJECT = re.compile(rf"({'|'.join(COLOURS)}) {_LAYOUT}")
_REMOVED = re.compile(rf"{REMOVED} {_LAYOUT}")
_GROUND = re.compile(rf"({'|'.join(GROUNDS)}) ({'|'.join(TIMES)})")


def write_plan(scene: Scene, caption: str | None = None) -> str:
    """The plan of a scene.

    Args:
        scene: what is to be drawn.
        caption: a caption of the scene, which decides the order of the objects; without one they stand in reading
            order, and so do objects that the caption counts or does not tell apart.

    Raises:
        ValueError: the caption does not account for the objects of the scene.
    """
    return _items(mentioned(scene, caption), scene.background) + END


def write_edit_plan(edit: Edit) -> str:
    """The plan of an edit: the source's objects in reading order, `to`, the target's with the changed one in place."""
    before = mentioned(edit.source)
    new = [shape for shape in edit.target.shapes if shape not in edit.source.shapes]
    after: list[Shape] = []
    for shape in before:
        after += [shape] if shape in edit.target.shapes else (new or [replace(shape, colour=REMOVED)])
    if len(after) < len(edit.target.shapes):
        after += new  # nothing made way for what was added
    return _items(before, edit.source.background) + TURN + _items(after, edit.target.background) + END


def read_plan(text: str) -> Scene | None:
    """The scene that a plan stands for, on its grid and with a plain background.

    Returns:
        None for an unfinished plan, one without objects, and one with a word that is not understood.
    """
    return _scene(text.strip().removesuffix(END)) if text.strip().endswith(END) else None


def read_edit_plan(text: str) -> tuple[Scene | None, Scene | None] | None:
    """Source and target of an edit's plan.

    Returns:
        None for an unfinished plan and one without `to`; each scene is None where its part has no objects or a word
        that is not understood. The target may also leave a removed object out.
    """
    text = text.strip()
    before, turn, after = text.removesuffix(END).partition(TURN)
    kept = ", ".join(one for one in after.split(", ") if not _REMOVED.fullmatch(one))
    return (_scene(before), _scene(kept)) if turn and text.endswith(END) else None


def plan_objects(scene: Scene) -> list[Object]:
    """The shapes of a planned scene as the checker gives objects of an image, for the rules that judge images."""
    return [Object(shape.kind, shape.colour, box(shape), 1.0) for shape in scene.shapes]


def mentioned(scene: Scene, caption: str | None = None) -> list[Shape]:
    """The shapes in the order in which a caption mentions them; arguments and errors as `write_plan`."""
    left = sorted(scene.shapes, key=lambda shape: _cells(shape)[1::-1])  # by row, then by column
    if caption is None:
        return left
    found: list[Shape] = []
    for kind, colour, count in parse_caption(caption) or []:
        fitting = [shape for shape in left if shape.kind == kind and colour in (None, shape.colour)][:count]
        left = [shape for shape in left if shape not in fitting]
        found += fitting
    if left:
        raise ValueError(f"the caption {caption!r} does not account for the objects of its scene.")
    return found


def _cells(shape: Shape) -> tuple[int, int, int]:
    """Column and row of the centre, and radius in steps."""
    column, row = (min(max(int(place / CELL), 0), CELLS - 1) for place in (shape.x, shape.y))
    return column, row, round(shape.radius / STEP)


def _items(shapes: Sequence[Shape], ground: Background) -> str:
    objects = [f"{shape.colour} {shape.kind} {' '.join(map(str, _cells(shape)))}" for shape in shapes]
    return ", ".join([*objects, ground.name])


def _scene(text: str) -> Scene | None:
    *objects, ground = text.split(", ")
    matches = [_OBJECT.fullmatch(one) for one in objects]
    behind = _GROUND.fullmatch(ground)
    shapes = []
    for match in matches:
        if match is None:
            return None
        column, row, steps = (int(number) for number in match.groups()[2:])
        if max(column, row) >= CELLS or not 0 < steps * STEP <= CANVAS / 2:
            return None
        shapes.append(Shape(match[2], match[1], (column + 0.5) * CELL, (row + 0.5) * CELL, steps * STEP))
    return Scene(tuple(shapes), Background(behind[1], behind[2])) if shapes and behind else None
