"""A small frozen network for distances between sets of pictures, where Inception's weights are not at hand.

The one of rendered scenes ships with the package (`scenes.safetensors`; `scenes.json` says how it was made and what
for); `ddt study encoder --shards` makes one of labelled photos. Its Frechet distance is called
`FD-<start of the file's SHA-256>` and never FID: the file defines the number, and another file gives another number.
"""

import hashlib
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning.metrics.features import full_precision

SHIPPED = Path(__file__).with_name("scenes.safetensors")
SIDE = 64
"""Side that images are brought to, the scenes' own."""


def file_hash(path: str | Path) -> str:
    """The first eight hexadecimal digits of a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def to_side(images: Tensor) -> Tensor:
    """Images uint8 `[B, 3, H, W]` as the network takes them: in [-1, 1], resized to its side with antialiasing."""
    pixels = images.float() / 127.5 - 1
    if pixels.shape[-2:] != (SIDE, SIDE):
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return pixels


class PictureEncoder(nn.Module):
    """Convolutions to 32 numbers of mean 0 and variance 1 over clean pictures.

    Few features, because the Frechet distance of N images is biased by their number squared over N. BatchNorm and not a
    norm within the image: in evaluation it is a fixed scale, so that contrast stays visible.
    """

    num_features = 32

    def __init__(self) -> None:
        super().__init__()

        def layer(channels: int, out: int, kernel: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.GELU())

        self.trunk = nn.Sequential(
            layer(3, 24, 4, 2),  # 32 x 32
            layer(24, 48, 4, 2),  # 16 x 16
            layer(48, 64, 3, 1),
            layer(64, 96, 4, 2),  # 8 x 8
            layer(96, 128, 3, 1),
            layer(128, 128, 4, 2),  # 4 x 4
        )
        self.project = nn.Sequential(nn.Conv2d(128, self.num_features, 4), nn.Flatten())
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("scale", torch.ones(self.num_features))

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> Self:
        """The frozen encoder of a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not one of this network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"`encoder` ({path}) does not exist: name a file that `ddt study encoder` wrote.")
        found = cls()
        try:
            found.load_state_dict(load_file(path))
        except Exception as error:  # whatever safetensors and torch say
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"`encoder` ({path}) was not written by `ddt study encoder`: {reason}") from error
        return found.requires_grad_(False).eval()

    def save(self, path: str | Path) -> None:
        """Write the weights."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)

    def raw(self, images: Tensor) -> Tensor:
        """Features before they are standardised, `[B, 32]`, of images in [-1, 1] `[B, 3, 64, 64]`."""
        return self.project(self.trunk(images))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features float32 `[B, 32]` of images uint8 `[B, 3, H, W]` of any side."""
        with full_precision(images.device):
            return (self.raw(to_side(images)) - self.mean) / self.scale
