"""Distances between two sets of features as cards: Frechet and kernel distance, precision and recall."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddt_lightning.inputs import positive
from ddt_lightning.metrics.cards import Card, card

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 2048
"""Images without which Inception's 2,048 features have no covariance of full rank."""


@dataclass(frozen=True)
class Estimation:
    """Options of the distances.

    Args:
        few: report FID of fewer than 2,048 pictures too; such a number means little.
        subsets: random subsets for the kernel distance.
        subset_size: pictures in each; half of them where there are fewer than twice as many.
        neighbours: k of precision and recall.

    Raises:
        ValueError: a number is below 1.
    """

    few: bool = False
    subsets: int = 100
    subset_size: int = 1000
    neighbours: int = 3

    def __post_init__(self) -> None:
        for option in ("subsets", "subset_size", "neighbours"):
            positive(option, getattr(self, option))


def distance_cards(
    prefix: str,
    letter: str,
    against: str,
    generated: "dict[str, Tensor]",
    reference: "dict[str, Tensor]",
    estimation: Estimation,
) -> dict[str, Card]:
    """Cards of every network's distances.

    Args:
        prefix: of the keys.
        letter: `r` of reconstructions, `g` of other pictures, before `fid` and `kid`.
        against: the two sets in words.
        generated: features `[N, d]` by network.
        reference: features `[M, d]` by network.
        estimation: how they are estimated.
    """
    against += "; pictures that are read are cut to the centred square and brought to the side by Lanczos, in uint8"
    cards: dict[str, Card] = {}
    for network, first in generated.items():
        inception = network == "inception"
        seen = "Inception 2048, torch-fidelity's weights and resizing" if inception else f"encoder {network}"
        frechet, kernel = (f"{letter}fid", f"{letter}kid") if inception else (network, network.replace("FD", "KD"))
        end = "" if inception else network.removeprefix("FD")
        least = first.shape[1] + 1
        if inception:
            least = 2 if estimation.few else FEWEST
        sets = (first, reference[network])
        cards |= frechet_cards(prefix, frechet, seen, against, sets, least)
        number = min(map(len, sets))
        if number >= max(4, estimation.neighbours + 1):
            cards |= neighbour_cards(prefix, kernel, end, f"{seen}: {against}", sets, estimation)
        else:
            print(f"no {prefix}{kernel}, precision and recall: {number} pictures are too few")
    return cards


def frechet_cards(
    prefix: str, name: str, seen: str, against: str, sets: "tuple[Tensor, Tensor]", least: int
) -> dict[str, Card]:
    """Frechet distance of two sets, and of two halves of the second, where they have at least `least` pictures.

    Args:
        prefix: of the keys.
        name: of the distance.
        seen: the network in words.
        against: the two sets in words.
        sets: features of pictures and reference.
        least: fewest pictures; `--few` lowers it for Inception.
    """
    from ddt_lightning.metrics import distribution

    number, cards = min(map(len, sets)), {}
    if number >= least:
        found = distribution.frechet_estimate(*sets)
        text = f"Frechet distance of {seen}: {against}; 95 % by a jackknife over ten groups"
        cards[prefix + distribution.label(name, number)] = card(found.value, number, text, found.interval)
    else:
        hint = ", see `--few`" if least == FEWEST else ""
        print(f"no {prefix}{name}: {number} pictures are fewer than {least}{hint}")
    one, other = sets[1][::2], sets[1][1::2]
    if len(other) >= least:
        text = f"Frechet distance of {seen} between two halves of the reference: the part that small sets alone make"
        key = f"{prefix}halves/{distribution.label(name, len(other))}"
        cards[key] = card(distribution.frechet(one, other), len(other), text)
    return cards


def neighbour_cards(
    prefix: str, kernel: str, end: str, about: str, sets: "tuple[Tensor, Tensor]", estimation: Estimation
) -> dict[str, Card]:
    """Kernel distance (key `KERNEL` after the prefix), precision and recall (`precisionEND`, `recallEND`)."""
    from ddt_lightning.metrics import distribution

    number = min(map(len, sets))
    taken = distribution.subset_size(number, estimation.subset_size)
    found = distribution.kernel_estimate(*sets, subsets=estimation.subsets, size=estimation.subset_size)
    text = f"kernel distance (cubic polynomial MMD^2, not x 1000) of {about}; mean of {estimation.subsets} "
    cards = {prefix + kernel: card(found.value, number, f"{text}subsets of {taken}", found.interval)}
    shares = distribution.precision_recall(*sets, neighbours=estimation.neighbours)
    for name, share, pictures in zip(("precision", "recall"), shares, sets, strict=True):
        text = f"{name} by {estimation.neighbours} nearest neighbours in features of {about}"
        text += "; 95 % over its pictures only"
        cards[f"{prefix}{name}{end}"] = card(share.value, len(pictures), text, share.interval)
    return cards
