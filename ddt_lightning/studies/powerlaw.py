"""A power law through measured losses, with its error: `loss = c * x1^-a1 * x2^-a2 ...`.

In: positive factors (parameters, training tokens) and the losses measured there. Out: exponents with intervals. The fit
is ordinary least squares on logarithms; the covariance of its coefficients is `s^2 (X^T X)^-1` with `s^2` the residual
variance, and intervals are Student's with as many degrees of freedom as points beyond the coefficients. No irreducible
loss is fitted: a few sizes within a factor of ten cannot tell it from a smaller exponent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddt_lightning.metrics.intervals import student


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Args:
        constant: c.
        exponents: {factor: a}; positive where more of the factor lowers the loss.
        intervals: {factor: 95 % of its exponent}.
        residual: standard deviation of the logarithms around the law, a relative error of the loss.
        points: how many were fitted.
    """

    constant: float
    exponents: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    residual: float
    points: int

    def loss(self, factors: Mapping[str, float]) -> float:
        """The law's loss."""
        found = self.constant
        for name, exponent in self.exponents.items():
            found *= factors[name] ** -exponent
        return found


def fit(factors: Mapping[str, Sequence[float]], losses: Sequence[float]) -> PowerLaw:
    """The law through some points.

    Args:
        factors: {name: value at each point}, all above 0.
        losses: measured at each point, above 0.

    Raises:
        ValueError: too few points, or factors that do not vary, or only together.
    """
    columns = [np.log(np.asarray(values, dtype=np.float64)) for values in factors.values()]
    design = np.stack([np.ones(len(losses)), *(-column for column in columns)], axis=1)
    target = np.log(np.asarray(losses, dtype=np.float64))
    points, coefficients = design.shape
    if points <= coefficients or np.linalg.matrix_rank(design) < coefficients:
        raise ValueError(
            f"{points} points do not fix a power law of {', '.join(factors)}: it needs more than {coefficients}, at "
            "several values of each."
        )
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    free = points - coefficients
    variance = float(((target - design @ solution) ** 2).sum()) / free
    errors = np.sqrt(np.diag(variance * np.linalg.inv(design.T @ design)))
    half = student(free) * errors
    exponents = {name: float(value) for name, value in zip(factors, solution[1:], strict=True)}
    intervals = {name: (exponents[name] - float(wide), exponents[name] + float(wide))
                 for name, wide in zip(factors, half[1:], strict=True)}  # fmt: skip
    return PowerLaw(float(np.exp(solution[0])), exponents, intervals, variance**0.5, points)
