"""What the benchmarks of a GPU share: its peaks by a probe, seconds of a step, and the arithmetic of a model by hand.

Nothing is looked up by the name of a device: a share of a peak says how far a step is from the best that this device,
as it is driven now, did in a plain copy or a plain product.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from ddt_lightning.lm.llm import LlmConfig


def cuda(name: str) -> torch.device | None:
    """The GPU; without one a line that says that a benchmark is skipped."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    print(f"\n{name}: no CUDA device: skipped")
    return None


def seconds(run: Callable[[], object], device: torch.device, rounds: int = 5, warm: int = 2) -> float:
    """Median seconds of `run()`, all that it started on the device included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(warm + rounds):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm:])


def bandwidth(device: torch.device, size: int = 2**32) -> float:
    """Bytes a second between memory and processor: the better of a copy of `size` bytes and a sum over them."""
    source = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copy = 2 * size / seconds(lambda: target.copy_(source), device)
    read = size / seconds(source.sum, device)
    return max(copy, read)


def matmul_peak(device: torch.device, sides: Sequence[int] = (4096, 8192, 16384)) -> float:
    """Floating-point operations a second of the best square product in bf16."""
    rates = []
    for side in sides:
        a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
        rates.append(2 * side**3 / seconds(lambda a=a, b=b: a @ b, device))
    return max(rates)


def layer_weights(network: LlmConfig) -> int:
    """Weights of all products in the layers of a Llama: attention, and three matrices of its feed-forward."""
    width, shared = network.width, network.width // network.heads * network.kv_heads
    return network.depth * (2 * width * width + 2 * width * shared + 3 * width * network.ffn_width)


def training_flops(network: LlmConfig, vocab_size: int, lengths: Sequence[int]) -> int:
    """Floating-point operations of a training step, backward twice as many as forward; nothing recomputed.

    Args:
        network: sizes.
        vocab_size: rows of the head, which is applied where a label is scored: all but the first place of a document.
        lengths: of the documents, each of which attends to itself alone, causally: place t to t + 1 keys.
    """
    ids = sum(lengths)
    products = 2 * layer_weights(network) * ids + 2 * network.width * vocab_size * (ids - len(lengths))
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return 3 * (products + 4 * network.depth * network.width * pairs)


def decoding_bytes(network: LlmConfig, choices: int, rows: int, length: int, number: int = 2) -> int:
    """Bytes that one step of decoding has to read: the products' weights once, and each row's keys and values.

    Args:
        network: sizes.
        choices: rows of the head that are computed.
        rows: of the batch; two an image with guidance.
        length: ids that each row attends to.
        number: bytes of a number.
    """
    cache = 2 * network.depth * network.width // network.heads * network.kv_heads * length
    return number * (layer_weights(network) + choices * network.width + rows * cache)
