"""Rewards for emoji, with the face of `rewards.py` and a judge: attributes as a small classifier reads them.

The judge is a file of `ddt study attributes`. What a reward has taught should be measured by another one, trained from
another seed: a policy learns the errors of its own judge, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ddt_lightning.emoji.language import one_part, read_edit_plan, read_plan
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier, marks, read
from ddt_lightning.rl.rewards import Prompt


def attributes_right(images: Tensor, prompts: Sequence[Prompt], judge: AttributeClassifier) -> list[float]:
    """The share of the attributes in each prompt's `emoji` that the judge reads in its image.

    Raises:
        ValueError: the judge knows no attribute of a prompt.
    """
    return [
        share_right(found, prompt["emoji"], judge.classes, prompt)
        for found, prompt in zip(read(judge, images), prompts, strict=True)
    ]


def plan_attributes_right(images: Tensor, prompts: Sequence[Prompt], judge: AttributeClassifier) -> list[float]:
    """The share of the attributes in each `plan`, of an edit's in the target, that the judge reads in its image.

    A plan that is missing or cannot be read is worth 0.

    Raises:
        ValueError: the judge knows no attribute of a plan.
    """
    classes = {name: [one_part(one) for one in names] for name, names in judge.classes.items()}
    values = []
    for found, prompt in zip(read(judge, images), prompts, strict=True):
        plan = prompt.get("plan") or ""
        edit = read_edit_plan(plan)
        asked = edit[1] if edit else read_plan(plan)
        said = {name: one_part(value) for name, value in found.items()}
        values.append(share_right(said, asked, classes, prompt) if asked else 0.0)
    return values


def share_right(
    found: Mapping[str, str], asked: Mapping[str, Any], classes: Mapping[str, Sequence[str]], prompt: Prompt
) -> float:
    """The share of attributes that are read as asked.

    Raises:
        ValueError: there is none that the judge knows.
    """
    right = marks(found, asked, classes)
    if not right:
        raise ValueError(
            f"The judge knows no attribute of {prompt['prompt']!r}: train one on the styles and groups of the prompts "
            "with `ddt study attributes`."
        )
    return sum(right.values()) / len(right)
