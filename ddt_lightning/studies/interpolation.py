"""Counterfactual interpolation: the first n tokens of image A replaced by those of image B, by several tokenizers.

In: pairs of images and models. Out: pictures for several shares n/K, and for each how far the picture has moved from A
to B and how evenly over its places (`metrics/locality.py`). Spatial tokens swap regions, as CutMix does; tokens that
carry attributes of the whole picture change it everywhere. Source: project page of DDT-LLaMA, "Counterfactual
Interpolation"; Selftok likewise takes the first part from one image and the rest from the other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddt_lightning.metrics.cards import Card, card
from ddt_lightning.metrics.intervals import bootstrap
from ddt_lightning.metrics.locality import CELLS, SMALLEST, change_spread
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.plans.cached_arrays import Arrays, measured
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.style import percent, spread_of
from ddt_lightning.sampling import Decoding
from ddt_lightning.studies.side_by_side import Model, digest, file_name

NAME = "interpolation"
CUT, BLEND = "pixels, cut", "pixels, blend"
PLAIN = (
    "The first tokens of an image A are exchanged for those of an image B: spatial tokens paste regions of B into A, "
    "tokens that describe the whole picture change all of it."
)


@dataclass(frozen=True)
class Plan:
    """Settings of a call: shares and decoding.

    Args:
        shares: of B's tokens, above 0 and below 1, rising.
        shown: how many of the pairs are kept as pictures.
        seed: of the decoder's noise; the pictures of a pair share theirs.
        batch: pairs at a time.
        decoding: how ids become images.
    """

    shares: list[float]
    shown: int
    seed: int
    batch: int
    decoding: Decoding

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares) <= 0 or max(self.shares) >= 1:
            raise ValueError(f"`--shares` ({self.shares}) must name at least one share, above 0 and below 1.")
        if sorted(set(self.shares)) != self.shares:
            raise ValueError(f"`--shares` ({self.shares}) must rise.")
        for name in ("shown", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` ({getattr(self, name)}) must be at least 1.")


@dataclass(frozen=True)
class Mixing:
    """Scores of one model.

    Args:
        name: of the model, or of a mix of pixels to compare with.
        folder: of the model.
        weights: hashes of its parts.
        tokens: K; 0 for a mix of pixels.
        counts: tokens of B for each share.
        moved: way from A to B that the picture has gone, for each share.
        spread: how evenly over its places; None where no pair's picture has moved or all have arrived.
    """

    name: str
    folder: str
    weights: dict[str, str]
    tokens: int
    counts: list[int]
    moved: list[Card | None]
    spread: list[Card | None]


def replaced(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Ids of A with the first `count` of B: `[B, K]` for both `[B, K]`."""
    return torch.cat([b[:, :count], a[:, count:]], 1)


def count_of(share: float, tokens: int) -> int:
    """The whole number of tokens nearest to a share, at least one and not all."""
    return min(max(1, round(share * tokens)), tokens - 1)


def cut(a: Tensor, b: Tensor, share: float) -> Tensor:
    """CutMix in reading order: the upper rows of B above the rest of A, images `[B, 3, H, W]`."""
    rows = min(max(1, round(share * a.shape[2])), a.shape[2] - 1)
    return torch.cat([b[:, :, :rows], a[:, :, rows:]], 2)


