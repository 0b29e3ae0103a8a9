"""Rendered scenes, edits and questions to shards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddt_lightning.scenes.world import World

if TYPE_CHECKING:
    import numpy as np

    from ddt_lightning.scenes.render import Scene
    from ddt_lightning.scenes.tasks import Edit, Question

EDITS_IN_WORDS = "edits_in_words"
QUESTIONS_IN_WORDS = "questions_in_words"
QUESTIONS = 6  # questions in words about each scene
CAPTIONS = 4  # captions of each image: one costs nothing and a language model sees more of the language


@dataclass(frozen=True)
class Teaching:
    """Options of shards of scenes: texts beside the caption of each image, and images side by side.

    A counterpart is a captioned image that takes the place of the next one of training, in the same words but for those
    of places; where none may be shown, a scene of its own stands there. They come into one batch as often as the
    shuffle buffer of training is small.

    Args:
        plans: add a plan in words to whatever is drawn, for instruct models that plan before they draw.
        answer_plans: add a plan of what is seen to questions, for instruct models that write it before they answer.
        both_ways: caption the relation of two objects in both directions, too.
        flips: after every other image its counterpart with all places mirrored.
        contrast: after every other image of two kinds its counterpart with the opposite relation.
        even_edits: edits of one, two and three shapes are equally frequent; by default most have one.
        kinds_in_words: how many kinds of shapes edits and questions in words speak of; by default those that images
            show. The more there are, the less can be learned by heart, and the more has to be looked up.
    """

    plans: bool = False
    answer_plans: bool = False
    both_ways: bool = False
    flips: bool = False
    contrast: bool = False
    even_edits: bool = False
    kinds_in_words: Literal[6, 12, 18] | None = None


@dataclass(frozen=True)
class SceneShards:
    """All that shards of scenes depend on beside the kind of their samples.

    Args:
        side: of the images in pixels.
        seed: of everything drawn.
        world: what there is, and what training shows of it.
        teaching: what is said about it.
    """

    side: int = 64
    seed: int = 0
    world: World = World()
    teaching: Teaching = Teaching()

    def facts(self) -> dict[str, Any]:
        """The record of a folder's `world.json`."""
        return {**asdict(self.world), **asdict(self.teaching), "side": self.side, "seed": self.seed}


def write_scenes(path: str, kind: str, split: str, numbers: range, options: SceneShards) -> str:
    """Write the shard of the given sample numbers; each depends on kind, split, options and its number alone."""
    from ddt_lightning.shards.write import write_tar

    write_tar(Path(path), (make_sample(kind, split, n, options) for n in numbers))
    return path


def make_sample(kind: str, split: str, n: int, options: SceneShards = SceneShards()) -> dict[str, Any]:
    """Sample `n` of a kind of shard, as `write_tar` takes it.

    Args:
        kind: `text`, `images`, `groups`, `edits`, `edits_in_words`, `questions` or `questions_in_words`.
        split: `train` or `val`.
        n: its number.
        options: of the shards.
    """
    from ddt_lightning.images import to_png
    from ddt_lightning.scenes import suite
    from ddt_lightning.scenes.groups import group_captions, group_scene
    from ddt_lightning.scenes.language import both_ways, caption
    from ddt_lightning.scenes.layout import write_edit_plan, write_plan
    from ddt_lightning.scenes.render import render
    from ddt_lightning.seeding import numpy_rng

    teaching, world, side = options.teaching, options.world, options.side
    rng = numpy_rng("shard", options.seed, kind, split, n)
    spoken = replace(world, kinds=teaching.kinds_in_words or world.kinds)
    train, key = split == "train", {"__key__": f"{n:06d}"}
    if kind == "text":
        return {**key, "txt": suite.train_text(rng, world)}
    if kind == "images":
        scene, rng = image_scene(split, n, options)
        texts = list(dict.fromkeys(caption(scene, rng) for _ in range(CAPTIONS)))
        texts = list(dict.fromkeys([*texts, *both_ways(scene, rng)])) if teaching.both_ways else texts
        return {**key, **captioned(scene, texts, options)}
    if kind == "groups":
        scene, group = group_scene(rng, world)
        return {**key, **captioned(scene, group_captions(scene, group, rng), options)}
    if kind == EDITS_IN_WORDS:  # most mistakes are made where there are many shapes
        edit = suite.train_edit(rng, world=spoken, even=True) if train else suite.val_edit(rng, world=world)
        return {**key, "json": {"turns": edit_in_words(edit), "kind": edit.kind}}
    if kind == "edits":
        edit = (
            suite.train_edit(rng, world=world, even=teaching.even_edits) if train else suite.val_edit(rng, world=world)
        )
        pair = {"source.png": to_png(render(edit.source, side)), "target.png": to_png(render(edit.target, side))}
        data = {"kind": edit.kind, "source": edit.source.to_dict(), "target": edit.target.to_dict()}
        data |= {"plan": write_edit_plan(edit)} if teaching.plans else {}
        return {**key, **pair, "txt": edit.instruction, "json": data}
    if kind == QUESTIONS_IN_WORDS:
        some = suite.train_questions(rng, QUESTIONS, spoken) if train else [suite.val_question(rng, world=world)]
        return {**key, "json": {"turns": questions_in_words(some)}}
    asked = suite.train_question(rng, world=world) if train else suite.val_question(rng, world=world)
    data = {"question": asked.question, "answers": [asked.answer], "kind": asked.kind, "scene": asked.scene.to_dict()}
    data |= {"plan": write_plan(asked.scene)} if teaching.answer_plans else {}
    return {**key, "png": to_png(render(asked.scene, side)), "json": data}


