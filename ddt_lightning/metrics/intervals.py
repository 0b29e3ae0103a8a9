"""Intervals of means: over independent samples, over seeds, and by bootstrap."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def wilson(correct: int, number: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) without observations."""
    if number == 0:
        return 0.0, 1.0
    share, extra = correct / number, z * z / number
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / number + extra / number / 4) / (1 + extra)
    return max(middle - half, 0.0), min(middle + half, 1.0)


DRAWS = 2000


def bootstrap(values: np.ndarray, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of independent values `[n]`, over `DRAWS` resamplings."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[chosen].mean(1), (0.025, 0.975))
    return [float(low), float(high)]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        value: the mean.
        interval: 95 % by Student's distribution; None for a single seed.
        by_seed: what it is the mean of.
    """

    value: float
    interval: tuple[float, float] | None
    by_seed: list[float]

    def shown(self, form: str = ".2f") -> list[str]:
        """Two cells: the mean, and its interval."""
        if self.interval is None:
            return [format(self.value, form), ""]
        low, high = self.interval
        return [format(self.value, form), f"{low:{form}} to {high:{form}}"]


def over_seeds(values: Sequence[float]) -> Mean:
    """The mean of one value per seed with its interval."""
    from scipy.stats import t as student

    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Mean(mean, None, list(values))
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(student.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return Mean(mean, (mean - half, mean + half), list(values))


def paired(of: Mapping[int, float], to: Mapping[int, float], relative: bool = False) -> Mean | None:
    """Differences `of - to` seed by seed, relative to `to` if asked; None where no seed has both."""
    both = [seed for seed in of if seed in to]
    if not both:
        return None
    return over_seeds([(of[seed] - to[seed]) / (to[seed] if relative else 1.0) for seed in both])
