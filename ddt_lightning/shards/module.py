"""The base of the data modules: ranks, the start of a resumed run, workers, and the report of skipped samples."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

import lightning.pytorch as pl
from torch.utils.data import DataLoader, IterableDataset

from ddt_lightning.shards.members import Problems
from ddt_lightning.shards.order import Mixture, Order, Slot, exact
from ddt_lightning.shards.read import Reader, Usable, check_shards, expand
from ddt_lightning.shards.stream import Example, RecordDecoder, TrainBatches, ValBatches

log = logging.getLogger(__name__)

NAMED = 20  # skipped samples that the report names


Weights = dict[str, list[float]]


def check_weights(weights: Weights, patterns: Mapping[str, list[str] | None]) -> None:
    """Refuse weights that do not belong to the patterns of an option.

    Args:
        weights: option (without `data.`) -> one weight for each of its patterns.
        patterns: option -> its patterns; only these options can be weighted.

    Raises:
        ValueError: another option, another number of weights, a negative one, or all of an option's are 0.
    """
    for option, values in weights.items():
        if option not in patterns:
            raise ValueError(f"`data.weights` ({option}) must name one of {', '.join(patterns)}.")
        found = patterns[option] or []
        if len(values) != len(found):
            raise ValueError(f"`data.weights.{option}` {values} must be {len(found)} weights: one for each pattern.")
        if min(values) < 0 or not any(values):
            raise ValueError(f"`data.weights.{option}` {values} must not be negative nor all be 0.")


def weighted(patterns: list[str], option: str, weights: Weights) -> list[tuple[list[str], Fraction]]:
    """The shards of an option as sources with their shares of it, which add up to 1.

    Without weights they are one source; with weights each pattern is one, whatever its size. A weight of 0 leaves its
    pattern out.
    """
    values = weights.get(option)
    if values is None:
        return [(expand(patterns, f"data.{option}"), Fraction(1))]
    shares = [exact(value) for value in values]
    return [
        (expand([pattern], f"data.{option}"), share / sum(shares))
        for pattern, share in zip(patterns, shares, strict=True)
        if share
    ]


def ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the main process, which still needs batches to end its step and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Loader:
    """Batches from worker processes, finished in this one; each iteration begins where training stands.

    Args:
        dataset: makes the dataset of one iteration.
        workers: number of worker processes; 0 works in this one.
        finish: last step of a batch, in this process.
        skipped: problems are added here.
        wait: told the seconds that every batch took this process.
    """

    def __init__(
        self,
        dataset: Callable[[], IterableDataset],
        workers: int,
        finish: Callable[[Example], Example],
        skipped: Problems,
        wait: Callable[[float], None],
    ) -> None:
        self.dataset, self.workers, self.finish, self.skipped, self.wait = dataset, workers, finish, skipped, wait

    def __iter__(self) -> Iterator[Example]:
        """Batches in the order of their numbers."""
        if self.workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every worker
        loader = DataLoader(
            self.dataset(),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            worker_init_fn=ignore_interrupts,
        )
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches, None)
            except (ValueError, OSError) as error:
                raise without_traceback(error) from error
            if batch is None:
                return
            self.skipped.update(batch.pop("skipped"))
            finished = self.finish(batch)
            self.wait(time.perf_counter() - start)
            yield finished


def without_traceback(error: ValueError | OSError) -> ValueError | OSError:
    """The error of a worker with its own message, without the traceback that torch writes before it."""
    text = str(error)
    return type(error)(text.strip().splitlines()[-1].partition(": ")[2]) if "Original Traceback" in text else error


class ShardModule(pl.LightningDataModule):
    """Loaders over shards in a reproducible order; the data modules add what a sample means.

    Args:
        batch_size: global batch size, over all processes.
        lanes: into how many lanes the training order is dealt; a multiple of the number of processes.
        buffer: raw samples in the shuffle buffer of each sequence of shards.
        workers: worker processes of each training process.
        memory_mb: shard sets of at most this size stay in memory after their first reading.
        resample: draw an epoch's shards with replacement.
        cache: local folder that keeps shards read over the network or from a command; null reads them anew each time.
        val_samples: validate on at most so many samples.
        seed: of the order and of every draw.
    """

    def __init__(
        self,
        batch_size: int = 64,
        lanes: int = 4,
        buffer: int = 2000,
        workers: int = 1,
        memory_mb: int = 256,
        resample: bool = False,
        cache: str | None = None,
        val_samples: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limits = {"batch_size": (batch_size, 1), "lanes": (lanes, 1), "buffer": (buffer, 1), "workers": (workers, 0)}
        for option, (value, least) in {**limits, "val_samples": (val_samples, 1)}.items():
            if value < least:
                raise ValueError(f"`data.{option}` ({value}) must be at least {least}.")
        self.batch_size, self.lanes, self.buffer, self.workers = batch_size, lanes, buffer, workers
        self.memory, self.resample, self.val_samples, self.seed = memory_mb * 2**20, resample, val_samples, seed
        self.cache = cache
        self.skipped: Problems = {}
        self.waited = 0.0  # seconds that training and validation have waited for batches
        self.text_loader: int | None = None  # which of the validation loaders gives held-out text alone

    def ranks(self) -> tuple[int, int]:
        """This process among those that read different data: `(rank, world)`.

        Raises:
            ValueError: the batch or the lanes cannot be split over that many processes.
        """
        trainer = self.trainer
        split = getattr(trainer.strategy, "distributed_sampler_kwargs", None) if trainer is not None else None
        rank, world = (split["rank"], split["num_replicas"]) if split else (0, 1)
        for option, value in {"lanes": self.lanes, "batch_size": self.batch_size}.items():
            if value % world:
                raise ValueError(f"`data.{option}` ({value}) must be a multiple of the {world} processes.")
        return rank, world

    def order(self) -> Order:
        """The training order, as this process sees it."""
        rank, world = self.ranks()
        return Order(self.seed, self.batch_size, self.lanes, self.buffer, self.resample, rank, world)

    def start(self) -> int:
        """Global number of the next training sample: what the optimizer steps so far have used."""
        if self.trainer is None:
            return 0
        return self.trainer.global_step * self.trainer.accumulate_grad_batches * self.batch_size

    def reader(self, urls: list[str], usable: Usable, option: str, wanted: str, *, train: bool) -> Reader:
        """A checked source.

        Args:
            urls: its shards.
            usable: whether a record has the members it needs.
            option: the option the shards come from, for errors.
            wanted: those members in words.
            train: whether it must be enough for every lane.

        Raises:
            ValueError: an empty shard, one without usable samples, or fewer samples than lanes.
        """
        enough = self.lanes if train else 1
        found = check_shards(urls, usable, option, wanted, enough, self.cache)
        if found < enough:
            raise ValueError(f"`{option}` holds {found} samples, fewer than `data.lanes` ({self.lanes}): lower it.")
        return Reader(urls, usable, self.memory, self.cache)

    def train_loader(self, readers: list[Reader], slots: list[Slot], decoder: RecordDecoder) -> Loader:
        """Endless training batches."""
        mixture = Mixture(slots, self.seed)

        def dataset() -> TrainBatches:
            return TrainBatches(readers, mixture, decoder, self.order(), self.start())

        return self.loader(dataset)

    def val_loader(self, readers: list[Reader], slots: list[Slot], decoder: RecordDecoder) -> Loader:
        """Held-out batches."""
        rank, world = self.ranks()
        mixture = Mixture(slots, 0)
        local = self.batch_size // world
        return self.loader(lambda: ValBatches(readers, mixture, decoder, local, self.val_samples, rank, world))

    def loader(self, dataset: Callable[[], IterableDataset]) -> Loader:
        """Batches of a dataset, from this module's workers."""
        return Loader(dataset, self.workers, self.finish, self.skipped, self.wait)

    def wait(self, seconds: float) -> None:
        """Add to the seconds that were spent on waiting for batches."""
        self.waited += seconds

    def finish(self, batch: Example) -> Example:
        """Last step of a batch, in the main process."""
        return batch

    def teardown(self, stage: str) -> None:
        """Report, once, the samples that were skipped."""
        if self.skipped:
            named = [f"{sample} ({reason})" for sample, reason in sorted(self.skipped.items())]
            more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
            log.warning("skipped %d samples: %s%s", len(named), "; ".join(named[:NAMED]), more)
            self.skipped.clear()
