"""Training the small network behind `FD-<hash>`: from rendered scenes to what is in them, and how they were spoilt.

In: a seed; scene n of training and its damage are drawn from it, held-out combinations among them. Out:
`encoder.safetensors` and `encoder.json`, its card: how it was made, what it reads from clean scenes it has not seen,
and how far it finds known changes of them. Half of the images are damaged and the network has to say by how much: a
network that only names shapes would learn to overlook what a distance between images should see.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning import __version__
from ddt_lightning.commands.cards import versions
from ddt_lightning.commands.staging import write_json
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.encoder import SIDE, SceneEncoder, file_hash
from ddt_lightning.scenes.render import CANVAS, COLOURS, GROUND_RGB, KINDS, Scene, render
from ddt_lightning.scenes.suite import as_circles, val_scene
from ddt_lightning.seeding import numpy_rng

CELLS = 4
"""Cells of the place grid along a side."""
_COLOURS, _GROUNDS = tuple(COLOURS), tuple(GROUND_RGB)
_LOOKS, _TRAITS = len(KINDS) * len(_COLOURS), len(KINDS) + len(_COLOURS)
DAMAGES = ("blur", "noise", "blocks")
MOST = {"blur": 3.0, "noise": 60.0, "blocks": 60.0}
"""Largest damage: standard deviation of the blur in pixels, of noise and of the blocks' levels in 8-bit steps."""
_SIZES = [_LOOKS, CELLS**2 * _TRAITS, len(_GROUNDS), len(DAMAGES)]
BLOCK = 8
"""Side of the blocks, in pixels."""


@dataclass(frozen=True)
class EncoderStudy:
    """How the encoder is trained.

    Args:
        steps: optimizer steps.
        batch: scenes in a step.
        lr: largest learning rate; it rises over the first twentieth and falls to 0 by a half cosine.
        seed: of weights, scenes and damage.
        check: scenes that the card's figures are measured on; twice as many set the features' scale.

    Raises:
        ValueError: naming a number that is too small.
    """

    steps: int = 800
    batch: int = 48
    lr: float = 2e-3
    seed: int = 0
    check: int = 1000

    def __post_init__(self) -> None:
        for name, value, least in (("steps", self.steps, 1), ("batch", self.batch, 2), ("check", self.check, 200)):
            if value < least:
                raise ValueError(f"`--{name}` ({value}) must be at least {least}.")
        if not self.lr > 0:
            raise ValueError(f"`--lr` ({self.lr}) must be above 0.")


def targets(scene: Scene) -> np.ndarray:
    """What the network has to read, 0 or 1 each: kinds and colours of objects together, and of each cell apart.

    Returns:
        float32 `[60 + 16 * 16 + 6]`: coloured kinds that occur; kinds, then colours of the objects whose centres lie in
        each cell, row by row; the background.
    """
    looks = np.zeros((len(KINDS), len(_COLOURS)), np.float32)
    cells = np.zeros((CELLS, CELLS, _TRAITS), np.float32)
    ground = np.zeros(len(_GROUNDS), np.float32)
    for shape in scene.shapes:
        kind, colour = KINDS.index(shape.kind), _COLOURS.index(shape.colour)
        looks[kind, colour] = 1
        row, column = (min(CELLS - 1, int(place * CELLS / CANVAS)) for place in (shape.y, shape.x))
        cells[row, column, [kind, len(KINDS) + colour]] = 1
    ground[_GROUNDS.index(scene.background.name)] = 1
    return np.concatenate([looks.ravel(), cells.ravel(), ground])


