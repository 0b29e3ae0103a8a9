"""Frozen diffusers AutoencoderKL: images `[B,3,H,W]` in [-1, 1] to normalised latents `[B,c,H/f,W/f]` and back.

Source: SD3's VAE (16 channels, f=8) with its shift and scale, as used by DDT-LLaMA and Selftok.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn


class FrozenVae(nn.Module):
    """A VAE that is never trained and never saved with a run.

    Args:
        folder: a diffusers `AutoencoderKL` folder.

    Raises:
        FileNotFoundError: the folder holds no VAE.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"`model.vae` ({folder}) is not a diffusers AutoencoderKL folder.")
        self.vae = AutoencoderKL.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        self.shift = self.vae.config.shift_factor or 0.0
        self.scaling = self.vae.config.scaling_factor

    @property
    def scale(self) -> int:
        """Image pixels per latent pixel, f."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image to normalised latents: the posterior's mode, or its sample when standard normal `noise` is given."""
        posterior = self.vae.encode(image).latent_dist
        z = posterior.mode() if noise is None else posterior.mean + posterior.std * noise
        return (z - self.shift) * self.scaling

    def to_image(self, latents: Tensor) -> Tensor:
        """Normalised latents to an image, as it is and with a gradient, for losses on pixels."""
        return self.vae.decode(latents / self.scaling + self.shift).sample

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents to an image, clamped to [-1, 1]."""
        return self.to_image(latents).clamp(-1, 1)
