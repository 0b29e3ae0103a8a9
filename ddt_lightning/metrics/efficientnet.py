"""EfficientNet-Lite0, a frozen ImageNet classifier: features of photos for distances, and the classes they show.

Source: EfficientNet (Tan and Le 2019, arXiv 1905.11946) in its Lite form, without squeeze-and-excitation
and with ReLU6. Its Frechet distance is called `FD-EfficientNetLite0-<start of the file's SHA-256>` and never FID.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddt_lightning.metrics.features import full_precision, read_tensors

SIDE = 224
"""Side that images are brought to."""
BLOCKS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"""Stages: number of blocks, kernel, stride of the first one, factor of the inner width, width."""


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: what does not divide goes right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', ceil(H / stride), ceil(W / stride)]`."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        return super().forward(F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)))


def norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedBlock(nn.Module):
    """Inverted bottleneck: widen, convolve each channel, narrow; with a skip where the shape stays."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, factor: int) -> None:
        super().__init__()
        inner = channels * factor
        self.widens = factor > 1
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(channels, inner, 1), norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, groups=inner), norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, out, 1), norm(out)
        self.skips = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', H', W']`."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """The classifier of ImageNet's 1,000 classes; called, it gives features.

    Args:
        path: weights, such as `make judges` writes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not one of this network.
    """

    num_features = 1280

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        width, blocks = 32, []
        self._conv_stem, self._bn0 = SameConv(3, width, 3, 2), norm(width)
        for number, kernel, stride, factor, out in BLOCKS:
            for place in range(number):
                blocks.append(InvertedBlock(width, out, kernel, stride if place == 0 else 1, factor))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(width, self.num_features, 1), norm(self.num_features)
        self._fc = nn.Linear(self.num_features, 1000)
        weights = read_tensors(path, "backbone", "the efficientnet_lite0.safetensors of `make judges`")
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"`backbone` ({path}) is not EfficientNet-Lite0: {reason}") from error
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features float32 `[B, 1280]`, the mean over the last convolution, of images uint8 `[B, 3, H, W]`."""
        with full_precision(images.device):
            pixels = images.float()
            if pixels.shape[-2:] != (SIDE, SIDE):
                pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
            pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
            x = F.relu6(self._bn0(self._conv_stem(pixels)))
            return F.relu6(self._bn1(self._conv_head(self._blocks(x)))).mean((2, 3))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits `[B, 1000]` of ImageNet's classes in the order of their WordNet ids."""
        features = self(images)
        with full_precision(images.device):
            return self._fc(features)
