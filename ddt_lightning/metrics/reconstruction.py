"""Closeness of reconstructions to their originals: PSNR, SSIM, L1 and L2 of each image.

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


def _check(image: Tensor, original: Tensor) -> None:
    """Errors of a metric call that would otherwise give a wrong number silently."""
    if image.dtype != torch.uint8 or original.dtype != torch.uint8:
        raise ValueError(f"Images to compare must be uint8, not {image.dtype} and {original.dtype}.")
    if image.shape != original.shape:
        raise ValueError(f"Images to compare differ in shape: {tuple(image.shape)} and {tuple(original.shape)}.")