def blend(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Mixup: `(1 - share) A + share B` of uint8 images, rounded."""
    return (a.float() + share * (b.float() - a.float())).round().to(torch.uint8)


def scores(a: Tensor, b: Tensor, mixed: Sequence[Tensor], kept: int) -> Arrays:
    """Pictures and scores of mixes.

    Args:
        a: pictures of A, uint8 `[B, 3, H, W]`.
        b: pictures of B.
        mixed: of the mixes, for each share.
        kept: how many pairs are kept as pictures.

    Returns:
        `moved` and `spread` `[B, shares]`; `pictures` uint8 `[kept, shares + 2, 3, H, W]`, A first and B last.
    """
    both = [change_spread(image, a, b) for image in mixed]
    return {
        "spread": torch.stack([spread for spread, _ in both], 1).numpy(),
        "moved": torch.stack([moved for _, moved in both], 1).numpy(),
        "pictures": torch.stack([image[:kept] for image in (a, *mixed, b)], 1).numpy(),
    }


def mix(model: Model, images: Tensor, plan: Plan, out: Path) -> tuple[Mixing, Arrays]:
    """Everything about one model.

    Args:
        model: the model; its tokenizer has at least two tokens.
        images: uint8 `[pairs, 2, 3, H, W]`, A and B of each pair.
        plan: what to do.
        out: the study's folder.

    Raises:
        ValueError: the tokenizer has one token only.
    """
    if model.tokens < 2:
        raise ValueError(f"`--models`: {model.name} has {model.tokens} token for an image; there is nothing to mix.")
    pipeline: Pipeline = model.pipeline
    counts = [count_of(share, model.tokens) for share in plan.shares]

    def make(rows: slice) -> Arrays:
        ids_a, ids_b = (pipeline.encode(images[rows, side]) for side in (0, 1))
        seeds = [1_000_000 * plan.seed + n for n in range(rows.start, rows.stop)]
        every = [ids_a, *(replaced(ids_a, ids_b, count) for count in counts), ids_b]
        a, *mixed, b = (pipeline.decode(ids, seed=seeds, **asdict(plan.decoding)) for ids in every)
        return scores(a, b, mixed, max(0, min(rows.stop, plan.shown) - rows.start))

    weights = pipeline.fingerprints()
    facts = {"images": digest(images), "weights": weights, "counts": counts, "shown": plan.shown, "seed": plan.seed}
    name = f"{NAME}.{file_name(model.name)}"
    arrays = measured(out, name, {**facts, **asdict(plan.decoding)}, len(images), plan.batch, make)
    return Mixing(model.name, model.folder, weights, model.tokens, counts, **cards(arrays)), arrays


def pixels(images: Tensor, plan: Plan) -> list[tuple[Mixing, Arrays]]:
    """The two extremes on the pictures themselves: regions swapped, and everything blended."""
    a, b = images[:, 0], images[:, 1]
    found = []
    for name, how in ((CUT, cut), (BLEND, blend)):
        arrays = scores(a, b, [how(a, b, share) for share in plan.shares], plan.shown)
        found.append((Mixing(name, "", {}, 0, [], **cards(arrays)), arrays))
    return found


def cards(arrays: Arrays) -> dict[str, list[Card | None]]:
    """The scores of `Mixing`: means over the pairs that have one, with bootstrap 95 % intervals."""
    texts = {
        "moved": f"way of the picture from A (0) to B (1), mean over {CELLS} x {CELLS} places weighted by |B - A|^2",
        "spread": "evenness of this way over the places: 0 regions are swapped, 1 all change alike; of the pairs that "
        f"moved by {SMALLEST} to {1 - SMALLEST}",
    }
    found: dict[str, list[Card | None]] = {}
    for key, text in texts.items():
        columns = [column[~np.isnan(column)] for column in arrays[key].T]
        protocol = f"{text}; mean and bootstrap interval over pairs"
        found[key] = [
            card(float(values.mean()), len(values), protocol, bootstrap(values) if len(values) > 1 else None)
            if len(values)
            else None
            for values in columns
        ]
    return found


def cell(score: Card | None, pairs: int) -> str:
    """A score with its interval, and of how many pairs it is where not of all."""
    if score is None:
        return "-"
    return spread_of(score, 2) + (f" ({score['n']})" if score["n"] < pairs else "")


def findings(outcomes: Sequence[Mixing], plan: Plan, source: str, pairs: int, pictures: dict[str, str]) -> Findings:
    """The outcome of the study.

    Args:
        outcomes: of each model, and of the mixes of pixels.
        plan: what was mixed.
        source: where the images come from, in words.
        pairs: how many pairs there are.
        pictures: {file: caption} of what was drawn.
    """
    explained = (
        f"{pairs} pairs, {source}. Spread: 0 where places come wholly from A or from B ({CUT}), 1 where every place is "
        f"equally far on the way ({BLEND}); places where A and B agree do not count. ±: 95 %, bootstrap over pairs; in "
        "brackets: of how many pairs, where others have not left A or have arrived at B."
    )
    head = ["of B", *map(percent, plan.shares)]
    tables = [
        Table(head, [[one.name, *(cell(score, pairs) for score in getattr(one, key))] for one in outcomes], title=title)
        for title, key in (("Spread of the change", "spread"), ("Way of the picture from A (0) to B (1)", "moved"))
    ]
    numbers = {"source": source, "pairs": pairs, "settings": asdict(plan),
               "models": [asdict(one) for one in outcomes]}  # fmt: skip
    return Findings("interpolate", "Exchanging tokens between two images", PLAIN, explained, tables, pictures, numbers)
