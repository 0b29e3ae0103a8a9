"""Residual quantizer over scales: a map `[B, d, n, n]` to ids `[B, K]`, each scale coding what is left of the map.

Scale by scale, what is left is averaged into the scale's cells, every cell takes the nearest code, and these codes,
enlarged and passed through a convolution (phi), are taken off. The map is then the sum of its scales. The convolutions
learn by gradient from the distance of every partial sum; the codebook follows its features as that of
`tokens.quantizer` does, with the same replacement of dead codes, but as means rather than unit vectors: residuals
differ in length. Source: VAR, Tian et al. 2024 (arXiv 2404.02905), algorithms 1 and 2; codebook by moving averages as
in RQ-VAE, Lee et al. 2022 (arXiv 2203.01941).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt_lightning.tokens.quantizer import Quantized, Quantizer, QuantizerConfig, nearest_codes
from ddt_lightning.tokens.usage import TINY, dead_codes, entropy, fold_usage, perplexities, perplexity_by_position


class ResidualQuantizer(Quantizer):
    """Residual quantizer over scales with a shared codebook.

    Args:
        config: losses and rates; without levels and diversity.
        scales: cells along the side of each scale; the last is that of the map.
        codebook_size: C, shared by all scales.
        code_dim: d.
        width: channels of the incoming map.
        phis: convolutions that the scales share.
        phi_share: how much of a scale goes through its convolution; the rest stays as it is.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        scales: Sequence[int],
        codebook_size: int,
        code_dim: int,
        width: int,
        phis: int,
        phi_share: float,
    ) -> None:
        super().__init__(config, sum(side**2 for side in scales), codebook_size, code_dim, width)
        self.scales = tuple(scales)
        self.phi_share = phi_share
        convolutions = [nn.Conv2d(code_dim, code_dim, 3, padding=1) for _ in range(phis)]
        for phi in convolutions:  # at first the map is the plain sum of its enlarged scales
            nn.init.dirac_(phi.weight)
            if phi.bias is not None:
                nn.init.zeros_(phi.bias)
        self.phis = nn.ModuleList(convolutions)

    def features(self, queries: Tensor) -> Tensor:
        """The map `[B, d, n, n]` to quantise, of the encoder's `[B, D, n, n]`: a unit vector at every position."""
        # of free length they would outgrow the codes during the warm-up
        return super().features(queries.movedim(1, -1)).movedim(-1, 1)

    def phi(self, scale: int) -> nn.Module:
        """The convolution of a scale: they are spread evenly from the first scale to the last."""
        last = len(self.scales) - 1
        return self.phis[min(scale * len(self.phis) // max(last, 1), len(self.phis) - 1)]

    def spread(self, codes: Tensor, scale: int) -> Tensor:
        """Contribution of a scale's codes `[B, side * side, d]` to the map `[B, d, n, n]`."""
        side, size = self.scales[scale], self.scales[-1]
        cells = codes.mT.unflatten(2, (side, side))
        if side < size:
            cells = F.interpolate(cells, size=(size, size), mode="bicubic")
        return torch.lerp(cells, self.phi(scale)(cells), self.phi_share)

    def nearest_rows(self, rows: Tensor) -> Tensor:
        """Ids `[B, n]` of the codes at the smallest distance from `[B, n, d]`."""
        # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest: a product with one more number on each side
        flat = F.pad(rows.flatten(0, 1), (0, 1), value=1.0)
        codes = torch.cat([self.codebook, -0.5 * self.codebook.square().sum(1, keepdim=True)], dim=1)
        return nearest_codes(flat, codes).view(rows.shape[:2])

    def walk(self, features: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Quantise a map scale by scale.

        Args:
            features: `[B, d, n, n]`, without gradient.

        Returns:
            Ids `[B, K]`, what they were chosen for `[B, K, d]`, and the sum `[B, d, n, n]` after each scale.
        """
        ids, rows, sums = [], [], []
        total = torch.zeros_like(features)
        for scale, side in enumerate(self.scales):
            left = features - total.detach()
            rows.append(F.interpolate(left, size=(side, side), mode="area").flatten(2).mT)
            ids.append(self.nearest_rows(rows[-1]))
            total = total + self.spread(self.codebook[ids[-1]], scale)
            sums.append(total)
        return torch.cat(ids, dim=1), torch.cat(rows, dim=1), sums

    @torch.no_grad()
    def nearest(self, features: Tensor) -> Tensor:
        """Ids int64 `[B, K]` of a map `[B, d, n, n]`."""
        with torch.autocast(features.device.type, enabled=False):
            return self.walk(features.float())[0]

    def total(self, ids: Tensor) -> Tensor:
        """The map `[B, d, n, n]` of the first n ids `[B, n]`; the missing ids of a begun scale add nothing."""
        size = self.scales[-1]
        total = self.codebook.new_zeros(len(ids), self.codebook.shape[1], size, size)
        start = 0
        for scale, side in enumerate(self.scales):
            known = ids[:, start : start + side**2]
            if not known.shape[1]:
                break
            codes = F.pad(self.lookup(known), (0, 0, 0, side**2 - known.shape[1]))
            total = total + self.spread(codes, scale)
            start += side**2
        return total

    def centres(self) -> Tensor:
        """Codes `[C, d]` that the moving sums stand for: means, whose length matters here."""
        return self.code_sums / self.code_hits.clamp_min(TINY)[:, None]

    def forward(self, queries: Tensor, draws: torch.Generator) -> Quantized:
        """Quantise a training batch, compute its losses and update the codebook.

        Args:
            queries: the encoder's map `[B, D, n, n]`, this process's share of the global batch.
            draws: CPU generator for the replacement of dead codes; the same on every process.

        Returns:
            Codes are the sum of all scales `[B, d, n, n]`, with the gradient passed straight through; in the warm-up
            the map itself, and the loss is then that of the convolutions alone.
        """
        warming = self.training and int(self.steps) < self.config.warmup_steps
        features = self.features(queries)
        with torch.autocast(features.device.type, enabled=False):
            fixed = features.detach()
            ids, rows, sums = self.walk(fixed)
            shape = torch.stack([F.mse_loss(part, fixed) for part in sums]).mean()
            commit = torch.stack([F.mse_loss(features, part.detach()) for part in sums]).mean()
            if self.training:
                fold_usage(self.usage, ids, self.steps, self.config.decay)
            each = perplexity_by_position(self.usage)
            revived = 0
            if self.training:
                revived = self.update_codes(rows, ids, each, draws)
                self.steps += 1
        logs = {
            "commit": commit.detach(),
            "residual": F.mse_loss(sums[-1].detach(), fixed) / fixed.var().clamp_min(TINY),  # share not coded
            **perplexities(each),
            "perplexity": entropy(self.code_hits / self.code_hits.sum().clamp_min(TINY)).exp(),
            "dead_codes": dead_codes(self.usage, self.config.dead_threshold),
            "revived_codes": torch.full_like(commit, revived),  # in this step
        }
        if warming:
            return Quantized(features, ids, shape, logs)
        codes = features + (sums[-1] - features).detach()
        return Quantized(codes, ids, shape + self.config.commit_weight * commit, logs)
