"""Rewards: functions that say how well images fulfil their prompts, named by import path in a configuration.

A reward takes images, uint8 `[N, 3, H, W]` on the CPU, and their N prompts, dictionaries with `prompt` and `tag` and
whatever else the file of prompts holds, and returns N numbers. In practice the `plan` of a prompt is the one that was
written before its image, and a question has what was `written` as its answer. Those here read rendered shapes exactly,
by the rules of GenEval on what the checker finds, edits by their targets, and answers by the true one; a detector of
photos or a network that compares texts fits the same face. One that takes a third argument, `judge`, gets the
classifier of attributes that the configuration names.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ddt_lightning.metrics.answers import score
from ddt_lightning.metrics.editing import exact_match, kept_l1
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier
from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.scenes.check import Object, detect
from ddt_lightning.scenes.layout import read_edit_plan, read_plan
from ddt_lightning.scenes.render import CANVAS, Scene, render
from ddt_lightning.scenes.tasks import GLOBAL_EDITS, Edit

Prompt = Mapping[str, Any]
Reward = Callable[[Tensor, Sequence[Prompt]], Sequence[float]]
FACE, JUDGED = ["images", "prompts"], ["images", "prompts", "judge"]  # parameters of a reward

LAYOUT_SHARE = 0.3  # of the reward of `shapes` for colours and places alone


def shapes(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """0.7 where all is right, and 0.3 where colours, numbers and places are, whatever the kinds of the shapes."""
    found = []
    for objects, prompt in zip(detected(images), prompts, strict=True):
        right, _ = evaluate(objects, rules(prompt))
        layout, _ = evaluate(objects, rules(prompt), ignore_kind=True)
        found.append((1 - LAYOUT_SHARE) * right + LAYOUT_SHARE * layout)
    return found


def all_right(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """1 where the image is what the prompt asks for, else 0."""
    return [float(evaluate(found, rules(prompt))[0]) for found, prompt in zip(detected(images), prompts, strict=True)]


def share_right(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """The share of what the prompt asks for: of each object its number, its colour and its place, and that no more."""
    found = []
    for objects, prompt in zip(detected(images), prompts, strict=True):
        asked = demands(prompt)
        found.append(sum(evaluate(objects, one)[0] for one in asked) / len(asked))
    return found


def rules(prompt: Prompt) -> dict[str, Any]:
    """What an image must show; a KeyError for a prompt that does not say it, which any image would fulfil."""
    return {**prompt, "include": prompt["include"]}


def demands(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as prompts that ask for one thing each."""
    entries = prompt["include"]
    single: list[dict[str, Any]] = []
    for entry in entries:
        plain = {"class": entry["class"], "count": entry["count"]}
        single.append({"include": [plain]})
        if "color" in entry:
            single.append({"include": [{**plain, "color": entry["color"]}]})
        if "position" in entry:
            held, target = entry["position"]
            other = {"class": entries[target]["class"], "count": entries[target]["count"]}
            single.append({"include": [other, {**plain, "position": [held, 0]}]})
    return [*single, *({"include": [], "exclude": [entry]} for entry in prompt.get("exclude", []))]


