"""Training the small network behind `FD-<hash>`: what is in a picture, and how it was spoilt.

In: a lesson, that is pictures and what there is to read in them (`encoder_scenes.py`, `encoder_photos.py`), and a seed.
Out: `encoder.safetensors` and `encoder.json`, its card: how it was made, what it reads from clean pictures it has not
seen, and how far it finds known changes of them. Half of the images are damaged and the network has to say by how much:
a network that only names things would learn to overlook what a distance between images should see.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning import __version__
from ddt_lightning.atomic import write_json
from ddt_lightning.metrics.cards import versions
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.picture_encoder import PictureEncoder, file_hash, to_side
from ddt_lightning.seeding import numpy_rng

DAMAGES = ("blur", "noise", "blocks")
MOST = {"blur": 3.0, "noise": 60.0, "blocks": 60.0}
"""Largest damage: standard deviation of the blur in pixels, of noise and of the blocks' levels in 8-bit steps."""
BLOCK = 8
"""Side of the blocks, in pixels."""
Changes = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class EncoderStudy:
    """How the encoder is trained.

    Args:
        steps: optimizer steps.
        batch: pictures in a step.
        lr: largest learning rate; it rises over the first twentieth and falls to 0 by a half cosine.
        seed: of weights, pictures and damage.
        check: pictures that the card's figures are measured on; twice as many set the features' scale.

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


class Lesson(Protocol):
    """Pictures, and what the network has to read in them."""

    what: str
    """What the pictures are, in words."""
    knows: str
    """What distances the encoder is for, and for which not."""
    options: str
    """Options of `ddt study encoder` that choose these pictures."""
    outputs: int
    """Numbers that the head says of a picture, beside the damage."""

    def example(self, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Training picture n, uint8 `[H, W, 3]`; what is to be read in it, float32; where its damage is drawn from."""

    def layers(self, last: nn.Linear) -> nn.Module:
        """Start the head's last layer, and make what reads the trunk's map `[B, 128, 4, 4]` in training."""

    def error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Summed over a batch: what the head says `[B, outputs]` against what is to be read."""

    def local_error(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Summed over a batch: what the module of `layers` says."""

    def clean(self, what: str, seed: int, number: int) -> list[np.ndarray]:
        """Pictures that training did not show, by a name and a seed."""

    def reads(self, said: Tensor, what: str, seed: int) -> dict[str, float]:
        """Shares of what the head reads rightly from the pictures of `clean`."""

    def changes(self, images: Sequence[np.ndarray], what: str, seed: int) -> Changes:
        """Known changes of the first pictures of `clean` that the damage in training is not like."""


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


