"""Which sample comes when: numbers only, nothing is read.

In: a seed, a global batch size, shares. Out: for each position of each lane the slot (source and label) it takes its
sample from, and for each rank and worker the global sample numbers of its batches.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch.utils.data import get_worker_info

from ddt_lightning.seeding import key_bits

BLOCK = 100  # positions of a lane that hold the exact shares: a share is a whole number of per cent


@dataclass(frozen=True)
class Slot:
    """A share of the training stream.

    Args:
        source: number of the source it takes its samples from; several slots may share one.
        weight: its share, relative to the other slots.
        label: what to do with its samples, passed to the decoder.
    """

    source: int
    weight: float
    label: str = ""


@dataclass(frozen=True)
class Order:
    """Everything that the training order depends on.

    Args:
        seed: another seed, another order.
        batch: global batch size.
        lanes: number of lanes.
        buffer: raw samples held by the shuffle buffer of a sequence.
        resample: draw an epoch's shards with replacement.
        rank: which process this is.
        world: how many processes there are.
    """

    seed: int
    batch: int
    lanes: int
    buffer: int
    resample: bool = False
    rank: int = 0
    world: int = 1


class Mixture:
    """Which slot each position of a lane belongs to.

    Args:
        slots: the shares; slots of weight 0 are left out.
        seed: of the order within a block.

    Raises:
        ValueError: no slot with a weight, a negative weight, or a share that is less than half a per cent.
    """

    def __init__(self, slots: Sequence[Slot], seed: int) -> None:
        total = sum(slot.weight for slot in slots)
        if total <= 0 or any(slot.weight < 0 for slot in slots):
            raise ValueError(f"shares {[slot.weight for slot in slots]} must not be negative nor all be 0.")
        self.slots = [slot for slot in slots if slot.weight]
        self.seed = seed
        quotas = [BLOCK * slot.weight / total for slot in self.slots]
        counts = [int(quota) for quota in quotas]
        by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
        for i in by_remainder[: BLOCK - sum(counts)]:
            counts[i] += 1
        if 0 in counts:
            slot = self.slots[counts.index(0)]
            raise ValueError(f"the share {slot.weight} of {total} is below 1 in {BLOCK}: raise it, or set it to 0.")
        self.counts = counts
        self.block = lru_cache(maxsize=256)(self._block)

    def _block(self, lane: int, block: int) -> list[int]:
        """Slot numbers of one block of one lane."""
        order = [i for i, count in enumerate(self.counts) for _ in range(count)]
        random.Random(key_bits("mix", self.seed, lane, block)).shuffle(order)
        return order

    def __getstate__(self) -> dict[str, Any]:
        """A worker process makes its own cache."""
        return {key: value for key, value in self.__dict__.items() if key != "block"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.block = lru_cache(maxsize=256)(self._block)

    def slot(self, lane: int, position: int) -> Slot:
        """The slot of position 0, 1, ... of a lane."""
        return self.slots[self.block(lane, position // BLOCK)[position % BLOCK]]

    def taken(self, lane: int, position: int, source: int) -> int:
        """How many samples of a source the positions of a lane before `position` take."""
        whole = sum(count for slot, count in zip(self.slots, self.counts, strict=True) if slot.source == source)
        rest = self.block(lane, position // BLOCK)[: position % BLOCK]
        return position // BLOCK * whole + sum(self.slots[i].source == source for i in rest)


def lane_position(start: int, lane: int, lanes: int) -> int:
    """How many of the samples 0 .. start-1 belong to a lane."""
    return (start - lane + lanes - 1) // lanes


def rank_batches(order: Order, start: int) -> Iterator[tuple[range, bool]]:
    """Global numbers of each local batch's samples, and whether this worker makes it, without end."""
    worker, workers = worker_number()
    made = 0
    while True:
        first = start + made * order.batch
        begin = first + (order.rank - first) % order.world
        yield range(begin, first + order.batch, order.world), made % workers == worker
        made += 1


def worker_number() -> tuple[int, int]:
    """Which DataLoader worker this process is, and how many there are."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
