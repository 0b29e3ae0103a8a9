"""`ddt study attributes`: training of the classifier that judges drawings of emoji.

In: shards of `ddt data emoji`, whose samples say what a picture shows. Out: `attributes.safetensors` and
`attributes.json`, its card, with the accuracy on each held-out part. Training pictures are moved, scaled, mirrored,
blurred and made noisy, so that a judge of drawings does not mind what drawings do to pictures.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddt_lightning.emoji.facts import GENDERS, GROUPS, STYLES, TONES
from ddt_lightning.images import stack
from ddt_lightning.metrics.cards import mean_card, write_made
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier, marks, read
from ddt_lightning.metrics.picture_encoder import file_hash, to_side
from ddt_lightning.seeding import generator
from ddt_lightning.shards.images import read_images
from ddt_lightning.studies.small_network import Fitting, fit, one_thread

CLASSES: dict[str, Sequence[str]] = {"group": tuple(GROUPS), "skin": TONES, "gender": GENDERS, "style": STYLES}
NONE = -1
"""Label of an attribute that a picture does not have: it is left out of the loss and of the accuracy."""


@dataclass(frozen=True)
class AttributeStudy(Fitting):
    """Settings of the training.

    Args:
        role_pictures: training pictures that a role needs to be a class.
    """

    steps: int = 1500
    batch: int = 64
    role_pictures: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role_pictures < 1:
            raise ValueError(f"`--role_pictures` ({self.role_pictures}) must be at least 1.")


@dataclass(frozen=True)
class Labelled:
    """Pictures with their attributes.

    Args:
        images: uint8 `[N, 3, H, W]`.
        facts: of each, as `Emoji.facts` has them.
        parts: held-out part of each; `train` for none.
    """

    images: Tensor
    facts: list[dict[str, Any]]
    parts: list[str]


def read_labelled(shards: Sequence[str], option: str, side: int | None = None) -> Labelled:
    """The pictures of some image shards of `ddt data emoji`.

    Raises:
        ValueError: a sample does not say which emoji it shows.
    """
    samples = list(read_images(shards, image_size=side, option=option))
    if not samples or any(not isinstance(one.data, dict) or "emoji" not in one.data for one in samples):
        raise ValueError(f"`{option}` ({', '.join(shards)}) must be image shards that `ddt data emoji` wrote.")
    facts = [one.data["emoji"] for one in samples]
    return Labelled(
        stack([one.images[0] for one in samples]), facts, [one.data["held_out"] or "train" for one in samples]
    )


def labels_of(facts: Sequence[dict[str, Any]], classes: dict[str, list[str]]) -> dict[str, Tensor]:
    """{attribute: int64 `[N]`}, `NONE` where a picture has none of its classes."""
    return {
        name: torch.tensor([names.index(value) if (value := one.get(name)) in names else NONE for one in facts])
        for name, names in classes.items()
    }


def classes_of(facts: Sequence[dict[str, Any]], role_pictures: int) -> dict[str, list[str]]:
    """{attribute: its classes that some pictures show}; `noun`, the role, has those of at least `role_pictures`.

    Raises:
        ValueError: fewer than two classes of an attribute are left.
    """
    present = {name: {one.get(name) for one in facts} for name in CLASSES}
    classes = {name: [one for one in names if one in present[name]] for name, names in CLASSES.items()}
    lacking = [name for name, names in classes.items() if len(names) < 2]
    if lacking:
        raise ValueError(f"`--shards` hold pictures of one {lacking[0]} alone: there is nothing to tell apart.")
    often = Counter(one["noun"] for one in facts)
    classes["noun"] = sorted(noun for noun, count in often.items() if count >= role_pictures)
    if len(classes["noun"]) < 2:
        raise ValueError(
            f"`--role_pictures` ({role_pictures}): {len(classes['noun'])} roles have as many of the pictures in "
            "`--shards`: name a smaller number, or more shards."
        )
    return classes


def has_a_side(facts: dict[str, Any]) -> bool:
    """Whether the name of a picture would be wrong of its mirror image: `backhand index pointing left`."""
    return any(word.startswith(("left", "right")) for word in facts["noun"].split())


def changed(pixels: Tensor, rng: torch.Generator, as_drawn: Tensor | None = None) -> Tensor:
    """Pictures moved, scaled, mirrored, in half of the cases blurred, and made noisy.

    Args:
        pixels: in [-1, 1] `[B, 3, H, W]`.
        rng: of all changes.
        as_drawn: bool `[B]`, which of them are not mirrored; none if not given.
    """
    count = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    angle, scale = uniform(-0.15, 0.15), uniform(0.9, 1.2)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    mirror = mirror if as_drawn is None else mirror.where(~as_drawn, 1.0)
    turn = torch.stack([angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()], 1).view(count, 2, 2)
    grid = F.affine_grid(torch.cat([scale.view(-1, 1, 1) * turn, uniform(-0.12, 0.12, 2, 1)], 2), list(pixels.shape),
                         align_corners=False)  # fmt: skip
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    size = pixels.shape[-1]
    small = F.interpolate(pixels, size // int(torch.randint(2, 4, (), generator=rng)), mode="area")
    soft = F.interpolate(small, size, mode="bilinear")
    pixels = torch.where(uniform(0, 1, 1, 1, 1) < 0.4, soft, pixels)
    pixels = pixels * uniform(0.92, 1.08, 1, 1, 1) + uniform(-0.04, 0.04, 1, 1, 1)
    noise = torch.randn(pixels.shape, generator=rng)
    return (pixels + uniform(0, 0.12, 1, 1, 1) * noise).clamp(-1, 1)


def train(study: AttributeStudy, data: Labelled, say: Callable[[str], None] = print) -> AttributeClassifier:
    """The classifier, in evaluation mode; concepts of many pictures are drawn less often than in proportion."""
    torch.manual_seed(study.seed)
    classes = classes_of(data.facts, study.role_pictures)
    network, labels = AttributeClassifier(classes), labels_of(data.facts, classes)
    sided = torch.tensor([has_a_side(one) for one in data.facts])
    often = Counter(one["concept"] for one in data.facts)
    weights = torch.tensor([often[one["concept"]] ** -0.5 for one in data.facts])

    def loss_of(step: int) -> Tensor:
        rng = generator("emoji attributes", study.seed, step)
        rows = torch.multinomial(weights, study.batch, replacement=True, generator=rng)
        logits = network.logits(changed(to_side(data.images[rows]), rng, sided[rows]))
        loss = torch.zeros(())
        for name, one in logits.items():
            wanted = labels[name][rows]
            if bool((wanted != NONE).any()):
                loss = loss + F.cross_entropy(one, wanted, ignore_index=NONE, label_smoothing=0.05)
        return loss

    fit(list(network.parameters()), study, loss_of, weight_decay=0.05, say=say)
    return network.requires_grad_(False).eval()


def right(network: AttributeClassifier, images: Tensor, facts: Sequence[dict[str, Any]]) -> dict[str, list[bool]]:
    """{attribute: whether each picture that has it is read rightly}.

    Args:
        network: the classifier.
        images: uint8 `[N, 3, H, W]`.
        facts: what each should show.
    """
    found: dict[str, list[bool]] = {name: [] for name in network.classes}
    for one, wanted in zip(read(network, images), facts, strict=True):
        for name, mark in marks(one, wanted, network.classes).items():
            found[name].append(mark)
    return found


def run(study: AttributeStudy, data: Labelled, held_out: Labelled, folder: Path,
        say: Callable[[str], None] = print) -> dict[str, Any]:  # fmt: skip
    """Train, measure and write, on one thread; returns the card."""
    start = time.process_time()
    with one_thread():
        network = train(study, data, say)
        accuracy = {}
        for part in dict.fromkeys(held_out.parts):
            rows = [n for n, one in enumerate(held_out.parts) if one == part]
            scores = right(network, held_out.images[rows], [held_out.facts[n] for n in rows])
            accuracy[part] = {
                name: {key: mean_card(own, "")[key] for key in ("value", "interval", "n")}
                for name, own in scores.items()
                if own
            }
    file = folder / "attributes.safetensors"
    network.save(file)
    facts = {
        "name": f"emoji-attributes-{file_hash(file)}",
        "for": "attributes of drawings, edits and reconstructions of emoji at 64 pixels, in the styles it was trained "
        "on; its errors on real held-out pictures bound what it can say",
        "settings": asdict(study),
        "classes": network.classes,
        "network": f"{sum(p.numel() for p in network.parameters())} weights",
        "trained_on": f"{len(data.images)} pictures, moved, scaled, mirrored, blurred and with noise",
        "accuracy": accuracy,
    }
    return write_made(folder / "attributes.json", facts, start)
