"""Pixels as latents: the identity, for models that work on images directly; and images as bytes."""

import torch
from torch import Tensor


class Pixels:
    """Images `[B,3,H,W]` in [-1, 1] are their own latents."""

    scale = 1

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the image; `noise` is unused, there is no posterior to sample."""
        return image

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, clamped to [-1, 1]."""
        return latents.clamp(-1, 1)


def to_float(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] to uint8, rounded, on the CPU."""
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8).cpu()
