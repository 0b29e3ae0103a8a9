"""A head of 194k ids: loss and gradients without the logits, against full logits and torch's own chunked loss.

Each candidate runs in a process of its own, whose peak memory is read: what it needs above hidden states and head.
"""

import sys

import torch
import torch.nn.functional as F
from timing import each_alone, measure
from torch import Tensor

from ddt_lightning.lm.loss import linear_cross_entropy

POSITIONS, WIDTH, VOCAB, ROUNDS = 1024, 256, 128256 + 65536 + 2, 5
WAYS = {"full": "full logits", "ours": "lm.loss.linear_cross_entropy"}
if hasattr(F, "linear_cross_entropy"):
    WAYS["torch"] = "torch.nn.functional.linear_cross_entropy"


def loss(way: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies."""
    if way == "full":
        return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    if way == "torch":
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    return linear_cross_entropy(hidden, weight, targets)[0]


def run(way: str) -> None:
    """Measure one of the ways in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH).mul_(0.05).requires_grad_()
    targets = torch.randint(VOCAB, (POSITIONS,))

    def step(_: int) -> None:
        hidden.grad = weight.grad = None
        loss(way, hidden, weight, targets).backward()

    measure(step, 1 if way == "torch" else ROUNDS)  # torch's takes minutes on a CPU


def main() -> None:
    """Print the table."""
    each_alone(f"loss of {POSITIONS} positions, width {WIDTH}, {VOCAB} ids", __file__, WAYS, ROUNDS)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        main()
