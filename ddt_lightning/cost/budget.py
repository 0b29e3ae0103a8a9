"""What a measured step means for a run: whether it fits, and its time, network traffic and storage."""

from collections.abc import Sequence
from dataclasses import dataclass

from ddt_lightning.cost.hardware import Gpu
from ddt_lightning.cost.ledger import OPTIMISER, PHASES, STEP
from ddt_lightning.cost.settings import Settings
from ddt_lightning.cost.trial import Measured

GIB = 2**30
CONTEXT = 1.5 * GIB
"""CUDA context, cuBLAS workspaces and buffers of NCCL of a process."""
FRAGMENTS = 0.10
"""Share of the counted memory that the allocator may lose between pieces."""
MEMBER = 512
"""Bytes of a header in a tar file, and what its members are padded to."""


def needed(counted: float) -> float:
    """Bytes that a process needs on a device, from those that its tensors have."""
    return counted * (1 + FRAGMENTS) + CONTEXT


@dataclass(frozen=True)
class Budget:
    """The cost of a run.

    Args:
        settings: of the run.
        step: a step of one process.
        gpu: of every process.
        mfu: model FLOP/s over the GPU's peak.
        link: GB/s at which a process sends to others.
        inside: GB/s at which it sends to those that share its copy of the weights; None for `link`.
    """

    settings: Settings
    step: Measured
    gpu: Gpu
    mfu: float
    link: float
    inside: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the step fits the GPU, margin included."""
        return needed(self.step.peak) <= self.gpu.memory * GIB

    @property
    def flops(self) -> int:
        """Operations of an optimiser step of all processes, none counted twice."""
        return sum(self.step.flops.values()) * self.settings.accumulate * self.settings.processes

    @property
    def seconds(self) -> float:
        """Time of an optimiser step at the assumed MFU, and of the drawing before it in practice with a reward."""
        return self.flops / (self.settings.processes * self.gpu.peak(self.settings.precision) * self.mfu) + self.drawing

    @property
    def drawing(self) -> float:
        """Least time of sampling in practice with a reward: every id reads the weights once; 0 in other stages."""
        if self.settings.kind != "rl":
            return 0.0
        return self.settings.length * 2 * self.step.parameters / (self.gpu.bandwidth * 1e9)

    @property
    def network_seconds(self) -> float:
        """Time of sending; what is hidden behind products costs nothing."""
        near, far = self.step.network - self.step.between, self.step.between
        return self.settings.accumulate * (near / (self.inside or self.link) + far / self.link) / 1e9

    @property
    def samples(self) -> int:
        """Samples of an optimiser step."""
        return self.settings.batch * self.settings.accumulate

    @property
    def ids(self) -> int:
        """Ids of an optimiser step, padding left out; of stages without text those of the images."""
        each = self.settings.ids.tokens if self.settings.kind in ("tokenizer", "renderer") else self.settings.document
        return self.samples * each * (round(self.settings.images) if self.settings.kind == "rl" else 1)

    @property
    def days(self) -> float:
        """Days to the configured end."""
        return self.settings.steps * self.seconds / 86400

    def a_day(self, each_step: float) -> float:
        """What is done in a day, of what is done in a step."""
        return each_step * 86400 / self.seconds

    @property
    def release(self) -> int:
        """Bytes of the released weights, frozen ones of the same network left out."""
        return self.step.parameters * (2 if self.settings.precision.endswith("16-true") else 4)

    @property
    def checkpoint(self) -> int:
        """Bytes of `last.ckpt`: weights, averages and the optimiser's state of all processes."""
        settings = self.settings
        share = settings.processes // settings.replicas if settings.sharded else 1
        state = self.step.peaks[STEP].get(OPTIMISER, 0) * share
        return state + self.release * (2 if settings.averaged else 1)

    @property
    def shards(self) -> int:
        """Bytes of token shards with every image of the run once, each with its text."""
        ids = -(-2 * self.settings.ids.tokens // MEMBER) * MEMBER
        return self.settings.steps * round(self.samples * self.settings.images) * (ids + 3 * MEMBER)


@dataclass(frozen=True)
class Fit:
    """The largest batch for a memory.

    Args:
        checkpointing: activations of blocks are recomputed; None where there is no choice.
        items: rows, prompts or images of a process.
        batch: samples of all processes.
    """

    checkpointing: bool | None
    items: int
    batch: int


def largest(settings: Settings, steps: Sequence[Measured], memory: float, checkpointing: bool | None) -> Fit:
    """The largest batch, by straight lines through the peaks of two batches of each phase.

    Args:
        settings: of the run.
        steps: two batches of different sizes.
        memory: GiB of the device.
        checkpointing: what they were measured with.
    """
    small, large = steps
    most = None
    for phase in PHASES:
        low, high = (sum(one.peaks[phase].values()) for one in (small, large))
        slope = (high - low) / (large.items - small.items)
        room = (memory * GIB - CONTEXT) / (1 + FRAGMENTS) - low
        if room < 0:
            return Fit(checkpointing, 0, 0)
        if slope > 0:
            count = small.items + int(room / slope)
            most = count if most is None else min(most, count)
    items = most or 0
    samples = items * settings.length // settings.document if settings.packed else items
    return Fit(checkpointing, items, samples * settings.processes)


def same_step(settings: Settings, fit: Fit) -> tuple[int, int] | None:
    """`data.batch_size` and `trainer.accumulate_grad_batches` of the same step in batches that fit; None for none."""
    total = settings.batch * settings.accumulate
    for parts in range(1, total // settings.processes + 1):
        batch = total // parts
        if total % parts == 0 and batch % settings.processes == 0 and batch <= fit.batch:
            return batch, parts
    return None