def spoil(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every second image damaged, and the share of the largest damage of each sort."""
    spoilt = np.zeros(len(DAMAGES), np.float32)
    if rng.random() < 0.5:
        which = int(rng.integers(len(DAMAGES)))
        spoilt[which] = rng.random()
        image = damage(image, DAMAGES[which], spoilt[which] * MOST[DAMAGES[which]], rng)
    return image, spoilt


def tensor(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 `[H, W, 3]` images to uint8 `[B, 3, H, W]`."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def train(study: EncoderStudy, lesson: Lesson, say: Callable[[str], None] = print) -> tuple[PictureEncoder, nn.Module]:
    """The encoder, standardised over clean pictures, and the layers that read the lesson and the damage from it."""
    torch.manual_seed(study.seed)
    encoder = PictureEncoder()
    last = nn.Linear(256, lesson.outputs + len(DAMAGES))
    head = nn.Sequential(nn.Linear(PictureEncoder.num_features, 256), nn.GELU(), last)
    local = lesson.layers(last)
    parameters = [*encoder.parameters(), *head.parameters(), *local.parameters()]
    optimizer = torch.optim.AdamW(parameters, study.lr, weight_decay=0.01)
    rise = max(1, study.steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / study.steps)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(study.steps):
        rows = [lesson.example(study.seed, step * study.batch + n) for n in range(study.batch)]
        images, damages = zip(*(spoil(image, rng) for image, _, rng in rows), strict=True)
        wanted, spoilt = (torch.from_numpy(np.stack(part)) for part in ([row[1] for row in rows], damages))
        grid = encoder.trunk(to_side(tensor(images)))
        read, amounts = head(encoder.project(grid)).split([lesson.outputs, len(DAMAGES)], dim=1)
        total = lesson.error(read, wanted) + 20 * F.mse_loss(amounts, spoilt, reduction="sum")
        loss = total / len(wanted) + lesson.local_error(local(grid), wanted) / len(wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if (step + 1) % 100 == 0 or step + 1 == study.steps:
            say(f"step {step + 1} of {study.steps}: loss {loss.item():.3f}")
    encoder.requires_grad_(False).eval()
    clean = tensor(lesson.clean("encoder scale", study.seed, 2 * study.check))
    with torch.no_grad():
        raw = torch.cat([encoder.raw(to_side(part)) for part in clean.split(100)])
    encoder.mean, encoder.scale = raw.mean(0), raw.std(0)
    return encoder, head.requires_grad_(False)


def features(encoder: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
    """Features `[N, d]` of images uint8 `[H, W, 3]`, a hundred at a time."""
    return torch.cat([encoder(tensor(images[start : start + 100])) for start in range(0, len(images), 100)])


def changed(images: Sequence[np.ndarray], seed: int) -> Changes:
    """Known changes of pictures; the last three were not in training."""
    rng = numpy_rng("encoder changes", seed)
    steps = {"blur": (0.5, 1.0, 2.0), "noise": (8.0, 16.0, 32.0)}
    found = {
        f"{name} {amount:g}": [damage(image, name, amount, rng) for image in images]
        for name, amounts in steps.items()
        for amount in amounts
    }
    side = images[0].shape[0]
    small = [image.reshape(side // 4, 4, side // 4, 4, 3).mean((1, 3)) for image in images]
    found["pixels of 4"] = [np.round(one).astype(np.uint8).repeat(4, 0).repeat(4, 1) for one in small]
    found["red and blue swapped"] = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    found["grey"] = [np.full_like(image, image.mean((0, 1)).round().astype(np.uint8)) for image in images]
    return found


def card(encoder: PictureEncoder, head: nn.Module, study: EncoderStudy, lesson: Lesson) -> dict[str, object]:
    """What the encoder reads from unseen clean pictures, and its distances to known changes of such pictures."""
    what = "encoder check"
    images = lesson.clean(what, study.seed, 2 * study.check)
    seen = features(encoder, images)
    said = head(seen * encoder.scale + encoder.mean)[:, : lesson.outputs]
    reference, other = seen[: study.check], seen[study.check :]
    first = images[: study.check]
    variants = changed(first, study.seed) | lesson.changes(first, what, study.seed)
    distances = {"other pictures": frechet(other, reference)}
    distances |= {name: frechet(features(encoder, variant), other) for name, variant in variants.items()}
    return {
        "reads": {name: round(share, 4) for name, share in lesson.reads(said, what, study.seed).items()},
        "frechet_distance": {"images": study.check, **{name: round(value, 4) for name, value in distances.items()}},
    }


def run(study: EncoderStudy, lesson: Lesson, folder: Path, say: Callable[[str], None] = print) -> str:
    """Train, measure and write, on one thread; returns the encoder's name, `FD-<hash>`."""
    start, threads = time.process_time(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads would round in another order
    try:
        encoder, head = train(study, lesson, say)
        measured = card(encoder, head, study, lesson)
    finally:
        torch.set_num_threads(threads)
    file = folder / "encoder.safetensors"
    encoder.save(file)
    name = f"FD-{file_hash(file)}"
    facts = {
        "name": name,
        "for": f"distances between sets of {lesson.knows}, and its numbers cannot be compared with FID or with those "
        "of another encoder",
        "made_by": f"ddt study encoder {lesson.options}--steps {study.steps} --batch {study.batch} "
        f"--lr {study.lr:g} --seed {study.seed} --check {study.check}",
        "network": f"{sum(isinstance(part, nn.Conv2d) for part in encoder.modules())} convolutions, "
        f"{sum(p.numel() for p in encoder.parameters())} weights, {encoder.num_features} features, mean 0 and variance "
        f"1 over clean {lesson.what}",
        "trained_on": f"{study.steps * study.batch} {lesson.what}, half of them damaged ({', '.join(DAMAGES)})",
        "reproducible": "the same versions on the same kind of processor give the same bytes; others may round "
        "differently and so have another hash: the shipped file is what defines the number",
        **measured,
        "processor_seconds": round(time.process_time() - start),
        "version": __version__,
        "versions": versions(),
    }
    write_json(folder / "encoder.json", facts)
    return name
