"""Rewards for photos, with the face of `rewards.py`: objects, numbers and places by the boxes of YOLOX-Nano."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.rl.rewards import Prompt, demands

if TYPE_CHECKING:
    from ddt_lightning.metrics.boxes import Yolox

LEAST = 128
"""Side of images in pixels from which the detector can be trusted."""


@lru_cache(maxsize=1)
def photo_detector(path: str) -> "Yolox":
    """The detector of this process."""
    from ddt_lightning.metrics.boxes import Yolox

    return Yolox(path)


def boxes_right(images: Tensor, prompts: Sequence[Prompt]) -> list[float]:
    """The share of what each prompt asks for, of each object its number and its place; colours are left out.

    The weights are `yolox_nano` of `make judges`.

    Raises:
        ValueError: the images are too small.
    """
    if min(images.shape[-2:]) < LEAST:
        raise ValueError(f"`model.rewards` (boxes_right) needs images of {LEAST} px, not {tuple(images.shape[-2:])}.")
    detector = photo_detector(find_judge("yolox_nano", "model.rewards"))
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        asked = [one for one in demands(prompt) if all("color" not in entry for entry in one["include"])]
        objects = detector(image)
        found.append(sum(evaluate(objects, one)[0] for one in asked) / len(asked))
    return found
