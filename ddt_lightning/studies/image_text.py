"""`ddt study fit`: the map from pictures to texts that scores how well drawings fit their prompts.

In: captioned images. Out: `fit.safetensors` and `fit.json`, its card: how well held-out images fit their own captions,
those of the next image, and how often an image finds its own caption among a hundred.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddt_lightning.metrics.cards import Card, card, mean_card, write_made
from ddt_lightning.metrics.image_text import FrozenPair, LinearMap, fit_map, save_fit
from ddt_lightning.metrics.picture_encoder import file_hash
from ddt_lightning.shards.images import read_images

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CHOOSING = 10  # every so many-th training image chooses the penalty
AMONG = 100  # captions among which an image is to find its own


@dataclass(frozen=True)
class Captioned:
    """Images and what people say of them.

    Args:
        images: uint8 `[S, S, 3]` each.
        captions: of each, one or more.
    """

    images: list[NDArray[np.uint8]]
    captions: list[list[str]]


def read_captioned(shards: Sequence[str], option: str, side: int) -> Captioned:
    """The images of some shards that have captions.

    Raises:
        ValueError: fewer than two have.
    """
    samples = [one for one in read_images(shards, image_size=side, option=option) if one.texts]
    if len(samples) < 2:
        raise ValueError(f"`{option}` ({', '.join(shards)}): {len(samples)} images have captions, but two are needed.")
    return Captioned([one.images[0] for one in samples], [list(one.texts) for one in samples])


@dataclass(frozen=True)
class Vectors:
    """Captioned images as a frozen pair sees them.

    Args:
        features: of the images `[N, F]`.
        said: mean vector of each image's captions `[N, T]`.
        first: vector of its first caption `[N, T]`.
    """

    features: Tensor
    said: Tensor
    first: Tensor

    def rows(self, rows: Tensor) -> "Vectors":
        """Some of them."""
        return Vectors(self.features[rows], self.said[rows], self.first[rows])


def seen_by(pair: FrozenPair, data: Captioned, side: int) -> Vectors:
    """Vectors of captioned images."""
    words = pair.reader([text for texts in data.captions for text in texts])
    of_each = words.split([len(texts) for texts in data.captions])
    said, first = torch.stack([one.mean(0) for one in of_each]), torch.stack([one[0] for one in of_each])
    return Vectors(pair.features(data.images, side), said, first)


def fits(fitted: LinearMap, data: Vectors) -> tuple[list[float], list[float], list[bool]]:
    """Score of each image with its first caption, with that of the next image, and whether its own is the best.

    The best of at most `AMONG`: its own and those that follow.
    """
    images, texts = fitted.of_images(data.features), fitted.of_texts(data.first)
    cosines = images @ texts.T
    number = len(images)
    others = (torch.arange(number)[:, None] + torch.arange(min(AMONG, number))) % number
    among = cosines.gather(1, others)
    return among[:, 0].tolist(), among[:, 1].tolist(), (among.argmax(1) == 0).tolist()


def fit(data: Vectors, say: Callable[[str], None] = print) -> tuple[LinearMap, float]:
    """The map of all images, and its penalty: the one by which those left aside find their captions best."""
    aside = torch.arange(len(data.features)) % CHOOSING == 0
    choose, learn = data.rows(aside), data.rows(~aside)
    found = {}
    for penalty in PENALTIES:
        found[penalty] = float(np.mean(fits(fit_map(learn.features, learn.said, penalty), choose)[0]))
        say(f"penalty {penalty:g}: mean cosine {found[penalty]:.3f} of {len(choose.features)} images left aside")
    best = max(found, key=lambda one: found[one])
    return fit_map(data.features, data.said, best), best


def run(pair: FrozenPair, data: Captioned, held_out: Captioned, side: int, folder: Path,
        say: Callable[[str], None] = print) -> dict[str, Any]:  # fmt: skip
    """Fit, measure and write; returns the card."""
    start = time.process_time()
    fitted, penalty = fit(seen_by(pair, data, side), say)
    own, other, found = fits(fitted, seen_by(pair, held_out, side))
    file, among = folder / "fit.safetensors", min(AMONG, len(own))
    save_fit(file, fitted, pair.hashes, side)
    scores: dict[str, Card] = {
        "own_caption": mean_card(own, "cosine of held-out images and their first captions"),
        "next_caption": mean_card(other, "baseline: the first caption of the next image"),
        "found": mean_card(found, f"share of images whose own caption fits best among {among}"),
        "found_by_chance": card(1 / among, len(own), "baseline: a caption drawn by chance"),
    }
    facts = {
        "name": f"fit-{file_hash(file)}",
        "for": f"how well images, seen at {side} px, fit texts like the captions it was fitted on",
        "networks": pair.hashes,
        "images": len(data.images),
        "penalty": penalty,
        "scores": scores,
    }
    return write_made(folder / "fit.json", facts, start)