def damage(image: np.ndarray, name: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """An image uint8 `[H, W, 3]` blurred, with noise, or with blocks of wrong levels; `amount` as in `MOST`."""
    pixels = image.astype(np.float32)
    if name == "blur":
        pixels = gaussian_filter(pixels, (amount, amount, 0))
    elif name == "noise":
        pixels += rng.normal(0, amount, pixels.shape)
    else:
        count = -(-image.shape[0] // BLOCK)
        levels = rng.normal(0, amount, (count, count, 3)).repeat(BLOCK, 0).repeat(BLOCK, 1)
        pixels += levels[: image.shape[0], : image.shape[1]]
    return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)


def example(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training example n: image uint8 `[64, 64, 3]`, `targets`, and the share of the largest damage of each sort."""
    rng = numpy_rng("encoder", seed, n)
    scene = val_scene(rng, unseen=bool(n % 2))
    image, spoilt = render(scene, SIDE), np.zeros(len(DAMAGES), np.float32)
    if rng.random() < 0.5:
        which = int(rng.integers(len(DAMAGES)))
        spoilt[which] = rng.random()
        image = damage(image, DAMAGES[which], spoilt[which] * MOST[DAMAGES[which]], rng)
    return image, targets(scene), spoilt


def tensor(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 `[H, W, 3]` images to uint8 `[B, 3, H, W]`."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def train(study: EncoderStudy, say: Callable[[str], None] = print) -> tuple[SceneEncoder, nn.Module]:
    """The encoder, standardised over clean scenes, and the layers that read `targets` and damage from it."""
    torch.manual_seed(study.seed)
    encoder = SceneEncoder()
    last = nn.Linear(256, sum(_SIZES))
    head = nn.Sequential(nn.Linear(SceneEncoder.num_features, 256), nn.GELU(), last)
    cells = nn.Conv2d(128, _TRAITS, 1)  # reads each cell from its own place: detectors form before the features do
    with torch.no_grad():  # most targets are 0
        last.bias[: sum(_SIZES[:2])] = -3.0
        cells.bias[:] = -3.0  # type: ignore[index]
    parameters = [*encoder.parameters(), *head.parameters(), *cells.parameters()]
    optimizer = torch.optim.AdamW(parameters, study.lr, weight_decay=0.01)
    rise = max(1, study.steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / study.steps)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(study.steps):
        rows = [example(study.seed, step * study.batch + n) for n in range(study.batch)]
        wanted, spoilt = (torch.from_numpy(np.stack([row[part] for row in rows])) for part in (1, 2))
        grid = encoder.trunk(tensor([row[0] for row in rows]).float() / 127.5 - 1)  # [B, 128, 4, 4]
        loss = error(head(encoder.project(grid)), wanted, spoilt)
        local = cells(grid).permute(0, 2, 3, 1).flatten(1)
        there = wanted[:, _SIZES[0] : sum(_SIZES[:2])]
        loss = loss + F.binary_cross_entropy_with_logits(local, there, reduction="sum") / len(there)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if (step + 1) % 100 == 0 or step + 1 == study.steps:
            say(f"step {step + 1} of {study.steps}: loss {loss.item():.3f}")
    encoder.requires_grad_(False).eval()
    clean = tensor(clean_scenes("encoder scale", study.seed, 2 * study.check))
    with torch.no_grad():
        raw = torch.cat([encoder.raw(part.float() / 127.5 - 1) for part in clean.split(100)])
    encoder.mean, encoder.scale = raw.mean(0), raw.std(0)
    return encoder, head.requires_grad_(False)


def error(said: Tensor, wanted: Tensor, spoilt: Tensor) -> Tensor:
    """Cross entropies of looks, cells and background, and the squared error of the damage, of a batch."""
    looks, cells, ground, amounts = said.split(_SIZES, dim=1)
    true_looks, true_cells, true_ground = wanted.split(_SIZES[:3], dim=1)
    total = F.binary_cross_entropy_with_logits(looks, true_looks, reduction="sum")
    total = total + F.binary_cross_entropy_with_logits(cells, true_cells, reduction="sum") / 4
    total = total + F.cross_entropy(ground, true_ground, reduction="sum")
    return (total + 20 * F.mse_loss(amounts, spoilt, reduction="sum")) / len(said)


def clean_scenes(what: str, seed: int, number: int) -> list[np.ndarray]:
    """Rendered scenes of a name and a seed, every second with a held-out combination."""
    return [render(val_scene(numpy_rng(what, seed, n), unseen=bool(n % 2)), SIDE) for n in range(number)]


def features(encoder: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
    """Features `[N, d]` of images uint8 `[H, W, 3]`, a hundred at a time."""
    return torch.cat([encoder(tensor(images[start : start + 100])) for start in range(0, len(images), 100)])


def changed(images: Sequence[np.ndarray], scenes: Sequence[Scene], seed: int) -> dict[str, list[np.ndarray]]:
    """The card's known changes of scenes; the last four were not in training."""
    rng = numpy_rng("encoder changes", seed)
    steps = {"blur": (0.5, 1.0, 2.0), "noise": (8.0, 16.0, 32.0)}
    found = {
        f"{name} {amount:g}": [damage(image, name, amount, rng) for image in images]
        for name, amounts in steps.items()
        for amount in amounts
    }
    small = [image.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3)) for image in images]
    found["pixels of 4"] = [np.round(one).astype(np.uint8).repeat(4, 0).repeat(4, 1) for one in small]
    found["red and blue swapped"] = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    found["all shapes circles"] = [render(as_circles(scene), SIDE) for scene in scenes]
    found["grey"] = [np.full_like(image, image.mean((0, 1)).round().astype(np.uint8)) for image in images]
    return found


