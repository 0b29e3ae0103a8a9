"""A raster tokenizer: every id stands for one cell of the image, row by row from the top left.

Nets of diffusers' `VQModel`, codes of the DDT tokenizer's own quantizer (unit vectors, compared by their cosine as in
ViT-VQGAN): both tokenizers then have the same codebook, kept alive in the same way, and differ in what a token is. By
default an image is 4 x 8 cells of 512 codes, exactly the 32 ids and 288 bits of the DDT default.
Source: VQGAN, Esser et al. 2021 (arXiv 2012.09841).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddt_lightning.spatial.autoencoder import SpatialConfig, SpatialTokenizer
from ddt_lightning.tokens.fsq import FiniteScalarQuantizer
from ddt_lightning.tokens.quantizer import Quantizer


@dataclass(frozen=True)
class VqganConfig(SpatialConfig):
    """A `SpatialConfig` with one id for each cell.

    Args:
        grid: rows and columns of cells.
    """

    grid: list[int] = field(default_factory=lambda: [4, 8])

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"`vqgan.grid` ({self.grid}) must be two numbers of at least 1: rows and columns.")
        super().__post_init__()

    @property
    def section(self) -> str:
        """Name of its options under `model`."""
        return "vqgan"

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the map of codes."""
        return self.grid[0], self.grid[1]

    @property
    def tokens(self) -> int:
        """K, ids per image: one for each cell."""
        return self.grid[0] * self.grid[1]


class Vqgan(SpatialTokenizer):
    """The raster tokenizer of VQGAN."""

    kind = "vqgan"
    config_class = VqganConfig
    config: VqganConfig
    quantizer: Quantizer | FiniteScalarQuantizer

    def __init__(self, config: VqganConfig) -> None:
        super().__init__(config)
        quantizer = FiniteScalarQuantizer if config.quantizer.levels else Quantizer
        width = config.nets.channels[-1]
        self.quantizer = quantizer(config.quantizer, config.tokens, config.codebook_size, config.code_dim, width)

    def quantise(self, features: Tensor, revival: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See `SpatialTokenizer`."""
        quantized = self.quantizer(features.flatten(2).mT, revival)
        return quantized.codes.mT.unflatten(2, self.config.cells), quantized.loss, quantized.logs

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to ids int64 `[B, K]`, row by row."""
        return self.quantizer.nearest(self.quantizer.features(self.encoder(latents).flatten(2).mT))

    def filler(self) -> Tensor:
        """Codes that replace missing ids: the mean code of each cell in training, `[K, code_dim]`."""
        codes = self.quantizer.lookup(torch.arange(self.config.codebook_size, device=self.quantizer.usage.device))
        return self.quantizer.usage @ codes

    def code_map(self, ids: Tensor) -> Tensor:
        """The codes of the first n cells, and the mean codes of the others."""
        missing = self.filler()[ids.shape[1] :].expand(len(ids), -1, -1)
        codes = torch.cat([self.embed(ids), missing], dim=1)  # [B, K, d]
        return codes.mT.unflatten(2, self.config.cells)
