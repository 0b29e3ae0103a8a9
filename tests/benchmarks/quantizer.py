"""A training step of the quantizer against vector-quantize-pytorch: cosine codebook, moving averages, the same sizes.

Forward, update and backward of a batch. Both start from one codebook, one projection and the same moving averages; that
they then choose the same codes for as long as no code is replaced is checked first. The library has no usage by
position, which our rows include: the table is what decides about the diversity loss and which positions get new codes.
"""

import sys

import torch
from sizes import benchmark_config
from timing import alone, each_alone, measure
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from ddt_lightning.tokens.quantizer import Quantizer, QuantizerConfig

BATCH, STEPS = 8, 4
WAYS = {
    "theirs": "vector-quantize-pytorch",
    "ours": "ours",
    "theirs-diversity": "vector-quantize-pytorch, diversity loss",
    "ours-diversity": "ours, diversity loss",
}
SIZES = benchmark_config()


def build_ours(diversity: bool) -> Quantizer:
    """Our quantizer at the benchmark's sizes, from seed 0."""
    torch.manual_seed(0)
    config = QuantizerConfig(warmup_steps=0, commit_weight=1.0, diversity_weight=1.0 if diversity else 0.0)
    return Quantizer(config, SIZES.tokens, SIZES.codebook_size, SIZES.code_dim, SIZES.encoder.query_width).train()


def build_theirs(diversity: bool) -> VectorQuantize:
    """The library's, in the same state as a fresh one of ours, and like ours without a projection behind it."""
    ours = build_ours(diversity)
    uniform = BATCH * SIZES.tokens / SIZES.codebook_size
    theirs = VectorQuantize(
        SIZES.encoder.query_width,
        SIZES.codebook_size,
        codebook_dim=SIZES.code_dim,
        decay=ours.config.decay,
        use_cosine_sim=True,
        threshold_ema_dead_code=ours.dead_hits(BATCH),
        commitment_weight=ours.config.commit_weight,
        codebook_diversity_loss_weight=ours.config.diversity_weight,
        codebook_diversity_temperature=1 / ours.config.temperature,  # it multiplies by it
        rotation_trick=False,
    ).train()
    theirs.project_out = nn.Identity()
    theirs.project_in.load_state_dict(ours.project_in.state_dict())
    theirs.codebook = ours.codebook
    theirs._codebook.embed_avg.copy_(uniform * ours.codebook)
    theirs._codebook.cluster_size.fill_(uniform)
    return theirs


def batch(number: int) -> Tensor:
    """Encoder output of step `number`."""
    g = torch.Generator().manual_seed(number)
    return torch.randn(BATCH, SIZES.tokens, SIZES.encoder.query_width, generator=g).requires_grad_()


def agreement() -> None:
    """Print the share of ids that are the same over some steps of both."""
    ours, theirs = build_ours(False), build_theirs(False)
    same = []
    for number in range(STEPS):
        queries = batch(number)
        same.append(ours(queries, torch.Generator()).ids == theirs(queries)[1])
    print(torch.stack(same).float().mean().item())


def run(way: str) -> None:
    """Measure one of the ways in this process."""
    torch.set_num_threads(1)
    diversity = way.endswith("diversity")
    if way.startswith("ours"):
        ours = build_ours(diversity)

        def step(number: int) -> None:
            quantized = ours(batch(number), torch.Generator().manual_seed(number))
            (quantized.codes.square().sum() + quantized.loss).backward()
    else:
        theirs = build_theirs(diversity)

        def step(number: int) -> None:
            codes, _, loss = theirs(batch(number))
            (codes.square().sum() + loss).backward()

    measure(step)


def main() -> None:
    """Print the table."""
    each_alone(f"quantizer, forward, update and backward, batch {BATCH}", __file__, WAYS)
    print(f"the same codes chosen over {STEPS} steps: {100 * alone(__file__, 'agreement')[0]:.3f} %")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "agreement":
        agreement()
    else:
        run(sys.argv[1])
