"""A training step of decoder and quantizer: prefixes in groups and codes by index, against masks and dense one-hots.

The reference's way computes all K tokens under a mask and keeps one-hots and softmaxes `[B, K, C]`. Each candidate runs
in a process of its own, whose peak memory is read.
"""

import sys

import torch
import torch.nn.functional as F
from sizes import benchmark_config
from timing import each_alone, measure
from torch import Tensor

from ddt_lightning.tokens.diversity import position_groups
from ddt_lightning.tokens.flow import flow_error, interpolate
from ddt_lightning.tokens.schedule import visible_mask
from ddt_lightning.tokens.tokenizer import Tokenizer
from ddt_lightning.tokens.usage import entropy

BATCH = 8
WAYS = {"dense": "all tokens masked, dense one-hots", "ours": "prefix groups, codes by index"}


def dense_quantizer(tokenizer: Tokenizer, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and loss as the reference computes them, with the moving averages from one-hots; nothing is revived."""
    quantizer = tokenizer.quantizer
    config, size = quantizer.config, len(quantizer.codebook)
    u = quantizer.features(queries)
    cosines = u @ quantizer.codebook.clone().T
    ids = cosines.argmax(-1)
    one_hot = F.one_hot(ids, size).float()  # [B, K, C]
    codes = one_hot @ quantizer.codebook
    commit = F.mse_loss(u, codes)
    with torch.no_grad():
        quantizer.usage.mul_(config.decay).add_(one_hot.mean(0), alpha=1 - config.decay)
        sums = torch.einsum("bkc,bkd->cd", one_hot, u)
        quantizer.code_sums.mul_(config.decay).add_(sums, alpha=1 - config.decay)
        quantizer.code_hits.mul_(config.decay).add_(one_hot.sum((0, 1)), alpha=1 - config.decay)
        quantizer.codebook.copy_(F.normalize(quantizer.code_sums, dim=-1))
    p = (cosines / config.temperature).softmax(-1).mean(0)
    mixed = config.usage_memory * quantizer.usage + (1 - config.usage_memory) * p
    grouped = mixed.unflatten(0, (position_groups(quantizer.tokens), -1)).mean(1)
    diversity = 0.5 * 0.5 * (entropy(mixed).mean() + entropy(grouped).mean())
    return u + (codes - u).detach(), config.commit_weight * commit - config.diversity_weight * diversity


def step(way: str, tokenizer: Tokenizer, queries: Tensor, latents: Tensor, number: int) -> None:
    """Forward and backward of one batch."""
    g = torch.Generator().manual_seed(number)
    config = tokenizer.config
    t, noise = torch.rand(len(latents), generator=g), torch.randn(latents.shape, generator=g)
    x_t = interpolate(latents, noise, t)
    visible = visible_mask(config.schedule, config.tokens, t)
    if way == "dense":
        codes, loss = dense_quantizer(tokenizer, queries)
        output = tokenizer.output(x_t, t, tokenizer.token_norm(codes), visible)
    else:
        quantized = tokenizer.quantizer(queries, g)
        loss = quantized.loss
        output = tokenizer.grouped_output(x_t, t, tokenizer.token_norm(quantized.codes), visible)
    loss = loss + flow_error(output, x_t, latents, noise, t, config.head, config.loss).mean()
    tokenizer.zero_grad()
    loss.backward()


def main() -> None:
    """Print the table."""
    each_alone(f"training step of decoder and quantizer, batch {BATCH}", __file__, WAYS)


def run(way: str) -> None:
    """Measure one of the ways in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer(benchmark_config(4 if way == "ours" else 1)).train()
    config = tokenizer.config
    queries = torch.randn(BATCH, config.tokens, config.encoder.query_width)
    latents = torch.randn(BATCH, config.latent_channels, config.latent_size, config.latent_size)
    measure(lambda number: step(way, tokenizer, queries, latents, number))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        main()
