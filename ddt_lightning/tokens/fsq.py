"""Finite scalar quantizer: query features `[B,K,D]` to ids `[B,K]` without a codebook to keep alive.

Every feature is projected to a few numbers, each bounded and rounded to one of its levels; an id is the place of that
combination. Nothing is learned but the two projections, so there are no dead codes and no losses. The interface
is that of `quantizer.Quantizer`. Source: Mentzer et al. 2023; Selftok's training variant, levels 4^7.
"""

import math

import torch
from torch import Tensor, nn

from ddt_lightning.tokens.quantizer import Quantized, QuantizerConfig
from ddt_lightning.tokens.usage import dead_codes, entropy, fold_usage, perplexities, perplexity_by_position

MARGIN = 1e-3
"""Distance inside the outermost half step at which the bound keeps its values."""


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantizer with the interface of `Quantizer`.

    Args:
        config: levels; rates of the usage table.
        tokens: K.
        codebook_size: C, the product of the levels.
        code_dim: d, width of the token vectors.
        width: width of the incoming features.
    """

    usage: Tensor
    steps: Tensor
    level_counts: Tensor
    places: Tensor

    def __init__(self, config: QuantizerConfig, tokens: int, codebook_size: int, code_dim: int, width: int) -> None:
        super().__init__()
        if math.prod(config.levels) != codebook_size:
            raise ValueError(
                f"`quantizer.levels` ({config.levels}) make {math.prod(config.levels)} codes, not codebook_size "
                f"({codebook_size})."
            )
        self.config = config
        self.tokens = tokens
        self.project_in = nn.Linear(width, len(config.levels))
        self.project_out = nn.Linear(len(config.levels), code_dim)
        levels = torch.tensor(config.levels)
        self.register_buffer("level_counts", levels, persistent=False)
        places = torch.cat([torch.ones(1, dtype=torch.long), levels.cumprod(0)[:-1]])
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("usage", torch.full((tokens, codebook_size), 1 / codebook_size))  # P(code | position)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # training batches so far

    def features(self, queries: Tensor) -> Tensor:
        """Bounded numbers `[B, K, n]` before rounding, in fp32: level l of L is at `l - (L-1)/2`."""
        with torch.autocast(queries.device.type, enabled=False):
            half = (self.level_counts - 1) / 2 + 0.5 - MARGIN
            return half * self.project_in(queries.float()).tanh()

    def rounded(self, features: Tensor) -> Tensor:
        """The nearest levels, int64 `[B, K, n]` from 0."""
        lowest = (self.level_counts - 1) / 2
        return torch.minimum((features + lowest).round().long().clamp_min(0), self.level_counts - 1)

    def nearest(self, features: Tensor) -> Tensor:
        """Ids int64 `[B, K]` of bounded features."""
        return (self.rounded(features) * self.places).sum(-1)

    def levels(self, ids: Tensor) -> Tensor:
        """Numbers in [-1, 1] that ids stand for, `[..., n]`."""
        level = ids[..., None] // self.places % self.level_counts
        return 2 * level / (self.level_counts - 1) - 1

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes `[..., d]` of ids."""
        return self.project_out(self.levels(ids))

    def forward(self, queries: Tensor, draws: torch.Generator) -> Quantized:
        """Quantise a batch; the gradient passes straight through the rounding.

        Args:
            queries: encoder output `[B, K, D]`.
            draws: unused, there is nothing to revive.
        """
        warming = self.training and int(self.steps) < self.config.warmup_steps
        features = self.features(queries)
        with torch.autocast(features.device.type, enabled=False):
            ids = self.nearest(features.detach())
            smooth = 2 * features / (self.level_counts - 1)
            codes = self.project_out(smooth if warming else smooth + (self.levels(ids) - smooth).detach())
            if self.training:
                fold_usage(self.usage, ids, self.steps, self.config.decay)
                self.steps += 1
        logs = {
            **perplexities(perplexity_by_position(self.usage)),
            "perplexity": entropy(self.usage.mean(0)).exp(),
            "dead_codes": dead_codes(self.usage, self.config.dead_threshold),
        }
        return Quantized(codes, ids, codes.new_zeros(()), logs)
