"""The power law against data that follow one, and against scipy's line through logarithms."""

import numpy as np
import pytest
from scipy.stats import linregress, t

from ddt_lightning.studies.powerlaw import fit

SIZES, IDS = np.repeat([1e5, 3e5, 1e6], 3), np.tile([5e5, 7.5e5, 1e6], 3)


def test_known_exponents_are_found():
    losses = 9.0 * SIZES**-0.08 * IDS**-0.13
    law = fit({"parameters": SIZES, "ids": IDS}, losses)
    assert law.constant == pytest.approx(9.0) and law.exponents == pytest.approx({"parameters": 0.08, "ids": 0.13})
    assert law.residual < 1e-10 and law.points == 9
    assert law.loss({"parameters": 2e6, "ids": 4e6}) == pytest.approx(9.0 * 2e6**-0.08 * 4e6**-0.13)


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        losses = 9.0 * SIZES**-0.08 * IDS**-0.13 * np.exp(0.02 * rng.standard_normal(9))
        for name, (low, high) in fit({"parameters": SIZES, "ids": IDS}, losses).intervals.items():
            held.append(low <= {"parameters": 0.08, "ids": 0.13}[name] <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_one_factor_is_a_line_through_logarithms():
    losses = 3.0 * SIZES**-0.2 * np.exp(0.05 * np.random.default_rng(1).standard_normal(9))
    law, line = fit({"parameters": SIZES}, losses), linregress(np.log(SIZES), np.log(losses))
    assert law.exponents["parameters"] == pytest.approx(-line.slope)
    half = t.ppf(0.975, 7) * line.stderr
    assert law.intervals["parameters"] == pytest.approx((-line.slope - half, -line.slope + half))
    assert np.log(law.constant) == pytest.approx(line.intercept)


@pytest.mark.parametrize(
    ("sizes", "ids"),
    [([1e5, 2e5, 3e5], [1e5, 2e5, 3.5e5]), ([1e5] * 6, np.arange(1, 7)), (np.arange(1, 7), 2.0 * np.arange(1, 7))],
)
def test_points_that_fix_no_law(sizes, ids):
    with pytest.raises(ValueError, match="do not fix a power law"):
        fit({"parameters": sizes, "ids": ids}, np.linspace(3, 2, len(sizes)))
