"""Base of both spatial tokenizers: a convolutional encoder to a small map, a codebook, a convolutional decoder.

The nets are those of diffusers' `VQModel`, with two additions. Pixels are folded into channels before the first
convolution, as full resolution is what makes such nets slow on a CPU; and a last strided convolution merges the
encoder's square map into a grid of any shape, so that the ids can hold as many bits as those they are compared with.
Source: VQGAN, Esser et al. 2021 (arXiv 2012.09841).
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import Tensor, nn

from ddt_lightning.tokens.base import Draws, ImageTokenizer
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.solvers import Solver, euler


@dataclass(frozen=True)
class NetsConfig:
    """Sizes of encoder and decoder.

    Args:
        patch: side of the squares of latent pixels that are folded into channels first; 1 for none, as in VQGAN.
        channels: width of each level, the finest first; the side is halved from level to level.
        layers: residual blocks of the encoder in each level; the decoder has one more.
        groups: of the group norms.
        attention: whether the positions of the coarsest level attend to one another.
    """

    patch: int = 2
    channels: list[int] = field(default_factory=lambda: [32, 64, 112])
    layers: int = 1
    groups: int = 8
    attention: bool = True

    def __post_init__(self) -> None:
        for name in ("patch", "layers", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"`nets.{name}` ({getattr(self, name)}) must be at least 1.")
        if not self.channels or any(width < 1 or width % self.groups for width in self.channels):
            raise ValueError(f"`nets.channels` ({self.channels}) must be multiples of `nets.groups` ({self.groups}).")

    @property
    def factor(self) -> int:
        """Latent pixels along the side of a position of the coarsest level."""
        return self.patch * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class SpatialConfig:
    """Options that both spatial tokenizers share.

    Args:
        codebook_size: C.
        code_dim: width of a code.
        latent_channels: c; 3 for pixels.
        latent_size: side of the latents; the image's side for pixels.
        pixel_loss: l1 for the mean absolute error of the latents, l2 for the mean squared one.
        nets: sizes of encoder and decoder.
        quantizer: losses and rates of the codebook.
    """

    codebook_size: int = 512
    code_dim: int = 8
    latent_channels: int = 3
    latent_size: int = 64
    pixel_loss: Literal["l1", "l2"] = "l2"
    nets: NetsConfig = field(default_factory=NetsConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        for name in ("codebook_size", "code_dim", "latent_channels", "latent_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{self.section}.{name}` ({getattr(self, name)}) must be at least 1.")
        if self.latent_size % self.nets.factor:
            raise ValueError(
                f"`{self.section}.latent_size` ({self.latent_size}) must be a multiple of {self.nets.factor}: patch "
                f"{self.nets.patch}, halved {len(self.nets.channels) - 1} times by `{self.section}.nets`."
            )
        side, (rows, columns) = self.latent_size // self.nets.factor, self.cells
        if side % rows or side % columns:
            raise ValueError(
                f"`{self.section}` has {rows} x {columns} cells, into which the {side} x {side} map of its nets cannot "
                f"be merged: take divisors of {side}, or other `{self.section}.nets`."
            )

    @property
    def section(self) -> str:
        """Name of its options under `model`."""
        raise NotImplementedError

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the map of codes."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """K, ids per image."""
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, int]:
        """Positions of the coarsest level that make a cell, along its height and its width."""
        side, (rows, columns) = self.latent_size // self.nets.factor, self.cells
        return side // rows, side // columns

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config of a `config.json`."""
        parts = {"nets": NetsConfig, "quantizer": QuantizerConfig}
        return cls(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})


class MapEncoder(nn.Module):
    """Latents `[B, c, h, w]` to a map of features `[B, D, rows, columns]`, D the width of the coarsest level."""

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__()
        nets, width = config.nets, config.nets.channels[-1]
        self.fold = nn.PixelUnshuffle(nets.patch)
        self.net = Encoder(
            in_channels=config.latent_channels * nets.patch**2,
            out_channels=width,
            down_block_types=("DownEncoderBlock2D",) * len(nets.channels),
            block_out_channels=tuple(nets.channels),
            layers_per_block=nets.layers,
            norm_num_groups=nets.groups,
            double_z=False,
            mid_block_add_attention=nets.attention,
        )
        self.merge = nn.Conv2d(width, width, config.strides, config.strides)

    def forward(self, latents: Tensor) -> Tensor:
        """See the class."""
        return self.merge(self.net(self.fold(latents)))


class MapDecoder(nn.Module):
    """A map of codes `[B, code_dim, rows, columns]` to latents `[B, c, h, w]`."""

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__()
        nets, width = config.nets, config.nets.channels[-1]
        self.split = nn.ConvTranspose2d(config.code_dim, width, config.strides, config.strides)
        self.net = Decoder(
            in_channels=width,
            out_channels=config.latent_channels * nets.patch**2,
            up_block_types=("UpDecoderBlock2D",) * len(nets.channels),
            block_out_channels=tuple(nets.channels),
            layers_per_block=nets.layers,
            norm_num_groups=nets.groups,
            mid_block_add_attention=nets.attention,
        )
        self.unfold = nn.PixelShuffle(nets.patch)

    def forward(self, codes: Tensor) -> Tensor:
        """See the class."""
        return self.unfold(self.net(self.split(codes)))


class SpatialTokenizer(ImageTokenizer):
    """Encoder, codebook and decoder; what an id stands for is up to the two kinds."""

    order = "raster"
    error = "pixel"
    config: SpatialConfig

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__(config)
        self.encoder = MapEncoder(config)
        self.decoder = MapDecoder(config)

    def quantise(self, features: Tensor, revival: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features `[B, D, rows, columns]` to codes `[B, code_dim, rows, columns]`, with the loss and its parts."""
        raise NotImplementedError

    def code_map(self, ids: Tensor) -> Tensor:
        """The first n of K ids, `[B, n]`, to what the decoder sees of them, `[B, code_dim, rows, columns]`."""
        raise NotImplementedError

    def outcome(self, latents: Tensor, draws: Draws) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents through codes and back, with a gradient to everything, then what `loss` returns."""
        codes, quantisation, logs = self.quantise(self.encoder(latents), draws.revival)
        decoded = self.decoder(codes)
        measure = F.l1_loss if self.config.pixel_loss == "l1" else F.mse_loss
        pixel = measure(decoded, latents)
        return decoded, pixel + quantisation, {"pixel": pixel.detach(), **logs}

    def loss(self, latents: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the latents and the losses of the codebook; see `ImageTokenizer`."""
        _, loss, logs = self.outcome(latents, draws)
        return loss, logs

    def embed(self, ids: Tensor) -> Tensor:
        """Ids of the first n tokens `[B, n]` to their codes `[B, n, code_dim]`."""
        return self.quantizer.lookup(ids)

    @torch.no_grad()
    def decode(
        self,
        ids: Tensor,
        *,
        steps: int = 50,
        decode_guidance: float = 1.0,
        solver: Solver = euler,
        shift: float = 1.0,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The first n of K ids, `[B, n]`, to latents `[B, c, h, w]` in one pass; nothing is sampled.

        Args:
            ids: see `code_map` for what stands in for the others where n < K.
            steps: unused.
            decode_guidance: unused.
            solver: unused.
            shift: unused.
            noise: unused.
            generator: unused.
        """
        return self.decoder(self.code_map(ids))
