"""What an encoder for distances between photos learns: the classes of labelled shards.

In: shards whose captions are names of classes, such as CIFAR-10. Out: a `Lesson` of `encoder.py`. Photos with captions
in sentences have no classes and give none.
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
    """The lesson of labelled photos: their classes, each photo as it is or mirrored.

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
        """See `Lesson`; what is to be read is the class, one of `outputs` numbers."""
        rng = numpy_rng("encoder", seed, n)
        at = int(rng.integers(len(self.images)))
        image = self.images[at]
        wanted = np.eye(self.outputs, dtype=np.float32)[self.labels[at]]
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image, wanted, rng

    def layers(self, last: nn.Linear) -> nn.Module:
        """Names the class from the mean of the map: detectors form before the features do."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, self.outputs))

    def error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy of the class."""
        return F.cross_entropy(said, wanted, reduction="sum")

    def local_error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """The same."""
        return self.error(said, wanted)

    def clean(self, what: str, seed: int, number: int) -> list[np.ndarray]:
        """See `Lesson`; fewer where there are fewer."""
        return [self.held_out[at] for at in self._order(what, seed)[:number]]

    def reads(self, said: Tensor, what: str, seed: int) -> dict[str, float]:
        """Classes named right."""
        truth = torch.tensor([self.true[at] for at in self._order(what, seed)[: len(said)]])
        return {"class right": float((said.argmax(1) == truth).float().mean())}

    def changes(self, images: Sequence[np.ndarray], what: str, seed: int) -> Changes:
        """Photos of one class alone."""
        order = self._order(what, seed)
        one = [self.held_out[at] for at in order if self.true[at] == 0]
        return {f"only {self.classes[0]}": one}

    def _order(self, what: str, seed: int) -> np.ndarray:
        return numpy_rng(what, seed).permutation(len(self.held_out))


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
