"""Pixels: bytes to the range all networks work in, and pixels as latents for models that work on images directly."""

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] to uint8, rounded, on the CPU."""
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8).cpu()


class PixelLatents:
    """Images `[B,3,H,W]` in [-1, 1] are their own latents."""

    scale = 1

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the image; `noise` is unused, there is no posterior to sample."""
        return image

    def to_image(self, latents: Tensor) -> Tensor:
        """Return the latents as they are, for losses on pixels."""
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, clamped to [-1, 1]."""
        return latents.clamp(-1, 1)