def edit_right(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """1 where an edit shows exactly the objects of its `target`, and of a global edit its background; else 0."""
    return [
        float(exact_match(image, prompt["target"], background=prompt["tag"] in GLOBAL_EDITS))
        for image, prompt in zip(images.permute(0, 2, 3, 1).numpy(), prompts, strict=True)
    ]


def plan_right(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """1 where an image shows exactly the objects and the background of its `plan`, of an edit's the target; else 0."""
    found = []
    for image, prompt in zip(images.permute(0, 2, 3, 1).numpy(), prompts, strict=True):
        plan = prompt.get("plan") or ""
        edit = read_edit_plan(plan)
        scene = edit[1] if edit else read_plan(plan)
        found.append(float(scene is not None and exact_match(image, scene.to_dict(), background=True)))
    return found


def shapes_or_edit(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """`edit_right` of prompts that edit, which have a `target`, and `shapes` of the others."""
    found = [0.0] * len(prompts)
    for reward, chosen in (
        (edit_right, [n for n, prompt in enumerate(prompts) if "target" in prompt]),
        (shapes, [n for n, prompt in enumerate(prompts) if "target" not in prompt]),
    ):
        for n, value in zip(chosen, reward(images[chosen], [prompts[n] for n in chosen]), strict=True):
            found[n] = value
    return found


def edit_kept(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """1 less the mean absolute difference to the `target` where a local edit changes nothing; 0 for global edits."""
    found = []
    for image, prompt in zip(images.permute(0, 2, 3, 1).numpy(), prompts, strict=True):
        source, target = (Scene.from_dict(prompt[name]) for name in ("source", "target"))
        edit, side = Edit(prompt["tag"], source, prompt["prompt"], target), len(image)
        boxes = [(a, b, c, d) for a, b, c, d in (np.array(edit.boxes) * side / CANVAS).tolist()]
        kept = prompt["tag"] not in GLOBAL_EDITS
        found.append(1 - kept_l1(image, render(target, side), boxes) if kept else 0.0)
    return found


def exact_answer(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """1 where the answer that was written is the `answer` of its question after VQA normalisation, else 0."""
    return [score(prompt["written"], prompt["answer"]) for prompt in prompts]


def detected(images: Tensor) -> list[list[Object]]:
    """The objects that the checker finds in each image."""
    return [detect(image).objects for image in images.permute(0, 2, 3, 1).numpy()]


def find_rewards(
    weights: Mapping[str, float], option: str = "model.rewards", judge: str | None = None
) -> dict[str, tuple[Reward, float]]:
    """The functions of a configuration with their weights, by name.

    Args:
        weights: import path -> weight, e.g. `{ddt_lightning.rl.rewards.shapes: 1.0}`.
        option: where they come from, for errors; that of the judge is named alike.
        judge: file of the classifier that functions with a `judge` read images with, see `ddt study attributes`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no reward, a path that leads to no function of `images` and `prompts`, a judge that is missing, not
            needed, or a file of something else.
    """
    if not weights:
        raise ValueError(f"`{option}` is empty: name a function, e.g. {{ddt_lightning.rl.rewards.shapes: 1.0}}.")
    judge_option = option.replace("rewards", "judge")

    def judge_for(path: str) -> AttributeClassifier:
        if judge is None:
            raise ValueError(f"`{judge_option}` is needed by {path}: name a file of `ddt study attributes`.")
        return AttributeClassifier.load(judge, judge_option)

    found: dict[str, tuple[Reward, float]] = {}
    for path, weight in weights.items():
        module, _, name = path.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"`{option}` ({path}) cannot be imported: {error}.") from None
        # a configuration must not call whatever can be imported
        named = list(inspect.signature(function).parameters) if inspect.isfunction(function) else []
        if named not in (FACE, JUDGED):
            raise ValueError(f"`{option}` ({path}) is no function of `images` and `prompts`, and perhaps a `judge`.")
        found[name] = partial(function, judge=judge_for(path)) if named == JUDGED else function, weight
    if judge is not None and not any(isinstance(function, partial) for function, _ in found.values()):
        raise ValueError(f"`{judge_option}` ({judge}) is needed by none of `{option}` ({', '.join(weights)}).")
    return found


def worth(
    rewards: Mapping[str, tuple[Reward, float]],
    images: Tensor,
    prompts: Sequence[Prompt],
    option: str = "model.rewards",
) -> list[float]:
    """The weighted sum of all rewards, one number for each image; `option` is where they come from, for errors.

    Raises:
        ValueError: a reward gives another number of values than there are images, or needs what the prompts lack.
    """
    total = [0.0] * len(images)
    for name, (function, weight) in rewards.items():
        try:
            values = list(function(images, prompts))
        except KeyError as error:
            raise ValueError(
                f"`{option}`: {name} needs {error}, which not all prompts have (first: {prompts[0]['prompt']!r}): "
                "choose a reward that fits the prompts, or other prompts."
            ) from error
        if len(values) != len(images):
            raise ValueError(f"`{option}`: {name} gives {len(values)} values for {len(images)} images.")
        total = [before + weight * float(value) for before, value in zip(total, values, strict=True)]
    return total
