"""Rendered scenes, edits and questions to shards."""

from pathlib import Path
from typing import Any

CAPTIONS = 4  # captions of each image: one costs nothing and a language model sees more of the language


def write_scenes(
    path: str, kind: str, split: str, numbers: range, side: int, seed: int, plans: bool = False, two_way: bool = False
) -> str:
    """Write the shard of the given sample numbers; each sample depends on kind, split, seed and its number alone."""
    from ddt_lightning.shards.write import write_tar

    write_tar(Path(path), (make_sample(kind, split, n, side, seed, plans, two_way) for n in numbers))
    return path


def make_sample(
    kind: str, split: str, n: int, side: int, seed: int, plans: bool = False, two_way: bool = False
) -> dict[str, Any]:
    """Sample `n` of a kind of shard, as `write_tar` takes it.

    Args:
        kind: `text`, `images`, `edits` or `questions`.
        split: `train` or `val`.
        n: its number.
        side: of its images in pixels.
        seed: of everything drawn.
        plans: add the plan of what is drawn, for each caption in the order in which that mentions the objects.
        two_way: add captions that say the relation of two objects in both directions.
    """
    from ddt_lightning.images import to_png
    from ddt_lightning.scenes import suite
    from ddt_lightning.scenes.language import both_ways, caption
    from ddt_lightning.scenes.layout import write_edit_plan, write_plan
    from ddt_lightning.scenes.render import render
    from ddt_lightning.seeding import numpy_rng

    rng = numpy_rng("shard", seed, kind, split, n)
    train, key = split == "train", {"__key__": f"{n:06d}"}
    if kind == "text":
        return {**key, "txt": suite.train_text(rng)}
    if kind == "images":
        scene = suite.train_scene(rng) if train else suite.val_scene(rng)
        texts = list(dict.fromkeys(caption(scene, rng) for _ in range(CAPTIONS)))
        texts = list(dict.fromkeys([*texts, *both_ways(scene, rng)])) if two_way else texts
        data = {"caption": texts[0], "captions": texts, "scene": scene.to_dict()}
        data |= {"plan": [write_plan(scene, text) for text in texts]} if plans else {}
        return {**key, "png": to_png(render(scene, side)), "txt": texts[0], "json": data}
    if kind == "edits":
        edit = suite.train_edit(rng) if train else suite.val_edit(rng)
        pair = {"source.png": to_png(render(edit.source, side)), "target.png": to_png(render(edit.target, side))}
        data = {"kind": edit.kind, "source": edit.source.to_dict(), "target": edit.target.to_dict()}
        data |= {"plan": write_edit_plan(edit)} if plans else {}
        return {**key, **pair, "txt": edit.instruction, "json": data}
    asked = suite.train_question(rng) if train else suite.val_question(rng)
    data = {"question": asked.question, "answers": [asked.answer], "kind": asked.kind, "scene": asked.scene.to_dict()}
    return {**key, "png": to_png(render(asked.scene, side)), "json": data}
