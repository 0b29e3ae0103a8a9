"""Cosine EMA quantizer: query features `[B,K,D]` to ids `[B,K]` and unit code vectors `[B,K,d]`.

The codebook is not trained by gradient: it follows an exponential moving average of the features assigned to each code.
Codes that fall out of use are replaced by features of the current batch. All statistics are summed over processes, and
the replacements are drawn from the global batch, so every process holds the same codebook. During a warm-up the decoder
gets the features themselves while the codebook already follows them: quantised from the first step, features cluster
around random codes before they mean anything, and hardly move again. Source: Selftok's quantizer
(commitment, gated entropy over per-position usage, relative dead-code threshold, position-weighted reactivation).
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt_lightning.distributed import summed, world
from ddt_lightning.tokens.diversity import mixed_entropy
from ddt_lightning.tokens.usage import (
    TINY,
    dead_codes,
    entropy,
    fold_usage,
    perplexities,
    perplexity_by_position,
    slices,
)

BLOCK = 256
"""Codes among which `nearest` looks for the largest cosine at a time."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Codebook and its losses.

    Args:
        warmup_steps: training steps without quantisation and its losses; the codebook follows the features meanwhile.
        decay: of the moving averages of codes and usage.
        commit_weight: weight of the commitment loss.
        diversity_weight: weight of the entropy loss over code usage.
        usage_memory: share of the running usage table in the entropy; the rest is the batch.
        diversity_full: usage (mean perplexity per position over codebook size) below which the entropy loss has full
            weight.
        diversity_none: usage above which it has none.
        dead_threshold: a code is dead when its moving hit count falls below this share of uniform use.
        temperature: of the softmax over cosines in the entropy loss.
        levels: no codebook but finite scalar quantisation with these levels (`tokens/fsq.py`), which has no losses.
    """

    warmup_steps: int = 250
    decay: float = 0.99
    commit_weight: float = 0.25
    diversity_weight: float = 0.1
    usage_memory: float = 0.8
    diversity_full: float = 0.1
    diversity_none: float = 0.3
    dead_threshold: float = 0.2
    temperature: float = 0.1
    levels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"`quantizer.warmup_steps` ({self.warmup_steps}) must not be negative.")
        if self.levels and min(self.levels) < 2:
            raise ValueError(f"`quantizer.levels` ({self.levels}) must be at least 2 each.")
        if not 0 < self.decay < 1:
            raise ValueError(f"`quantizer.decay` ({self.decay}) must lie between 0 and 1.")
        if not 0 <= self.diversity_full < self.diversity_none:
            raise ValueError(
                f"`quantizer.diversity_full` ({self.diversity_full}) must be below `quantizer.diversity_none` "
                f"({self.diversity_none})."
            )


@dataclass
class Quantized:
    """Output of a quantizer: `codes [B,K,d]` (straight-through), `ids [B,K]`, the loss and its parts.

    In training steps of the warm-up `codes` are the features and the loss is 0.
    """

    codes: Tensor
    ids: Tensor
    loss: Tensor
    logs: dict[str, Tensor]


@torch.no_grad()
def nearest_codes(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index int64 `[N]` of the code with the largest product, for every row of `[N, d]`; the first of equal ones.

    The largest of every block of codes is found first: `amax` is an order of magnitude faster than `argmax` on a CPU.
    """
    block = math.gcd(len(codebook), BLOCK)
    parts = slices(len(rows), len(codebook), rows.device)
    ids = torch.empty(len(rows), dtype=torch.long, device=rows.device)
    cosines = rows.new_empty(max((part.stop - part.start for part in parts), default=0), len(codebook))
    for part in parts:
        held = torch.mm(rows[part], codebook.T, out=cosines[: part.stop - part.start])
        blocks = held.unflatten(1, (-1, block))
        best = blocks.amax(-1).argmax(-1)
        ids[part] = best * block + blocks[torch.arange(len(held), device=held.device), best].argmax(-1)
    return ids


