"""Pixels as latents: the identity, for models that work on images directly."""

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