def captioned(scene: "Scene", texts: list[str], options: SceneShards) -> dict[str, Any]:
    """The members of a captioned image: its render, and its captions with their plans where these are written."""
    from ddt_lightning.images import to_png
    from ddt_lightning.scenes.layout import write_plan
    from ddt_lightning.scenes.render import render

    data = {"caption": texts[0], "captions": texts, "scene": scene.to_dict()}
    data |= {"plan": [write_plan(scene, text) for text in texts]} if options.teaching.plans else {}
    return {"png": to_png(render(scene, options.side)), "txt": texts[0], "json": data}


def edit_in_words(edit: "Edit") -> list[dict[str, Any]]:
    """An edit as a conversation in words: the user says what an image shows and how to change it, the assistant plans.

    The assistant writes what it writes behind an image, so that which shape an instruction means, and what becomes of
    the others, is learned from texts as well, of which there are as many as one likes.
    """
    from ddt_lightning.scenes.layout import write_edit_plan, write_plan
    from ddt_lightning.shards.chat import exchange

    return exchange([write_plan(edit.source), edit.instruction], [write_edit_plan(edit)])


def questions_in_words(asked: "Sequence[Question]") -> list[dict[str, Any]]:
    """Questions about one scene as a conversation: the user says what an image shows and asks, the assistant answers.

    Before its first answer the assistant writes the layout, as it does after an image. A further question takes a few
    words and teaches once more to look up an answer, where the rest of the conversation is copied.
    """
    from ddt_lightning.scenes.layout import write_plan
    from ddt_lightning.shards.chat import exchange

    layout = write_plan(asked[0].scene)
    first = exchange([layout, asked[0].question], [layout, asked[0].answer])
    return [*first, *(turn for one in asked[1:] for turn in exchange([one.question], [one.answer]))]


def image_scene(split: str, n: int, options: SceneShards) -> tuple["Scene", "np.random.Generator"]:
    """The scene of captioned image `n`, and where the draws of its captions come from.

    A counterpart draws its captions as the image before it does.
    """
    from ddt_lightning.scenes import suite
    from ddt_lightning.scenes.counterparts import counterpart
    from ddt_lightning.seeding import numpy_rng

    flips, contrast = options.teaching.flips, options.teaching.contrast
    if split == "train" and n % 2 and (flips or contrast):
        scene, rng = image_scene(split, n - 1, options)
        choice = numpy_rng("counterpart", options.seed, n)
        other = counterpart(scene, choice, options.world, flips=flips, contrast=contrast)
        if other is not None:
            return other, rng
    rng = numpy_rng("shard", options.seed, "images", split, n)
    draw = suite.train_scene if split == "train" else suite.val_scene
    return draw(rng, world=options.world), rng
