"""A multi-scale tokenizer: the first id stands for the whole image, later scales for what the earlier ones left over.

Ids are ordered scale by scale, each row by row. By default the scales are 1, 1, 1, 2, 3 and 4 cells wide with 512
codes: 32 ids and 288 bits, exactly those of the DDT default (1, 2, 3, 4 would have 30 ids). Source: VAR, Tian et al.
2024 (arXiv 2404.02905).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddt_lightning.spatial.autoencoder import SpatialConfig, SpatialTokenizer
from ddt_lightning.spatial.residual import ResidualQuantizer
from ddt_lightning.tokens.quantizer import QuantizerConfig


@dataclass(frozen=True)
class VarConfig(SpatialConfig):
    """A `SpatialConfig` with ids of several scales.

    Args:
        scales: cells along the side of each scale; the last is that of the map of codes.
        phis: convolutions that the scales share, spread evenly over them.
        phi_share: how much of a scale goes through its convolution, from 0 to 1.
    """

    scales: list[int] = field(default_factory=lambda: [1, 1, 1, 2, 3, 4])
    phis: int = 4
    phi_share: float = 0.5
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(diversity_weight=0.0))

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or self.scales != sorted(self.scales):
            raise ValueError(f"`var.scales` ({self.scales}) must be numbers of at least 1 that do not fall.")
        if not 1 <= self.phis <= len(self.scales):
            raise ValueError(f"`var.phis` ({self.phis}) must lie between 1 and the {len(self.scales)} scales.")
        if not 0 < self.phi_share <= 1:
            raise ValueError(f"`var.phi_share` ({self.phi_share}) must lie above 0 and at most at 1.")
        if self.quantizer.levels or self.quantizer.diversity_weight:
            raise ValueError(
                f"`var.quantizer.levels` ({self.quantizer.levels}) must be empty and `var.quantizer.diversity_weight` "
                f"({self.quantizer.diversity_weight}) 0: residuals have a codebook of their own length, not of unit "
                "vectors."
            )
        super().__post_init__()

    @property
    def section(self) -> str:
        """Name of its options under `model`."""
        return "var"

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the map of codes."""
        return self.scales[-1], self.scales[-1]

    @property
    def tokens(self) -> int:
        """K, ids per image: the cells of all scales."""
        return sum(side**2 for side in self.scales)


class Var(SpatialTokenizer):
    """The multi-scale tokenizer of VAR."""

    kind = "var"
    config_class = VarConfig
    config: VarConfig
    quantizer: ResidualQuantizer

    def __init__(self, config: VarConfig) -> None:
        super().__init__(config)
        self.quantizer = ResidualQuantizer(
            config.quantizer,
            config.scales,
            config.codebook_size,
            config.code_dim,
            config.nets.channels[-1],
            config.phis,
            config.phi_share,
        )

    def quantise(self, features: Tensor, revival: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See `SpatialTokenizer`."""
        quantized = self.quantizer(features, revival)
        return quantized.codes, quantized.loss, quantized.logs

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to ids int64 `[B, K]`, the coarsest scale first."""
        return self.quantizer.nearest(self.quantizer.features(self.encoder(latents)))

    def code_map(self, ids: Tensor) -> Tensor:
        """The sum of the scales that the first n ids reach; the missing ids of a begun scale add nothing."""
        return self.quantizer.total(ids)
