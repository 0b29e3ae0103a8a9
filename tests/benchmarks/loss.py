"""A head of 194k ids: loss and gradients without the logits, against full logits and torch's own chunked loss.

Each candidate runs in a process of its own, whose peak memory is read: what it needs above hidden states and head.
"""

import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from ddt_lightning.lm.loss import linear_cross_entropy

POSITIONS, WIDTH, VOCAB, ROUNDS = 2048, 256, 128256 + 65536 + 2, 3
WAYS = {
    "full": "full logits",
    "torch": "torch.nn.functional.linear_cross_entropy",
    "ours": "lm.loss.linear_cross_entropy",
}


def loss(way: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies."""
    if way == "full":
        return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    if way == "torch":
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    return linear_cross_entropy(hidden, weight, targets)[0]


def measure(way: str) -> None:
    """Print median seconds of loss and gradients, and the process's peak memory in GiB above what it had before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH).mul_(0.05).requires_grad_()
    targets = torch.randint(VOCAB, (POSITIONS,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        loss(way, hidden, weight, targets).backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(statistics.median(seconds), peak / 2**20)


def main() -> None:
    """Print the table."""
    has_own = hasattr(F, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions")
    found = {}
    for way in WAYS:
        if way == "torch" and not has_own:
            continue
        done = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
        found[way] = [float(number) for number in done.stdout.split()]
    print(f"\nloss of {POSITIONS} positions, width {WIDTH}, {VOCAB} ids (medians of {ROUNDS}, one process each)")
    print(f"{'':<44}{'seconds':>10}{'speed':>8}{'GiB':>8}{'memory':>8}")
    for way, (seconds, peak) in found.items():
        speed, memory = found["full"][0] / seconds, peak / found["full"][1]
        print(f"{WAYS[way]:<44}{seconds:>10.3f}{speed:>7.2f}x{peak:>8.2f}{memory:>7.2f}x")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()
