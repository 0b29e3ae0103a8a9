"""Raw samples to batches, in an order that depends on the seed alone.

Training order. Global sample n (n = 0, 1, 2, ... without end) belongs to lane `n % lanes`; rank r of W owns the lanes l
with `l % W == r`, so a global batch of G samples is the same set of samples whatever W is. A lane is mixed from its
sources in a cycle that holds every source's exact share, spread evenly (`Mixture`). What a lane takes from a source is
a seeded permutation per epoch over shards, read through a seeded shuffle buffer that is drained at the epoch's end.
With many shards each lane has its own (lane l: shards l, l + lanes, ...); otherwise the lanes deal out one common
sequence, so that samples n = 0 .. N-1 are exactly the N samples of the set.

A worker makes every `workers`-th batch of its rank and only steps over the raw samples of the others: the number of
workers changes nothing. Nothing is stored for a resume: `start`, the global sample to begin with, is reached by going
through the raw samples again, whole epochs being skipped once their shards were counted, each shard once.

Samples seen are global numbers, so n steps have seen n G samples, whatever `resample` is. It draws the shards of an
epoch with replacement, as webdataset's ResampledShards does: a shard that is drawn twice gives all its samples twice,
and an epoch has as many samples as its shards hold. An unreadable sample is seen as the readable one that replaces it.
"""

import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset

from ddt_lightning.seeding import key_bits
from ddt_lightning.shards.members import UNREADABLE, Problems, Record
from ddt_lightning.shards.order import Mixture, Order, Slot, lane_position, rank_batches, worker_number
from ddt_lightning.shards.read import Reader, name

log = logging.getLogger(__name__)

Example = dict[str, Any]

MANY = 16  # shards per lane from which uneven dealing (at most 1 in 16 more) is accepted
PATIENCE = 100  # unreadable samples in a row after which the data, not a sample, is wrong


class RecordDecoder(Protocol):
    """Protocol that turns raw samples into batches; every data module brings its own."""

    def __call__(self, record: Record, label: str, sample: int) -> Example:
        """Decode one raw sample.

        Args:
            record: the raw sample.
            label: what its slot in the mixture says to do with it.
            sample: its global number, the key of every random draw.
        """

    def collate(self, examples: list[Example]) -> Example:
        """Examples of one batch to arrays with a leading batch axis."""


