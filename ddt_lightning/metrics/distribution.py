"""Distances between two sets of images by their features: Frechet and kernel distance, precision and recall.

In: features float32 `[N, d]` of a frozen network, generated first, reference second, on the CPU. Out: a value with its
95 % interval. The arithmetic is torch-fidelity's. With Inception features these are FID and KID; with any other network
they have other names, because the numbers cannot be compared.

The Frechet distance of small sets is biased upwards by about d / N: compare it at equal N only (`label` keeps N in the
name below 10,000), and of Inception features not at all below 2,048, where the covariance has no full rank.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddt_lightning.metrics.intervals import NORMAL, student, wilson

COMPARABLE = 10_000
"""Images from which on a Frechet distance goes without its N."""
GROUPS = 10
"""Groups of the jackknife of a Frechet distance."""


@dataclass(frozen=True)
class Estimate:
    """A distance or share with its 95 % interval.

    Args:
        value: the estimate from all images.
        interval: lower and upper end; None where the sets are too small for one.
    """

    value: float
    interval: tuple[float, float] | None


def label(name: str, number: int) -> str:
    """`name` of a Frechet distance between `number` images, with `@number` where that matters for its size."""
    return name if number >= COMPARABLE else f"{name}@{number}"


def frechet(generated: Tensor, reference: Tensor) -> float:
    """Squared Frechet distance of the two Gaussians with the sets' means and covariances.

    Raises:
        ValueError: the features do not fit together, are not finite, or are of fewer than two images.
    """
    from torch_fidelity import metric_fid  # slow to import

    _check(generated, reference, least=2)
    first, second = (metric_fid.fid_features_to_statistics(part) for part in (generated, reference))
    return float(metric_fid.fid_statistics_to_metric(first, second, False)[metric_fid.KEY_METRIC_FID])


def frechet_estimate(generated: Tensor, reference: Tensor) -> Estimate:
    """Frechet distance with the interval of a jackknife over ten groups of images.

    Image n of either set belongs to group n mod 10 and is left out of both at once, so that pairs stay pairs. The
    interval is about the sampling of images and does not correct the bias of small sets. Errors as `frechet`.
    """
    value = frechet(generated, reference)
    if min(len(generated), len(reference)) < 2 * GROUPS:
        return Estimate(value, None)
    values = np.array([frechet(_without(generated, group), _without(reference, group)) for group in range(GROUPS)])
    half = student(GROUPS - 1) * float(np.sqrt((GROUPS - 1) / GROUPS * np.square(values - values.mean()).sum()))
    return Estimate(value, (value - half, value + half))


def kernel_estimate(
    generated: Tensor, reference: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Estimate:
    """Kernel distance: unbiased MMD^2 under (x.y / d + 1)^3, mean over random subsets (of Inception: KID).

    Args:
        generated: `[N, d]`.
        reference: `[M, d]`.
        subsets: how many, drawn without replacement within each set.
        size: images in a subset of each set; at most half of the smaller set is taken.
        seed: of the subsets.

    Returns:
        The mean, and from the subsets' variance v the interval of a delete-(N - m) jackknife (Shao and Wu 1989):
        +-1.96 sqrt(v m / (N - m)), for subsets of m of N images.

    Raises:
        ValueError: as `frechet`, or fewer than four images.
    """
    from torch_fidelity import metric_kid

    _check(generated, reference, least=4)
    number = min(len(generated), len(reference))
    taken = subset_size(number, size)
    found = metric_kid.kid_features_to_metric(
        generated, reference, kid_subsets=subsets, kid_subset_size=taken, rng_seed=seed, verbose=False
    )
    value = float(found[metric_kid.KEY_METRIC_KID_MEAN])
    half = NORMAL * float(found[metric_kid.KEY_METRIC_KID_STD]) * (taken / (number - taken)) ** 0.5
    return Estimate(value, (value - half, value + half))


def subset_size(number: int, size: int) -> int:
    """Images in a subset for the kernel distance: `size`, or half of `number` images where that is less."""
    return min(size, number // 2)


def precision_recall(generated: Tensor, reference: Tensor, *, neighbours: int = 3) -> tuple[Estimate, Estimate]:
    """Precision and recall of Kynkaanniemi et al. 2019 (arXiv 1904.06991).

    Precision: the share of generated images within the k-nearest-neighbour radius of any reference image; recall: the
    share of reference images within that of any generated one. Both grow with the radius, so compare at equal N.

    Args:
        generated: `[N, d]`.
        reference: `[M, d]`.
        neighbours: k.

    Returns:
        Both with Wilson's interval over the images counted; the other set is taken as given.

    Raises:
        ValueError: as `frechet`, or too few images for k neighbours.
    """
    from torch_fidelity import metric_prc

    _check(generated, reference, least=neighbours + 1)
    found = metric_prc.prc_features_to_metric(
        generated,
        reference,
        prc_neighborhood=neighbours,
        prc_batch_size=COMPARABLE,
        save_cpu_ram=max(len(generated), len(reference)) > COMPARABLE,
        verbose=False,
    )
    keys = ((metric_prc.KEY_METRIC_PRECISION, len(generated)), (metric_prc.KEY_METRIC_RECALL, len(reference)))
    shares = [(float(found[key]), number) for key, number in keys]
    precision, recall = (Estimate(share, wilson(round(share * number), number)) for share, number in shares)
    return precision, recall


def _without(features: Tensor, group: int) -> Tensor:
    """All rows but every tenth from `group` on."""
    return features[torch.arange(len(features)) % GROUPS != group]


def _check(generated: Tensor, reference: Tensor, least: int) -> None:
    """Fail on features that would end in nan or in a number about something else."""
    for name, features in (("generated", generated), ("reference", reference)):
        if features.ndim != 2 or len(features) < least:
            raise ValueError(f"`{name}` features {list(features.shape)} must be [N, d] of at least {least} images.")
        if not features.isfinite().all():
            raise ValueError(f"`{name}` features are not all finite.")
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(f"Features of {generated.shape[1]} and {reference.shape[1]} numbers are of two networks.")
