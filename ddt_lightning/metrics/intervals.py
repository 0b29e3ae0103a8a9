"""95 % intervals of means and shares: over independent samples, over seeds, and by bootstrap."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

DRAWS = 2000
"""Resamplings of a bootstrap."""
TAIL = 0.975
NORMAL = NormalDist().inv_cdf(TAIL)
"""The half-width of the interval in standard errors, for many samples."""


def student(free: int) -> float:
    """The half-width of the interval in standard errors, for a variance of `free` degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(TAIL, free))


def wilson(correct: int, number: int) -> tuple[float, float]:
    """Wilson's interval of a share; (0, 1) without observations."""
    if number == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(correct, number).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def around_mean(values: Sequence[float] | np.ndarray, width: float) -> tuple[float, float]:
    """The interval of the mean of two or more independent values, `width` standard errors to either side."""
    numbers = np.asarray(values, dtype=np.float64)
    mean, half = float(numbers.mean()), width * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return mean - half, mean + half


def percentiles(means: np.ndarray) -> tuple[float, float]:
    """The interval between the percentiles of resampled means."""
    low, high = np.quantile(means, (1 - TAIL, TAIL))
    return float(low), float(high)


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean of independent values.

    Args:
        values: `[n]`; one value has an interval of no width.
        seed: of `DRAWS` resamplings with `numpy.random.default_rng`; equal seeds and values give equal intervals.
    """
    chosen = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    return percentiles(values[chosen].mean(1))


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        value: the mean.
        interval: by Student's distribution; None for one or two seeds, where it would say nothing.
        by_seed: the value of each seed.
    """

    value: float
    interval: tuple[float, float] | None
    by_seed: list[float]

    def shown(self, form: str = ".2f") -> list[str]:
        """Two cells: the mean, and its interval; of two seeds both values, of one nothing."""
        if self.interval is not None:
            low, high = self.interval
            spread = f"{low:{form}} to {high:{form}}"
        else:
            spread = ", ".join(format(value, form) for value in self.by_seed) if len(self.by_seed) == 2 else ""
        return [format(self.value, form), spread]


def spread_title(seeds: int) -> str:
    """The title of the column of `Mean.shown`'s second cell, in a table of so many seeds."""
    return "both" if seeds == 2 else "95 %"


def over_seeds(values: Sequence[float]) -> Mean:
    """The mean of one value per seed."""
    interval = around_mean(values, student(len(values) - 1)) if len(values) > 2 else None
    return Mean(sum(values) / len(values), interval, list(values))


def share_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of one share per seed; its interval ends at 0 and 1, beyond which no share can lie."""
    mean = over_seeds(values)
    return replace(mean, interval=(max(0.0, mean.interval[0]), min(1.0, mean.interval[1]))) if mean.interval else mean


def paired(of: Mapping[int, float], to: Mapping[int, float], relative: bool = False) -> Mean | None:
    """Differences `of - to` seed by seed, relative to `to` if asked; None where no seed has both."""
    both = [seed for seed in of if seed in to]
    if not both:
        return None
    return over_seeds([(of[seed] - to[seed]) / (to[seed] if relative else 1.0) for seed in both])
