"""Random draws that belong to a sample, not to a process.

Every random number of a training step is keyed by what it is for and by the sample's number in the endless training
order, e.g. ``("noise", seed, sample)``. One process and N processes with the same global batch therefore draw the same
numbers, and a resumed run repeats an uninterrupted one without any stored generator state.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

Seed = int | Sequence[int]
"""One number for each sample, or one that is counted up."""


def key_bits(*key: int | str) -> int:
    """A 64-bit integer that depends on every part of `key` and on nothing else (not on `PYTHONHASHSEED`)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on `key` alone."""
    return torch.Generator().manual_seed(key_bits(*key) & 0x7FFF_FFFF_FFFF_FFFF)


def numpy_rng(*key: int | str) -> np.random.Generator:
    """A numpy generator whose stream depends on `key` alone."""
    return np.random.Generator(np.random.PCG64(key_bits(*key)))


def normal(shape: tuple[int, ...], *key: int | str, samples: Tensor, threads: int = 1) -> Tensor:
    """Standard normal noise, one independent stream per sample.

    Args:
        shape: shape of one sample's noise.
        key: what the draw is for, with the run's seed.
        samples: int64 `[B]`, global sample numbers.
        threads: draw for so many samples at a time; the result is the same.

    Returns:
        float32 `[B, *shape]` on the CPU.
    """

    def draw(sample: int) -> Tensor:
        return torch.randn(shape, generator=generator(*key, sample))

    if threads == 1:
        return torch.stack([draw(n) for n in samples.tolist()])
    with ThreadPoolExecutor(threads) as pool:
        return torch.stack(list(pool.map(draw, samples.tolist())))


def uniform(*key: int | str, samples: Tensor) -> Tensor:
    """One number in [0, 1) per sample: float32 `[B]` on the CPU. Arguments as in `normal`."""
    return torch.stack([torch.rand((), generator=generator(*key, int(n))) for n in samples.tolist()])


def stratified(*key: int | str, samples: Tensor, batch: int) -> Tensor:
    """Numbers in [0, 1) that cover it evenly: the samples of a global batch fall into `batch` equal parts, one each.

    Args:
        key: what the draw is for, with the run's seed.
        samples: int64 `[B]`, global sample numbers; those of global batch s are `s * batch .. (s + 1) * batch - 1`.
        batch: size of the global batch.

    Returns:
        float32 `[B]` on the CPU, uniform for each sample alone.
    """
    numbers = samples.tolist()
    steps = {step: numpy_rng(*key, "parts", step).permutation(batch) for step in {n // batch for n in numbers}}
    parts = torch.tensor([steps[n // batch][n % batch] for n in numbers], dtype=torch.float32)
    return ((parts + uniform(*key, samples=samples)) / batch).clamp_max(1 - 2**-24)


def each_seed(seed: Seed, count: int) -> list[int]:
    """One seed for each sample; a ValueError where a list has another length."""
    if isinstance(seed, int):
        return [seed + n for n in range(count)]
    if len(seed) != count:
        raise ValueError(f"`seed` has {len(seed)} numbers for {count} samples.")
    return [int(n) for n in seed]
