"""The training order as numbers: shares, blocks, ranks, positions."""

from collections import Counter

import pytest

from ddt_lightning.shards.order import BLOCK, Mixture, Order, Slot, lane_position, rank_batches


def test_every_block_holds_the_exact_shares():
    slots = [Slot(0, 0.5, "a"), Slot(0, 0.2, "b"), Slot(1, 0.3, "c"), Slot(1, 0.0, "never")]
    mixture = Mixture(slots, seed=3)
    for lane in range(3):
        for block in range(5):
            labels = Counter(mixture.slot(lane, block * BLOCK + i).label for i in range(BLOCK))
            assert labels == {"a": 50, "b": 20, "c": 30}


def test_shares_that_are_no_whole_per_cent_use_the_largest_remainder():
    mixture = Mixture([Slot(i, 1) for i in range(3)], seed=0)
    assert sorted(mixture.counts) == [33, 33, 34]


def test_blocks_differ_by_lane_block_and_seed():
    slots = [Slot(0, 1, "a"), Slot(1, 1, "b")]
    orders = [
        tuple(Mixture(slots, seed).slot(lane, block * BLOCK + i).source for i in range(BLOCK))
        for seed in (0, 1)
        for lane in (0, 1)
        for block in (0, 1)
    ]
    assert len(set(orders)) == len(orders)


def test_taken_counts_what_slot_gives():
    mixture = Mixture([Slot(0, 3), Slot(1, 2), Slot(0, 5)], seed=1)
    counts = Counter()
    for position in range(3 * BLOCK + 7):
        assert {s: mixture.taken(2, position, s) for s in (0, 1)} == {s: counts[s] for s in (0, 1)}
        counts[mixture.slot(2, position).source] += 1


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.5], [1.0, 0.001]])
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
