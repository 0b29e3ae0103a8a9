"""Intervals over seeds."""

import pytest
from scipy.stats import ttest_1samp

from ddt_lightning.metrics.intervals import over_seeds, paired, share_over_seeds


def test_intervals_are_those_of_a_paired_t_test():
    of, to = {0: 3.0, 1: 3.5, 2: 2.9, 7: 9.0}, {0: 2.0, 1: 2.1, 2: 2.2, 8: 1.0}
    change = paired(of, to)
    low, high = ttest_1samp([of[n] - to[n] for n in range(3)], 0.0).confidence_interval(0.95)
    assert change is not None and change.interval == pytest.approx((low, high))
    share = paired(of, to, relative=True)
    assert share is not None and share.by_seed == pytest.approx([0.5, 3.5 / 2.1 - 1, 2.9 / 2.2 - 1])
    assert paired({1: 1.0}, {2: 1.0}) is None
    assert over_seeds([4.0]).shown() == ["4.00", ""]
    two = over_seeds([1.0, 2.0])  # Student's interval of two shares reaches far outside of 0 to 1: both are shown
    assert two.interval is None and two.shown() == ["1.50", "1.00, 2.00"]


def test_intervals_of_shares_end_where_shares_do():
    near_one, near_zero, within = [0.9, 1.0, 1.0], [0.0, 0.0, 0.1], [0.5, 0.52, 0.51]
    wide = over_seeds(near_one).interval
    assert wide is not None and wide[1] > 1.0
    assert share_over_seeds(near_one).interval == (wide[0], 1.0)
    assert share_over_seeds(near_zero).interval == pytest.approx((0.0, 1.0 - wide[0]))
    assert share_over_seeds(within) == over_seeds(within) and share_over_seeds([0.3]) == over_seeds([0.3])
