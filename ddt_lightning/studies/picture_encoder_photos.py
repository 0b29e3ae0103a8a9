"""The task of an encoder for distances between photos: the classes of labelled shards.

In: shards whose captions are names of classes, such as CIFAR-10. Out: a `Task` of `picture_encoder.py`. Photos with
captions in sentences have no classes, and are refused.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.images import read_images
from ddt_lightning.studies.picture_encoder import Changes

CLASSES = 1000
"""At most so many different captions are classes."""


class Photos:
    """Labelled photos, each as it is or mirrored; the label is the class, one of `outputs` numbers.

    Args:
        shards: image shards to learn from.
        val_shards: those that the card is measured on.

    Raises:
        ValueError: the shards hold no captions, more than 1,000 different ones, or photos of several sizes; held-out
            classes are not among those of training.
    """

    def __init__(self, shards: Sequence[str], val_shards: Sequence[str]) -> None:
        self.images, texts = load(shards, "--shards")
        self.held_out, held_out = load(val_shards, "--val_shards")
        self.classes = sorted(set(texts))
        if not 2 <= len(self.classes) <= CLASSES:
            raise ValueError(
                f"`--shards` ({', '.join(shards)}) hold {len(self.classes)} different captions: an encoder of photos "
                f"needs names of classes, 2 to {CLASSES}."
            )
        if unknown := sorted(set(held_out) - set(self.classes)):
            raise ValueError(
                f"`--val_shards` ({', '.join(val_shards)}) hold a class that training lacks: {unknown[0]}."
            )
        self.labels, self.true = ([self.classes.index(text) for text in part] for part in (texts, held_out))
        where = f"photos of {len(self.classes)} classes"
        self.what = f"{where} ({', '.join(shards)})"
        self.knows = f"{where} like those it was trained on, at equal numbers of images; it knows nothing of others"
        self.options = f"--shards {' '.join(shards)} --val_shards {' '.join(val_shards)} "
        self.outputs = len(self.classes)

    def example(self, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """See `Task`."""
        rng = numpy_rng("encoder", seed, n)
        at = int(rng.integers(len(self.images)))
        image = self.images[at]
        label = np.eye(self.outputs, dtype=np.float32)[self.labels[at]]
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image, label, rng

    def layers(self, last: nn.Linear) -> nn.Module:
        """A module that predicts the class from the mean of the map: detectors form before the features do."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, self.outputs))

    def losses(self, logits: Tensor, local: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the class, of both."""
        return F.cross_entropy(logits, labels, reduction="sum"), F.cross_entropy(local, labels, reduction="sum")

    def clean(self, name: str, seed: int, number: int) -> tuple[list[np.ndarray], Tensor]:
        """See `Task`."""
        order = self._order(name, seed)[:number]
        labels = F.one_hot(torch.tensor([self.true[at] for at in order]), self.outputs)
        return [self.held_out[at] for at in order], labels

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of right classes."""
        return {"class right": float((logits.argmax(1) == labels.argmax(1)).float().mean())}

    def changes(self, images: Sequence[np.ndarray], name: str, seed: int) -> Changes:
        """Photos of one class alone."""
        return {f"only {self.classes[0]}": [self.held_out[at] for at in self._order(name, seed) if self.true[at] == 0]}

    def _order(self, name: str, seed: int) -> np.ndarray:
        return numpy_rng(name, seed).permutation(len(self.held_out))


def load(shards: Sequence[str], option: str) -> tuple[list[np.ndarray], list[str]]:
    """Photos uint8 `[H, W, 3]` of one size, and the first caption of each.

    Raises:
        ValueError: a photo has no caption, or another size than the first.
    """
    images: list[np.ndarray] = []
    texts: list[str] = []
    for sample in read_images(list(shards), option=option):
        if not sample.texts or sample.images[0].shape != (images or sample.images)[0].shape:
            raise ValueError(f"`{option}`: {sample.key} has no caption, or another size than the photos before it.")
        images.append(sample.images[0])
        texts.append(sample.texts[0])
    if len(images) < 2:
        raise ValueError(f"`{option}` ({', '.join(shards)}) hold {len(images)} photos.")
    return images, texts