class Quantizer(nn.Module):
    """Codebook of unit vectors and the moving statistics that keep it.

    Args:
        config: losses and rates.
        tokens: K.
        codebook_size: C.
        code_dim: d.
        width: width of the incoming features.
    """

    codebook: Tensor
    code_sums: Tensor
    code_hits: Tensor
    usage: Tensor
    steps: Tensor

    def __init__(self, config: QuantizerConfig, tokens: int, codebook_size: int, code_dim: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = tokens
        self.project_in = nn.Linear(width, code_dim)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        codebook = F.normalize(torch.randn(codebook_size, code_dim), dim=-1)
        self.register_buffer("codebook", codebook)  # [C, d], unit rows
        self.register_buffer("code_sums", torch.zeros(codebook_size, code_dim))  # moving sum of assigned features
        self.register_buffer("code_hits", torch.zeros(codebook_size))  # moving number of hits
        self.register_buffer("usage", torch.full((tokens, codebook_size), 1 / codebook_size))  # P(code | position)
        # training batches so far: kept with the weights, so that trained ones never warm up again
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def features(self, queries: Tensor) -> Tensor:
        """Unit vectors `[B, K, d]` before quantisation, in fp32 whatever the autocast."""
        with torch.autocast(queries.device.type, enabled=False):
            return F.normalize(self.project_in(queries.float()), dim=-1)

    def nearest(self, features: Tensor) -> Tensor:
        """Ids int64 `[B, K]` of the codes with the largest cosine."""
        with torch.autocast(features.device.type, enabled=False):
            return nearest_codes(features.flatten(0, -2).float(), self.codebook).view(features.shape[:-1])

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes `[..., d]` of ids."""
        return self.codebook[ids]

    def forward(self, queries: Tensor, draws: torch.Generator) -> Quantized:
        """Quantise a training batch, compute its losses and update the codebook.

        Args:
            queries: encoder output `[B, K, D]`, this process's share of the global batch.
            draws: CPU generator for the replacement of dead codes; the same on every process.

        Returns:
            Codes of the codebook as it was before this batch, with the gradient passed straight through.
        """
        warming = self.training and int(self.steps) < self.config.warmup_steps
        u = self.features(queries)
        with torch.autocast(u.device.type, enabled=False):
            ids = self.nearest(u.detach())
            codes = self.codebook[ids]  # as they were before this batch; the codebook changes below
            commit = F.mse_loss(u, codes)
            if self.training:
                fold_usage(self.usage, ids, self.steps, self.config.decay)
            each = perplexity_by_position(self.usage)
            gate = self.diversity_gate(each.mean())
            counts = self.config.diversity_weight > 0 and not warming and gate > 0
            diversity = gate * self.diversity(u) if counts else torch.zeros_like(gate)
            revived = 0
            if self.training:
                revived = self.update_codes(u.detach(), ids, each, draws)
                self.steps += 1
        loss = self.config.commit_weight * commit - self.config.diversity_weight * diversity
        logs = {
            "commit": commit.detach(),
            "diversity": diversity.detach(),
            **perplexities(each),
            "perplexity": entropy(self.code_hits / self.code_hits.sum().clamp_min(TINY)).exp(),
            "dead_codes": dead_codes(self.usage, self.config.dead_threshold),
            "revived_codes": torch.full_like(commit, revived),  # in this step
        }
        if warming:
            return Quantized(u, ids, torch.zeros_like(loss), logs)
        return Quantized(u + (codes - u).detach(), ids, loss, logs)

    def diversity_gate(self, perplexity: Tensor) -> Tensor:
        """Weight of the entropy term: 0.5 at low usage, falling linearly to 0 at `diversity_none`."""
        low, high = self.config.diversity_full, self.config.diversity_none
        usage = perplexity / len(self.codebook)
        return (0.5 - 0.5 * (usage - low) / (high - low)).clamp(0, 0.5)

    def diversity(self, u: Tensor) -> Tensor:
        """The entropy of `tokens/diversity.py`, before gate and weight."""
        return mixed_entropy(u, self.codebook, self.usage, self.config.usage_memory, self.config.temperature)

    def dead_hits(self, batch: int) -> float:
        """Moving hit count below which a code is dead, for this many local samples."""
        _, processes = world()
        return self.config.dead_threshold * batch * processes * self.tokens / len(self.codebook)

    def centres(self) -> Tensor:
        """Codes `[C, d]` that the moving sums stand for."""
        return F.normalize(self.code_sums, dim=-1)

    @torch.no_grad()
    def update_codes(self, u: Tensor, ids: Tensor, perplexity: Tensor, draws: torch.Generator) -> int:
        """Move every code towards its features, then replace the dead ones; how many those were."""
        rows, flat = u.flatten(0, 1), ids.flatten()
        sums = torch.zeros_like(self.code_sums).index_add_(0, flat, rows)
        hits = torch.bincount(flat, minlength=len(self.codebook)).to(self.code_hits)
        both = summed(torch.cat([sums, hits[:, None]], dim=1))
        sums, hits = both[:, :-1], both[:, -1]
        if not self.steps:  # start from the random codebook at the weight of uniform use
            uniform = hits.sum() / len(self.codebook)
            self.code_sums.copy_(self.codebook * uniform)
            self.code_hits.fill_(uniform)
        decay = self.config.decay
        self.code_sums.mul_(decay).add_(sums, alpha=1 - decay)
        self.code_hits.mul_(decay).add_(hits, alpha=1 - decay)
        self.codebook.copy_(self.centres())
        return self.revive(u, perplexity, draws)

    def revive(self, u: Tensor, perplexity: Tensor, draws: torch.Generator) -> int:
        """Replace dead codes by features of the global batch, more often from positions that use few codes.

        The statistics of a replaced code start anew, at the weight below which it is dead. Its column of the usage
        table stays: the table counts ids, rows of it sum to 1, and what a dead code has left there is next to nothing.
        """
        threshold = self.dead_hits(len(u))
        dead = (self.code_hits < threshold).nonzero().flatten()
        if not len(dead):
            return 0
        rank, processes = world()
        spread = 1 / perplexity
        weights = (10 * spread / spread.max()).softmax(0).cpu()  # [K]
        position = torch.multinomial(weights, len(dead), replacement=True, generator=draws)
        sample = torch.randint(len(u) * processes, (len(dead),), generator=draws)
        mine = sample % processes == rank  # sample n of the global batch is on process n % processes
        picked = u[(sample // processes).to(u.device), position.to(u.device)]
        fresh = summed(picked * mine.to(u)[:, None])
        self.codebook[dead] = fresh
        self.code_sums[dead] = fresh * threshold
        self.code_hits[dead] = threshold
        return len(dead)
