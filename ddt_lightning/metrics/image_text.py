"""How well images fit texts, by a linear map between two frozen networks that was fitted on captioned images.

The features of an image by EfficientNet-Lite0 are mapped onto the sentence vectors of MiniLM by ridge regression; the
score of an image and a text is the cosine of the mapped features and the text's vector, both less their means. It is
no CLIP score: it knows the images and captions that it was fitted on, and is called `fit-<start of its SHA-256>`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from ddt_lightning.metrics.efficientnet import EfficientNetLite0
from ddt_lightning.metrics.picture_encoder import file_hash
from ddt_lightning.metrics.sentences import Sentences

BATCH = 32  # images at a time
NAMES = ("center", "scale", "weight", "anchor")


@dataclass(frozen=True)
class LinearMap:
    """Features of images onto vectors of texts.

    Args:
        center: mean of the features, float32 `[F]`.
        scale: their standard deviations `[F]`.
        weight: of the scaled features `[F, T]`.
        anchor: mean of the vectors `[T]`.
    """

    center: Tensor
    scale: Tensor
    weight: Tensor
    anchor: Tensor

    def of_images(self, features: Tensor) -> Tensor:
        """Unit vectors `[N, T]` of features `[N, F]`."""
        return normalize(((features - self.center) / self.scale) @ self.weight, dim=-1)

    def of_texts(self, vectors: Tensor) -> Tensor:
        """Unit vectors `[N, T]` of vectors of texts."""
        return normalize(vectors - self.anchor, dim=-1)


def fit_map(features: Tensor, vectors: Tensor, penalty: float) -> LinearMap:
    """The ridge regression of vectors `[N, T]` on features `[N, F]`.

    Args:
        features: of the images.
        vectors: of their texts.
        penalty: on squared weights, as a share of the number of images; positive.
    """
    center, scale, anchor = features.mean(0), features.std(0).clamp(min=1e-6), vectors.mean(0)
    x = ((features - center) / scale).double()
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (vectors - anchor).double())
    return LinearMap(center, scale, weight.float(), anchor)


@dataclass(frozen=True)
class FrozenPair:
    """The two networks that a map is between.

    Args:
        eye: gives features of images.
        reader: gives vectors of texts.
        hashes: of the weights of both, as cards have them.
    """

    eye: EfficientNetLite0
    reader: Sentences
    hashes: dict[str, str]

    def features(self, images: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
        """Features `[N, 1280]` of square images uint8 `[H, W, 3]`, brought to a side before the network resizes them.

        Images of different sides are seen alike then: a photo as little sharp as a small drawing.
        """
        found = []
        for image in images:
            pixels = torch.tensor(image).permute(2, 0, 1)[None]
            if image.shape[:2] != (side, side):
                scaled = interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True)
                pixels = scaled.round().clamp(0, 255).to(torch.uint8)
            found.append(pixels)
        return torch.cat([self.eye(torch.cat(found[n : n + BATCH]).to(self.reader.device)).cpu()
                          for n in range(0, len(found), BATCH)])  # fmt: skip


class ImageTextFit:
    """A fitted map with its networks: unit vectors of images and texts, whose product is the score, -1 to 1.

    Args:
        path: file that `save_fit` wrote.
        pair: the networks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no map, or one between other networks.
    """

    def __init__(self, path: str | Path, pair: FrozenPair) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"`--fit` ({path}) does not exist: make it with `ddt study fit`.")
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["image_text"])
                self.map = LinearMap(*(file.get_tensor(name) for name in NAMES))
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"`--fit` ({path}) holds no fit of images and texts: make it with `ddt study fit`."
            ) from error
        if facts["networks"] != pair.hashes:
            raise ValueError(f"`--fit` ({path}) is between the networks {facts['networks']}, not {pair.hashes}: name "
                             "the files that it was made with, by --backbone and --minilm.")  # fmt: skip
        self.name, self.side, self.pair = f"fit-{file_hash(path)}", int(facts["side"]), pair

    def images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Unit vectors `[N, d]` of square images uint8 `[H, W, 3]`."""
        return self.map.of_images(self.pair.features(images, self.side))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[N, d]` of texts."""
        return self.map.of_texts(self.pair.reader(texts))


def save_fit(path: Path, fitted: LinearMap, networks: dict[str, str], side: int) -> None:
    """Write a fit.

    Args:
        path: the file.
        fitted: the map.
        networks: hashes of the networks that it is between.
        side: that images were brought to.
    """
    tensors = {name: getattr(fitted, name).contiguous() for name in NAMES}
    save_file(tensors, path, {"image_text": json.dumps({"networks": networks, "side": side})})