def endless(
    reader: Reader, shards: Sequence[int], key: tuple[int | str, ...], order: Order, start: int
) -> Iterator[Record]:
    """The endless sequence of raw samples that some shards give, from position `start` on.

    Raises:
        ValueError: the shards hold no usable sample.
    """
    epoch, skip = 0, start
    sizes: dict[int, int] = {}
    while True:
        rng = random.Random(key_bits(*key, epoch))
        chosen = rng.choices(shards, k=len(shards)) if order.resample else rng.sample(shards, len(shards))
        if epoch and skip:  # one epoch was read: of the next ones only what is not counted yet, to pass over them whole
            count = sum(size_of(reader, shard, sizes) for shard in chosen)
            passed = 0 if not count else min(skip // count, 1) if order.resample else skip // count
            epoch, skip = epoch + passed, skip - passed * count
            if passed:
                continue
        count = 0
        for record in one_epoch(reader, chosen, rng, order.buffer, sizes):
            count += 1
            if skip:
                skip -= 1
            else:
                yield record
        if not count:
            raise ValueError(f"no usable sample in {', '.join(reader.urls[shard] for shard in shards)}.")
        epoch += 1


def size_of(reader: Reader, shard: int, sizes: dict[int, int]) -> int:
    """Usable samples of a shard, which is read where `sizes` does not have it yet."""
    if shard not in sizes:
        sizes[shard] = sum(1 for _ in reader.records(shard))
    return sizes[shard]


def one_epoch(
    reader: Reader, chosen: Sequence[int], rng: random.Random, buffer: int, sizes: dict[int, int]
) -> Iterator[Record]:
    """Every usable sample of the chosen shards, shuffled; the samples of each shard are counted into `sizes`."""
    held: list[Record] = []
    for shard in chosen:
        size = 0
        for record in reader.records(shard):
            size += 1
            if len(held) < buffer:
                held.append(record)
            else:
                i = rng.randrange(buffer)
                held[i], record = record, held[i]
                yield record
        sizes[shard] = size
    rng.shuffle(held)
    yield from held


class Lanes:
    """Raw samples that the lanes of one rank take from one source.

    Args:
        reader: the source.
        source: its number, part of the order's key.
        order: the training order.
        starts: lane -> how many samples it has taken already.
    """

    def __init__(self, reader: Reader, source: int, order: Order, starts: dict[int, int]) -> None:
        self.lanes, self.starts = order.lanes, starts
        self.queues: dict[int, deque[Record]] = {lane: deque() for lane in starts}
        shards = range(len(reader.urls))
        key = ("order", order.seed, source)
        self.own: dict[int, Iterator[Record]] = {}
        if len(shards) % order.lanes == 0 or len(shards) >= MANY * order.lanes:
            for lane, start in starts.items():
                self.own[lane] = endless(reader, shards[lane :: order.lanes], (*key, lane), order, start)
        else:
            self.position = min(starts.values()) * order.lanes
            self.common = endless(reader, shards, key, order, self.position)

    def take(self, lane: int) -> Record:
        """The next raw sample of a lane."""
        record = self.peek(lane, 0)
        self.queues[lane].popleft()
        return record

    def peek(self, lane: int, ahead: int) -> Record:
        """A raw sample that a lane takes later; 0 is the next one."""
        queue = self.queues[lane]
        while len(queue) <= ahead:
            if self.own:
                queue.append(next(self.own[lane]))
                continue
            record = next(self.common)
            turn, dealt = divmod(self.position, self.lanes)
            if dealt in self.queues and turn >= self.starts[dealt]:
                self.queues[dealt].append(record)
            self.position += 1
        return queue[ahead]


class TrainBatches(IterableDataset):
    """Endless training batches of one rank, each with `sample` (global numbers) and `skipped` (problems).

    Args:
        readers: the sources.
        mixture: their shares.
        decoder: raw samples to batches.
        order: the training order.
        start: global number of the first sample.
    """

    def __init__(
        self, readers: list[Reader], mixture: Mixture, decoder: RecordDecoder, order: Order, start: int = 0
    ) -> None:
        self.readers, self.mixture, self.decoder = readers, mixture, decoder
        self.order, self.start = order, start
        self.problems: Problems = {}

    def __iter__(self) -> Iterator[Example]:
        """Batches of this worker."""
        order, mixture = self.order, self.mixture
        lanes = range(order.rank, order.lanes, order.world)
        positions = {lane: lane_position(self.start, lane, order.lanes) for lane in lanes}
        sources = {
            i: Lanes(self.readers[i], i, order, {lane: mixture.taken(lane, at, i) for lane, at in positions.items()})
            for i in sorted({slot.source for slot in mixture.slots})
        }
        for samples, mine in rank_batches(order, self.start):
            examples = []
            for n in samples:
                lane = n % order.lanes
                slot = mixture.slot(lane, n // order.lanes)
                record = sources[slot.source].take(lane)
                if mine:
                    examples.append(self._decode(sources[slot.source], record, slot.label, n))
            if mine:
                yield finish(
                    self.decoder, examples, list(samples), [self.problems, *(r.problems for r in self.readers)]
                )

    def _decode(self, lanes: Lanes, record: Record, label: str, n: int) -> Example:
        """The sample, or in place of an unreadable one the next of its lane that is readable."""
        for ahead in range(PATIENCE):
            try:
                return self.decoder(record, label, n)
            except UNREADABLE as error:
                self.problems[name(record)] = reason = one_line(error)
                last, record = record, lanes.peek(n % self.order.lanes, ahead)
        raise ValueError(f"{PATIENCE} samples in a row cannot be used, the last one {name(last)}: {reason}.")


class ValBatches(IterableDataset):
    """Held-out batches of one rank, in file order: samples r, r + W, ..., equally many on every rank, none twice.

    An unreadable sample is left out of its batch, so the number of batches stays equal; a batch without any readable
    sample is left out in a single process, and an error in several.

    Args:
        readers: the sources.
        mixture: their shares; a source that is used up is passed over.
        decoder: raw samples to batches.
        batch: local batch size.
        limit: at most so many samples on all ranks together.
        rank: which process this is.
        world: how many processes there are.
    """

    def __init__(
        self,
        readers: list[Reader],
        mixture: Mixture,
        decoder: RecordDecoder,
        batch: int,
        limit: int,
        rank: int,
        world: int,
    ) -> None:
        self.readers, self.mixture, self.decoder = readers, mixture, decoder
        self.batch, self.limit, self.rank, self.world = batch, limit, rank, world
        self.problems: Problems = {}

    def __iter__(self) -> Iterator[Example]:
        """Batches of this worker."""
        worker, workers = worker_number()
        batch: list[tuple[int, Slot, Record]] = []
        group: list[tuple[int, Slot, Record]] = []
        made = 0
        for n, (slot, record) in enumerate(self._records()):
            group.append((n, slot, record))
            if len(group) < self.world:
                continue
            if n >= self.limit:
                break
            batch.append(group[self.rank])
            group = []
            if len(batch) == self.batch:
                if made % workers == worker and (whole := self._finish(batch)):
                    yield whole
                batch = []
                made += 1
        if batch and made % workers == worker and (whole := self._finish(batch)):
            yield whole

    def _records(self) -> Iterator[tuple[Slot, Record]]:
        sources = {slot.source: self.readers[slot.source].all() for slot in self.mixture.slots}
        position = 0
        while sources:
            slot = self.mixture.slot(0, position)
            position += 1
            if slot.source in sources:
                record = next(sources[slot.source], None)
                if record is None:
                    del sources[slot.source]
                else:
                    yield slot, record

    def _finish(self, batch: list[tuple[int, Slot, Record]]) -> Example | None:
        examples, samples = [], []
        for n, slot, record in batch:
            try:
                examples.append(self.decoder(record, slot.label, n))
                samples.append(n)
            except UNREADABLE as error:
                self.problems[name(record)] = one_line(error)
        if not examples:
            if self.world > 1:  # the other processes would wait for this one's batch
                raise ValueError(f"no sample of a validation batch can be used: {self.problems}.")
            log.warning("no sample of a validation batch can be used: %s", self.problems)
            return None
        return finish(self.decoder, examples, samples, [self.problems, *(r.problems for r in self.readers)])


def finish(decoder: RecordDecoder, examples: list[Example], samples: list[int], problems: list[Problems]) -> Example:
    """A batch with the numbers of its samples and the problems found since the last one."""
    skipped = {key: reason for found in problems for key, reason in found.items()}
    for found in problems:
        found.clear()
    return {**decoder.collate(examples), "sample": torch.tensor(samples), "skipped": skipped}


def one_line(error: Exception) -> str:
    """Reason why a sample cannot be used, on one line."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return (f"{kind}{error}".splitlines() or [type(error).__name__])[0][:300]
