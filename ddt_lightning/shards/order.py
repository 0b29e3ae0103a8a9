"""The order of training samples as numbers; nothing is read here.

In: a seed, a global batch size, shares. Out: for each position of each lane the slot (source and label) it takes its
sample from, and for each rank and worker the global sample numbers of its batches.

The shares are not drawn at random but dealt out evenly (`Mixture`). A short run then gets the shares that it asked for
and not only on average. A resumed run knows how far it has read each source by counting (`taken`), without replay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import lcm, sqrt

from torch.utils.data import get_worker_info

from ddt_lightning.seeding import key_bits

CYCLE = 10_000  # longest cycle of a mixture: shares are exact if they are whole numbers of 1 in some number up to it
GOLDEN = (sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Slot:
    """A share of the training stream.

    Args:
        source: number of the source it takes its samples from; several slots may share one.
        weight: its share, relative to the other slots.
        label: what to do with its samples, passed to the decoder.
    """

    source: int
    weight: float | Fraction
    label: str = ""


@dataclass(frozen=True)
class Order:
    """Everything that the training order depends on.

    Args:
        seed: another seed, another order.
        batch: global batch size.
        lanes: number of lanes.
        buffer: raw samples held by the shuffle buffer of a sequence.
        resample: draw an epoch's shards with replacement, as many as there are.
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
    """The slot of each position of a lane, with exact shares in every stretch of positions.

    The slots come in a cycle as long as the shares' common denominator, spread evenly (`spread`): of any n positions in
    a row a slot of share w has between w n - 2 and w n + 2, of a whole cycle exactly its share. Each lane begins at
    another place of the cycle, so that the lanes' samples of one moment are spread evenly, too.

    Args:
        slots: the shares; slots of weight 0 are left out.
        seed: of where the lanes begin.

    Raises:
        ValueError: no slot with a weight, a negative weight, or a share below half of 1 in `CYCLE`.
    """

    def __init__(self, slots: Sequence[Slot], seed: int) -> None:
        if any(slot.weight < 0 for slot in slots) or not any(slot.weight for slot in slots):
            raise ValueError(f"shares {[float(slot.weight) for slot in slots]} must not be negative nor all be 0.")
        self.slots = [slot for slot in slots if slot.weight]
        self.first = key_bits("mix", seed)
        self.counts = whole_counts([exact(slot.weight) for slot in self.slots])
        if 0 in self.counts:
            slot = self.slots[self.counts.index(0)]
            raise ValueError(f"the share of {float(slot.weight)} is below 1 in {CYCLE}: raise it, or set it to 0.")
        self.cycle = spread(self.counts)
        # before[s][p]: how many of the first p positions of the cycle take their sample from source s
        self.before = {
            source: [0, *accumulate(int(self.slots[i].source == source) for i in self.cycle)]
            for source in {slot.source for slot in self.slots}
        }

    def phase(self, lane: int) -> int:
        """Place in the cycle where a lane begins: steps of the golden ratio, which keep any number of lanes apart."""
        return (self.first + int(lane * GOLDEN * len(self.cycle))) % len(self.cycle)

    def slot(self, lane: int, position: int) -> Slot:
        """The slot of position 0, 1, ... of a lane."""
        return self.slots[self.cycle[(self.phase(lane) + position) % len(self.cycle)]]

    def taken(self, lane: int, position: int, source: int) -> int:
        """Number of samples that a lane has taken from a source before `position`."""
        before, length, phase = self.before.get(source, [0] * (len(self.cycle) + 1)), len(self.cycle), self.phase(lane)
        rounds, rest = divmod(phase + position, length)
        return rounds * before[length] + before[rest] - before[phase]


def exact(weight: float | Fraction) -> Fraction:
    """A weight as it was written: 0.1 is a tenth."""
    return weight if isinstance(weight, Fraction) else Fraction(str(weight))


def whole_counts(weights: Sequence[Fraction]) -> list[int]:
    """Smallest whole numbers in the ratio of the weights; where their sum exceeds `CYCLE`, the nearest that do not.

    The nearest are found by largest remainders: their sum is `CYCLE`, and each is off by less than 1.
    """
    total = sum(weights)
    length = lcm(*((weight / total).denominator for weight in weights))
    if length > CYCLE:
        length = CYCLE
    quotas = [length * weight / total for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: length - sum(counts)]:
        counts[i] += 1
    return counts


def spread(counts: Sequence[int]) -> list[int]:
    """A sequence with `counts[i]` times the number i, as evenly as there is one.

    Of its first n members, |number of i - n counts[i] / sum| <= 1 - 1 / (2k - 2) for k numbers, at every n. Source:
    Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980): of those that are behind by at least
    1 / (2k - 2) the one is next that would have to be next the soonest.
    """
    total, parts = sum(counts), max(2 * len(counts) - 2, 1)
    given = [0] * len(counts)
    sequence = []
    for n in range(1, total + 1):
        # all numbers times total * parts, to stay whole
        behind = [parts * (count * n - total * had) for count, had in zip(counts, given, strict=True)]
        ready = [i for i, lag in enumerate(behind) if lag >= total]
        chosen = min(ready, key=lambda i: (Fraction((parts - 1) * total - behind[i], counts[i]), i))
        given[chosen] += 1
        sequence.append(chosen)
    return sequence


def lane_position(start: int, lane: int, lanes: int) -> int:
    """Number of samples among 0 .. start-1 that belong to a lane."""
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
    """Number of this DataLoader worker, and number of workers."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
