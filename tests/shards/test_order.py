"""The training order as numbers: shares, ranks, positions."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from ddt_lightning.shards.order import (
    CYCLE,
    Mixture,
    Order,
    Slot,
    exact,
    lane_position,
    rank_batches,
    spread,
    whole_counts,
)

WEIGHTS = {
    "per cent": [0.7, 0.2, 0.1],
    "thirds": [1, 1, 1],
    "rare": [0.995, 0.0049, 0.0001],
    "many": [3, 1, 4, 1, 5, 9, 2, 6],
    "one": [2.5],
    "even": [1, 1],
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("lane", [0, 3])
def test_every_stretch_of_a_lane_holds_the_shares(weights, lane):
    mixture = Mixture([Slot(i, weight) for i, weight in enumerate(weights)], seed=lane)
    shares = np.array(weights) / sum(weights)
    sources = np.array([mixture.slot(lane, position).source for position in range(2 * len(mixture.cycle) + 50)])
    counts = np.concatenate([np.zeros((1, len(weights))), np.cumsum(sources[:, None] == np.arange(len(weights)), 0)])
    rng = np.random.default_rng(0)
    for begin, length in zip(rng.integers(0, 50, 300), rng.integers(1, 2 * len(mixture.cycle), 300), strict=True):
        found = counts[begin + length] - counts[begin]
        assert (abs(found - shares * length) <= 2).all(), (begin, length, found)
    whole = counts[17 + len(mixture.cycle)] - counts[17]
    assert whole.tolist() == pytest.approx(list(shares * len(mixture.cycle)))  # exactly, not within 2


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
def test_first_members_of_a_spread_are_within_the_bound_of_the_theorem(weights):
    counts = whole_counts([exact(weight) for weight in weights])
    given = np.cumsum(np.array(spread(counts))[:, None] == np.arange(len(counts)), axis=0)
    wanted = np.arange(1, sum(counts) + 1)[:, None] * np.array(counts) / sum(counts)
    assert abs(given - wanted).max() <= 1 - 1 / max(2 * len(counts) - 2, 1) + 1e-9


@pytest.mark.parametrize("lanes", [1, 4, 6, 16])
def test_every_global_batch_holds_the_shares(lanes):
    """Lanes begin apart from each other, so few samples of all lanes together hold the shares as well."""
    slots = [Slot(0, 0.6), Slot(1, 0.3), Slot(2, 0.1)]
    mixture = Mixture(slots, seed=5)
    sources = np.array([mixture.slot(n % lanes, n // lanes).source for n in range(100 * 64)]).reshape(100, 64)
    for slot in slots:
        found = (sources == slot.source).sum(1)
        assert abs(found - 64 * slot.weight).max() <= 2 + lanes / 2
        assert abs(found.sum() - 6400 * slot.weight) <= 2 * lanes


def test_cycles_are_as_short_as_the_shares_allow():
    def counts(*weights):
        return whole_counts([exact(weight) for weight in weights])

    assert counts(0.7, 0.2, 0.1) == [7, 2, 1]
    assert counts(1, 1, 1) == [1, 1, 1]
    assert counts(Fraction(1, 3), Fraction(1, 6), 0.5) == [2, 1, 3]
    assert counts(0.1 + 0.2, 0.7) == [3000, 7000]  # 0.30000000000000004: the nearest
    assert sum(counts(0.123456789, 0.2, 0.3)) == CYCLE


def test_lanes_and_seeds_begin_elsewhere():
    slots = [Slot(0, 50, "a"), Slot(1, 37, "b"), Slot(2, 13, "c")]

    def order(seed, lane):
        return tuple(Mixture(slots, seed).slot(lane, position).source for position in range(100))

    assert len({order(0, lane) for lane in range(4)}) == 4
    assert order(0, 0) != order(1, 0)


def test_taken_counts_what_slot_gives():
    mixture = Mixture([Slot(0, 3), Slot(1, 2), Slot(0, 5)], seed=1)
    counts = Counter()
    for position in range(307):
        assert {s: mixture.taken(2, position, s) for s in (0, 1)} == {s: counts[s] for s in (0, 1)}
        counts[mixture.slot(2, position).source] += 1


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.5], [1.0, 0.00001]])
def test_impossible_shares_are_refused(weights):
    with pytest.raises(ValueError, match="share"):
        Mixture([Slot(i, weight) for i, weight in enumerate(weights)], seed=0)


@pytest.mark.parametrize(("world", "lanes", "start"), [(1, 4, 0), (2, 4, 24), (3, 6, 12), (4, 4, 36)])
def test_ranks_share_each_global_batch(world, lanes, start):
    ranks = [rank_batches(Order(0, 12, lanes, 1, rank=rank, world=world), start) for rank in range(world)]
    for batch in range(5):
        parts = [next(rank)[0] for rank in ranks]
        assert {len(part) for part in parts} == {12 // world}
        assert sorted(n for part in parts for n in part) == list(range(start + 12 * batch, start + 12 * batch + 12))
        for rank, part in enumerate(parts):
            assert all(n % lanes % world == rank for n in part)


def test_lane_position_counts_the_lane():
    for start in range(30):
        for lane in range(4):
            assert lane_position(start, lane, 4) == sum(n % 4 == lane for n in range(start))
