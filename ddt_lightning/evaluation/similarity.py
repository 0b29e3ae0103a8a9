"""Similarity of images and their reconstructions, pair by pair: PSNR, SSIM and LPIPS; and their cards."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from ddt_lightning.latents.pixels import PixelLatents, to_float, to_uint8
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.metrics.features import Lpips, full_precision
from ddt_lightning.metrics.reconstruction import psnr, ssim
from ddt_lightning.pipeline import Pipeline

PROTOCOLS = {
    "psnr": "PSNR of each uint8 image against the raw original, in dB, mean over images",
    "psnr_vae_ref": "as psnr, against the original as the VAE alone decodes it: higher, and not comparable with psnr",
    "ssim": "SSIM, Gaussian window 11 x 11, mean over images",
    "lpips": "LPIPS against the raw original, backbone from the file given, mean over images",
    "seams": "mean step between pixels across the borders of patches less that inside of patches, less the same of the "
    "original, in units of 1/255, mean over images",
}


@lru_cache(maxsize=1)
def lpips_of(path: str, device: str) -> Lpips:
    """The perceptual distance of this process."""
    return Lpips(path).to(device)


def similarity(pipeline: Pipeline, image: Tensor, original: Tensor, lpips: str | None) -> list[dict[str, float]]:
    """`psnr` and `ssim` of each image; where the latents are a VAE's `psnr_vae_ref`, and with weights `lpips`.

    Args:
        pipeline: for its latents and device.
        image: uint8 `[B, 3, H, W]`.
        original: the same shape.
        lpips: torchvision's weights of AlexNet or VGG-16.
    """
    found: dict[str, list[float]] = {"psnr": psnr(image, original).tolist(), "ssim": ssim(image, original).tolist()}
    device = next(pipeline.tokenizer.parameters()).device
    if not isinstance(pipeline.latents, PixelLatents):
        alone = pipeline.latents.decode(pipeline.latents.encode(to_float(original.to(device))))
        found["psnr_vae_ref"] = psnr(image, to_uint8(alone)).tolist()
    if lpips is not None:
        with full_precision(device):
            distance = lpips_of(lpips, str(device))(to_float(image.to(device)), to_float(original.to(device)))
        found["lpips"] = distance.tolist()
    return [{name: values[i] for name, values in found.items()} for i in range(len(image))]


def similarity_cards(
    prefix: str, found: Sequence[dict[str, Any]], names: Sequence[str] = tuple(PROTOCOLS)
) -> dict[str, Card]:
    """Cards `PREFIXNAME` of those `names` that were measured."""
    there = [name for name in PROTOCOLS if name in names and name in found[0]]
    return {f"{prefix}{name}": mean_card([one[name] for one in found], PROTOCOLS[name]) for name in there}