def card(encoder: SceneEncoder, head: nn.Module, study: EncoderStudy) -> dict[str, object]:
    """What the encoder reads from unseen clean scenes, and its distances to known changes of such scenes."""
    rng = [numpy_rng("encoder check", study.seed, n) for n in range(2 * study.check)]
    scenes = [val_scene(one, unseen=bool(n % 2)) for n, one in enumerate(rng)]
    images = [render(scene, SIDE) for scene in scenes]
    truth = torch.from_numpy(np.stack([targets(scene) for scene in scenes]))
    seen = features(encoder, images)
    said = head(seen * encoder.scale + encoder.mean)[:, : truth.shape[1]]
    looks, cells, _ = ((said > 0) == (truth > 0)).split(_SIZES[:3], dim=1)
    right = said[:, -_SIZES[2] :].argmax(1) == truth[:, -_SIZES[2] :].argmax(1)
    reference, other = seen[: study.check], seen[study.check :]
    variants = changed(images[: study.check], scenes[: study.check], study.seed)
    distances = {"other scenes": frechet(other, reference)}
    distances |= {name: frechet(features(encoder, variant), other) for name, variant in variants.items()}
    return {
        "reads": {
            "all coloured kinds right": round(float(looks.all(1).float().mean()), 4),
            "cells right": round(float(cells.float().mean()), 4),
            "background right": round(float(right.float().mean()), 4),
        },
        "frechet_distance": {"images": study.check, **{name: round(value, 4) for name, value in distances.items()}},
    }


def run(study: EncoderStudy, folder: Path, say: Callable[[str], None] = print) -> str:
    """Train, measure and write, on one thread; returns the encoder's name, `FD-<hash>`."""
    start, threads = time.process_time(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads would round in another order
    try:
        encoder, head = train(study, say)
        measured = card(encoder, head, study)
    finally:
        torch.set_num_threads(threads)
    file = folder / "encoder.safetensors"
    encoder.save(file)
    name = f"FD-{file_hash(file)}"
    facts = {
        "name": name,
        "for": "distances between sets of the project's rendered scenes at 64 pixels, such as reconstructions and "
        "drawings of a model and held-out scenes, at equal numbers of images; it knows nothing of photographs, and its "
        "numbers cannot be compared with FID or with those of another encoder",
        "made_by": f"ddt study encoder --steps {study.steps} --batch {study.batch} --lr {study.lr:g} "
        f"--seed {study.seed} --check {study.check}",
        "network": f"{sum(isinstance(part, nn.Conv2d) for part in encoder.modules())} convolutions, "
        f"{sum(p.numel() for p in encoder.parameters())} weights, {encoder.num_features} features, mean 0 and variance "
        "1 over clean scenes",
        "trained_on": f"{study.steps * study.batch} rendered scenes, half of them damaged ({', '.join(DAMAGES)})",
        "reproducible": "the same versions on the same kind of processor give the same bytes; others may round "
        "differently and so have another hash: the shipped file is what defines the number",
        **measured,
        "processor_seconds": round(time.process_time() - start),
        "version": __version__,
        "versions": versions(),
    }
    write_json(folder / "encoder.json", facts)
    return name
