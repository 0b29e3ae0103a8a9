"""Closeness of reconstructions to their originals: PSNR, SSIM, L1, L2 and visible seams between patches of each image.

In: uint8 images `[B, 3, H, W]` as a PNG would hold them (reconstructions are rounded before they are measured).
Out: one number per image, so that means are over images and not over pooled errors, and can carry an interval.
PSNR = 10 log10(255^2 / MSE); the mean over images of this is what papers report (pooling the errors first is lower).
"""

import torch
from torch import Tensor

PSNR_CAP = 100.0  # identical images have no finite PSNR; one value off by one in 256 x 256 x 3 is 101 dB


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """PSNR of each image in dB, capped at `PSNR_CAP`: float64 `[B]`.

    Raises:
        ValueError: where the two are not uint8 of one shape.
    """
    _check(image, original)
    error = (image.double() - original.double()).square().flatten(1).mean(dim=1)
    return (10.0 * torch.log10(255.0**2 / error.clamp(min=1e-12))).clamp(max=PSNR_CAP)


def ssim(image: Tensor, original: Tensor) -> Tensor:
    """SSIM of each image (Gaussian window, sigma 1.5, 11 x 11, as torchmetrics): float64 `[B]`.

    Raises:
        ValueError: where the two are not uint8 of one shape.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    _check(image, original)
    value = structural_similarity_index_measure(
        image.double() / 255.0, original.double() / 255.0, data_range=1.0, reduction="none"
    )
    return torch.as_tensor(value).reshape(-1)


def l1(image: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error of each image with values in [0, 1]: float64 `[B]`."""
    _check(image, original)
    return (image.double() - original.double()).abs().flatten(1).mean(dim=1) / 255.0


def l2(image: Tensor, original: Tensor) -> Tensor:
    """Mean squared error of each image with values in [0, 1]: float64 `[B]`."""
    _check(image, original)
    return ((image.double() - original.double()) / 255.0).square().flatten(1).mean(dim=1)


def seams(image: Tensor, original: Tensor, patch: int) -> Tensor:
    """How much more the borders of patches show than in the original: float64 `[B]`, in units of 1/255.

    The mean absolute step from a pixel to its neighbour across a border, less that inside patches, less the same of the
    original. It is 0 where borders do not show.

    Args:
        image: uint8 `[B, 3, H, W]`.
        original: the same shape.
        patch: side of a patch in pixels, above 1 and below the side of the image.
    """
    _check(image, original)
    if not 1 < patch < min(image.shape[-2:]):
        raise ValueError(f"`patch` ({patch}) must be between 2 and {min(image.shape[-2:]) - 1} pixels.")
    return _excess(image, patch) - _excess(original, patch)


def _excess(image: Tensor, patch: int) -> Tensor:
    """Mean absolute step across the borders of patches less that inside of them, of rows and columns alike."""
    across, inside = [], []
    for axis in (-1, -2):
        steps = image.double().diff(dim=axis).abs()
        border = torch.arange(steps.shape[axis]) % patch == patch - 1
        across.append(steps.index_select(axis, border.nonzero()[:, 0]).flatten(1))
        inside.append(steps.index_select(axis, (~border).nonzero()[:, 0]).flatten(1))
    return torch.cat(across, 1).mean(1) - torch.cat(inside, 1).mean(1)


def _check(image: Tensor, original: Tensor) -> None:
    """Errors of a metric call that would otherwise give a wrong number silently."""
    if image.dtype != torch.uint8 or original.dtype != torch.uint8:
        raise ValueError(f"Images to compare must be uint8, not {image.dtype} and {original.dtype}.")
    if image.shape != original.shape:
        raise ValueError(f"Images to compare differ in shape: {tuple(image.shape)} and {tuple(original.shape)}.")
