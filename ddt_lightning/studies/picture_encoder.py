"""`ddt study encoder`: training of the small network behind `FD-<hash>`, the distance between sets of pictures.

In: a task, that is pictures with labels (`picture_encoder_scenes.py`, `picture_encoder_photos.py`), and a seed. Out:
`encoder.safetensors` and `encoder.json`, its card: how it was made, how many labels of clean pictures it predicts that
it has not seen, and the distances it gives to known changes of them. Half of the training pictures are corrupted, and
the network has to predict how much: one that only predicts labels would learn to ignore what a distance should see.
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

from ddt_lightning.metrics.cards import write_made
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.picture_encoder import PictureEncoder, file_hash, to_side
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.studies.small_network import Fitting, fit, one_thread

DAMAGES = ("blur", "noise", "blocks")
MOST = {"blur": 3.0, "noise": 60.0, "blocks": 60.0}
"""Largest damage: standard deviation of the blur in pixels, of noise and of the blocks' levels in 8-bit steps."""
BLOCK = 8
"""Side of the blocks, in pixels."""
Changes = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class EncoderStudy(Fitting):
    """Settings of the training.

    Args:
        check: pictures that the card's figures are measured on; twice as many set the features' scale.

    Raises:
        ValueError: naming a number that is too small.
    """

    steps: int = 800
    batch: int = 48
    check: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check < 200:
            raise ValueError(f"`--check` ({self.check}) must be at least 200.")


class Task(Protocol):
    """Pictures and their labels: what the network is trained on, and tested on."""

    what: str
    """Name of the pictures, for the card."""
    knows: str
    """The sets of pictures whose distance the encoder measures, for the card."""
    options: str
    """Options of `ddt study encoder` that choose these pictures."""
    outputs: int
    """Numbers in a label."""

    def example(self, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Training picture n, uint8 `[H, W, 3]`; its label, float32 `[outputs]`; the generator of its corruption."""

    def layers(self, last: nn.Linear) -> nn.Module:
        """Initialise the head's last layer, and make the module that reads the trunk's map `[B, 128, 4, 4]`."""

    def losses(self, logits: Tensor, local: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the head's logits `[B, outputs]` and of the output of `layers`, each summed over the batch."""

    def clean(self, name: str, seed: int, number: int) -> tuple[list[np.ndarray], Tensor]:
        """Held-out pictures of a name and a seed, and their labels `[number, outputs]`; fewer where there are fewer."""

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Shares of right predictions."""

    def changes(self, images: Sequence[np.ndarray], name: str, seed: int) -> Changes:
        """Known changes of the first pictures of `clean`, of another kind than the corruptions of training."""


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


def corrupt(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every second image corrupted, and the amount of each kind as a share of the largest one."""
    amounts = np.zeros(len(DAMAGES), np.float32)
    if rng.random() < 0.5:
        which = int(rng.integers(len(DAMAGES)))
        amounts[which] = rng.random()
        image = damage(image, DAMAGES[which], amounts[which] * MOST[DAMAGES[which]], rng)
    return image, amounts


def tensor(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 `[H, W, 3]` images to uint8 `[B, 3, H, W]`."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def train(study: EncoderStudy, task: Task, say: Callable[[str], None] = print) -> tuple[PictureEncoder, nn.Module]:
    """The encoder, standardised over clean pictures, and the head that predicts label and corruption."""
    torch.manual_seed(study.seed)
    encoder = PictureEncoder()
    last = nn.Linear(256, task.outputs + len(DAMAGES))
    head = nn.Sequential(nn.Linear(PictureEncoder.num_features, 256), nn.GELU(), last)
    local = task.layers(last)
    parameters = [*encoder.parameters(), *head.parameters(), *local.parameters()]

    def loss_of(step: int) -> Tensor:
        rows = [task.example(study.seed, step * study.batch + n) for n in range(study.batch)]
        images, damages = zip(*(corrupt(image, rng) for image, _, rng in rows), strict=True)
        labels, amounts = (torch.from_numpy(np.stack(part)) for part in ([row[1] for row in rows], damages))
        grid = encoder.trunk(to_side(tensor(images)))
        logits, predicted = head(encoder.project(grid)).split([task.outputs, len(DAMAGES)], dim=1)
        global_loss, local_loss = task.losses(logits, local(grid), labels)
        total = global_loss + 20 * F.mse_loss(predicted, amounts, reduction="sum")
        return total / len(labels) + local_loss / len(labels)

    fit(parameters, study, loss_of, weight_decay=0.01, say=say)
    encoder.requires_grad_(False).eval()
    clean = tensor(task.clean("encoder scale", study.seed, 2 * study.check)[0])
    with torch.no_grad():
        raw = torch.cat([encoder.raw(to_side(part)) for part in clean.split(100)])
    encoder.mean, encoder.scale = raw.mean(0), raw.std(0)
    return encoder, head.requires_grad_(False)


def features(encoder: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
    """Features `[N, d]` of images uint8 `[H, W, 3]`, a hundred at a time."""
    return torch.cat([encoder(tensor(images[start : start + 100])) for start in range(0, len(images), 100)])


def changed(images: Sequence[np.ndarray], seed: int) -> Changes:
    """Known changes of pictures; the last three are not in training."""
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


def card(encoder: PictureEncoder, head: nn.Module, study: EncoderStudy, task: Task) -> dict[str, object]:
    """Predictions for held-out clean pictures, and distances to known changes of such pictures."""
    name = "encoder check"
    images, labels = task.clean(name, study.seed, 2 * study.check)
    seen = features(encoder, images)
    logits = head(seen * encoder.scale + encoder.mean)[:, : task.outputs]
    reference, other = seen[: study.check], seen[study.check :]
    first = images[: study.check]
    variants = changed(first, study.seed) | task.changes(first, name, study.seed)
    distances = {"other pictures": frechet(other, reference)}
    distances |= {change: frechet(features(encoder, variant), other) for change, variant in variants.items()}
    return {
        "reads": {score: round(share, 4) for score, share in task.scores(logits, labels).items()},
        "frechet_distance": {"images": study.check, **{change: round(value, 4) for change, value in distances.items()}},
    }


def run(study: EncoderStudy, task: Task, folder: Path, say: Callable[[str], None] = print) -> str:
    """Train, measure and write, on one thread; returns the encoder's name, `FD-<hash>`."""
    start = time.process_time()
    with one_thread():
        encoder, head = train(study, task, say)
        measured = card(encoder, head, study, task)
    file = folder / "encoder.safetensors"
    encoder.save(file)
    name = f"FD-{file_hash(file)}"
    facts = {
        "name": name,
        "for": f"distances between sets of {task.knows}, and its numbers cannot be compared with FID or with those "
        "of another encoder",
        "made_by": f"ddt study encoder {task.options}--steps {study.steps} --batch {study.batch} "
        f"--lr {study.lr:g} --seed {study.seed} --check {study.check}",
        "network": f"{sum(isinstance(part, nn.Conv2d) for part in encoder.modules())} convolutions, "
        f"{sum(p.numel() for p in encoder.parameters())} weights, {encoder.num_features} features, mean 0 and variance "
        f"1 over clean {task.what}",
        "trained_on": f"{study.steps * study.batch} {task.what}, half of them damaged ({', '.join(DAMAGES)})",
        "reproducible": "the same versions on the same kind of processor give the same bytes; others may round "
        "differently and so have another hash: the shipped file is what defines the number",
        **measured,
    }
    write_made(folder / "encoder.json", facts, start)
    return name
