"""Features of pictures for `ddt eval distribution`: extracts them batch by batch and discards the images.

Pictures are read, made and encoded in chunks, so that 50,000 of them fit into memory as features only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ddt_lightning.evaluation.predictions import loaded, pixels
from ddt_lightning.evaluation.session import Setup
from ddt_lightning.evaluation.similarity import similarity
from ddt_lightning.images import IMAGES, is_image, read_images, stack
from ddt_lightning.inputs import Networks, chunks, pick_device
from ddt_lightning.metrics.efficientnet import EfficientNetLite0
from ddt_lightning.metrics.features import Inception
from ddt_lightning.metrics.picture_encoder import SHIPPED, PictureEncoder, file_hash
from ddt_lightning.scenes.language import caption
from ddt_lightning.scenes.render import Scene
from ddt_lightning.scenes.suite import val_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.images import read_images as read_shards

Features = dict[str, Tensor]  # name of the network -> [N, d]
CHUNK = 1024
"""Pictures in memory at a time."""


@dataclass(frozen=True)
class Picture:
    """One reference picture.

    Args:
        image: uint8 `[H, W, 3]`, or a scene to render.
        prompt: caption used as the prompt, or None.
    """

    image: Scene | np.ndarray
    prompt: str | None


@lru_cache(maxsize=1)
def networks(files: Networks, device: str) -> dict[str, nn.Module]:
    """The frozen networks of this process by name: the small encoder, and others where their weights are named."""
    path = files.encoder or SHIPPED
    found: dict[str, nn.Module] = {f"FD-{file_hash(path)}": PictureEncoder.load(path)}
    if files.backbone is not None:
        found[f"FD-EfficientNetLite0-{file_hash(files.backbone)}"] = EfficientNetLite0(files.backbone)
    if files.inception is not None:
        found["inception"] = Inception(files.inception)
    return {name: network.to(device) for name, network in found.items()}


def features_of(files: Networks, device: str, images: Tensor) -> Features:
    """Features of images uint8 `[B, 3, H, W]` by every network, on the CPU."""
    return {name: network(images.to(device)).cpu() for name, network in networks(files, device).items()}


def by_picture(features: Features, number: int) -> list[dict[str, np.ndarray]]:
    """Features picture by picture, as they travel between processes."""
    return [{name: rows[n].numpy() for name, rows in features.items()} for n in range(number)]


def joined(rows: Sequence[dict[str, np.ndarray]]) -> Features:
    """The inverse of `by_picture`."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def reconstruct(setup: Setup, items: list[tuple[Picture, int]], files: Networks) -> list[dict[str, Any]]:
    """Features of pictures and of their reconstructions, and the similarity of the two.

    Returns:
        `reference` and `generated` {network: [d]}, and the fields of `similarity`.
    """
    pipeline = loaded(setup.loading, False)
    originals = originals_of(items, pipeline.image_size)
    made = pipeline.reconstruct(originals, decoding=setup.drawing, seed=[seed for _, seed in items])
    pairs = similarity(pipeline, made, originals, files.lpips)
    features = feature_pairs(setup, files, originals, made)
    return [{**own, **pair} for own, pair in zip(features, pairs, strict=True)]


def draw(setup: Setup, items: list[tuple[Picture, int]], files: Networks, chat: bool) -> list[dict[str, Any]]:
    """Features of pictures and of what a model draws for their prompts: `reference`, `generated`."""
    pipeline = loaded(setup.loading)
    prompts = [str(picture.prompt) for picture, _ in items]
    seeds = [seed for _, seed in items]
    made = pipeline.text_to_image(prompts, setup.drawing, seed=seeds, chat=chat)
    return feature_pairs(setup, files, originals_of(items, pipeline.image_size), made)


def originals_of(items: Sequence[tuple[Picture, int]], side: int) -> Tensor:
    """The pictures of some items, uint8 `[B, 3, side, side]`."""
    return stack([pixels(picture.image, side) for picture, _ in items])


def feature_pairs(setup: Setup, files: Networks, originals: Tensor, made: Tensor) -> list[dict[str, Any]]:
    """`reference` and `generated` features of each pair."""
    device = pick_device(setup.loading.device)
    found = [by_picture(features_of(files, device, images), len(images)) for images in (originals, made)]
    return [{"reference": one, "generated": other} for one, other in zip(*found, strict=True)]


def folder_features(files: Networks, device: str, paths: Sequence[Path], side: int, batch: int) -> Features:
    """Features of image files, cut to the centred square and brought to `side` where they are not."""
    return concatenated(features_of(files, device, read_images(part, side)) for part in chunks(paths, batch))


def picture_features(files: Networks, device: str, pictures: Iterable[Picture], side: int, batch: int) -> Features:
    """Features of reference pictures; empty without any."""
    stacks = (stack([pixels(one.image, side) for one in part]) for part in chunks(pictures, batch))
    return concatenated(features_of(files, device, images) for images in stacks)


def concatenated(parts: Iterable[Features]) -> Features:
    """Features of several batches as those of one."""
    found = list(parts)
    return {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else {})}


def picture_files(folder: str) -> list[Path]:
    """All image files of a folder and of those in it, in the order of their names.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"`--generated` ({folder}) is not a folder of pictures.")
    found = sorted(path for path in Path(folder).rglob("*") if is_image(path) and path.is_file())
    if not found:
        raise ValueError(f"`--generated` ({folder}) holds no image ({', '.join(IMAGES)}).")
    return found


def side_of(path: Path) -> int:
    """The shorter side of an image file."""
    with Image.open(path) as picture:
        return min(picture.size)


def references(where: Sequence[str], number: int, side: int, seed: int, problems: dict[str, str]) -> Iterator[Picture]:
    """Reference pictures one by one: of folders, of shards, or held-out scenes of the seed.

    Args:
        where: one folder of pictures, or shards; nothing for scenes.
        number: at most so many.
        side: of pictures that are read, in pixels; scenes come as scenes.
        seed: of the scenes, which are those of `ddt eval reconstruction`.
        problems: samples of shards that cannot be read are added here.
    """
    if len(where) == 1 and Path(where[0]).is_dir():
        for path in picture_files(where[0])[:number]:
            yield Picture(read_images([path], side)[0].permute(1, 2, 0).contiguous().numpy(), None)
    elif where:
        read = read_shards(list(where), image_size=side, problems=problems, option="--reference")
        for sample in islice(read, number):
            yield Picture(sample.images[0], sample.texts[0] if sample.texts else None)
    else:
        for n in range(number):
            scene = val_scene(numpy_rng("eval image", seed, n), unseen=True)
            yield Picture(scene, caption(scene, numpy_rng("eval prompt", seed, n)))
