"""Samples of shards of the emoji world, as `write_shards` takes them: images, edits and questions.

The json of each says what its pictures show (`emoji`, or `source` and `target`: `Emoji.facts`) and which part of the
world it is of (`held_out`, null in training), so that a classifier of attributes can score what a model draws for it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from ddt_lightning.emoji import language
from ddt_lightning.emoji.edits import Edit
from ddt_lightning.emoji.facts import Emoji
from ddt_lightning.emoji.held_out import TRAIN
from ddt_lightning.emoji.questions import Question
from ddt_lightning.seeding import numpy_rng

Sample = dict[str, Any]
Picture = Callable[[Emoji], bytes]


def held(part: str) -> str | None:
    """The held-out part as a sample's json names it: null in training."""
    return None if part == TRAIN else part


def image_samples(
    world: Sequence[Emoji], part: str, picture: Picture, seed: int, unnamed: Collection[str] = ()
) -> Iterator[Sample]:
    """Captioned images with plans, in mixed order.

    Args:
        world: the emoji of the part.
        part: its name.
        picture: the PNG file of an emoji.
        seed: of the order and the tags in captions.
        unnamed: names that no caption may use as a tag.
    """
    for n, place in enumerate(numpy_rng("emoji images", seed, part).permutation(len(world))):
        emoji = world[place]
        texts = language.captions(emoji, numpy_rng("emoji caption", seed, emoji.style, emoji.code), unnamed)
        data: Sample = {"caption": texts[0], "captions": texts, "plan": language.write_plan(emoji)}
        data |= {"emoji": emoji.facts(), "held_out": held(part)}
        yield {"__key__": f"{n:06d}", "png": picture(emoji), "txt": texts[0], "json": data}


def edit_samples(edits: Sequence[Edit], part: str, picture: Picture) -> Iterator[Sample]:
    """Pairs of images with an instruction, captions of both and a plan."""
    for n, edit in enumerate(edits):
        source, target = edit.source, edit.target
        data = {
            "task": edit.kind,
            "source_caption": language.prompt(source),
            "target_caption": language.prompt(target),
            "plan": language.write_edit_plan(source, target),
            "source": source.facts(),
            "target": target.facts(),
            "held_out": held(part),
        }
        pair = {"source.png": picture(source), "target.png": picture(target)}
        yield {"__key__": f"{n:06d}", **pair, "txt": edit.instruction, "json": data}


def question_samples(asked: Sequence[Question], part: str, picture: Picture) -> Iterator[Sample]:
    """Images with a question and its answer."""
    for n, one in enumerate(asked):
        data: Sample = {"question": one.question, "answers": [one.answer], "type": one.kind}
        data |= {"emoji": one.emoji.facts(), "held_out": held(part)}
        yield {"__key__": f"{n:06d}", "png": picture(one.emoji), "json": data}


def prompt_rows(world: Sequence[Emoji], part: str, number: int, seed: int) -> list[dict[str, Any]]:
    """Prompts for drawings, with what they ask for; at most `number`, evenly drawn from the part."""
    order = numpy_rng("emoji prompts", seed, part).permutation(len(world))[:number]
    return [prompt_row(world[place], part) for place in sorted(order)]


def combination_rows(world: Sequence[Emoji], part: str) -> list[dict[str, Any]]:
    """Prompts for all combinations of role, gender and skin tone in a part, to practise on; the tag is their style."""
    return [{"tag": one.style, **prompt_row(one, part)} for one in world if one.gender and one.skin]


def prompt_row(emoji: Emoji, part: str) -> dict[str, Any]:
    """A prompt that leaves nothing open, with the attributes that it asks for."""
    return {"prompt": language.prompt(emoji), "held_out": held(part), "emoji": emoji.facts()}
