"""One training step of one of N processes, on fake tensors under a fake process group: its memory and its products.

The first optimiser step runs before the ledger opens: it makes the optimiser's state, and DTensor works out on whole
tensors how each new operation is divided, which is no memory of a training run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore

from ddt_lightning.cost.ledger import (
    ACTIVATIONS,
    AVERAGES,
    BACKWARD,
    FORWARD,
    GRADIENTS,
    HEAD,
    LOSS,
    OPTIMISER,
    PHASES,
    STEP,
    WEIGHTS,
    WORKING,
    Ledger,
)
from ddt_lightning.cost.networks import Trained, trained
from ddt_lightning.cost.settings import Settings
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.training.parallel import mesh_of_copies
from ddt_lightning.training.tensor_parallel import Groups, groups_of


@dataclass(frozen=True)
class Measured:
    """A step of one process over one batch.

    Args:
        items: rows, prompts or images of the batch.
        peaks: bytes by kind at the fullest moment of each phase.
        flops: floating-point operations of each phase, without those that are done once more.
        recomputed: those.
        network: bytes that the process sends.
        parts: trained weights of all processes by part of the network.
        frozen: weights that stay as they are.
        between: bytes of `network` that go to other copies of the weights, or to other groups that divide layers.
    """

    items: int
    peaks: dict[str, dict[str, int]]
    flops: dict[str, int]
    recomputed: int
    network: int
    parts: dict[str, int]
    frozen: int
    between: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment of the step."""
        return max(sum(kinds.values()) for kinds in self.peaks.values())

    @property
    def parameters(self) -> int:
        """Trained weights of all processes."""
        return sum(self.parts.values())


@contextmanager
def pretended(
    world: int, sharded: bool, replicas: int = 1, tensor_parallel: int = 1
) -> Iterator[tuple[DeviceMesh | None, Groups | None]]:
    """Fake tensors, and a process group of `world` processes of which this is the first, with their meshes.

    The meshes are those of `FullyShardedStrategy` with these options, of the weights (None if not `sharded`) and of
    the groups that divide layers (None if there are none).

    Raises:
        RuntimeError: this process is part of a real group.
    """
    if dist.is_initialized():
        raise RuntimeError("a plan pretends to be one of several processes: make it outside a run of several.")
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        mesh = groups = None
        if sharded:  # before there are fake tensors, which lack the numbers that it reads
            mesh = mesh_of_copies("cpu", replicas, world) if replicas > 1 else init_device_mesh("cpu", (world,))
            groups = groups_of("cpu", tensor_parallel, world) if tensor_parallel > 1 else None
        with FakeTensorMode():
            yield mesh, groups
    finally:
        dist.destroy_process_group()


def measure(settings: Settings, items: Sequence[int], *, foreach: bool = True) -> list[Measured]:
    """Steps of the first process over batches of different sizes.

    Args:
        settings: of the run.
        items: rows, prompts or images of each batch.
        foreach: the optimiser works on all weights at once, as it does on a GPU unless it is fused.
    """
    former, whole = torch.get_default_dtype(), settings.precision.endswith("-true") and "16" in settings.precision
    optim = OptimConfig(**settings.model["optim"])
    processes = settings.processes, settings.sharded, settings.replicas, settings.tensor_parallel
    with pretended(*processes) as (mesh, groups):
        torch.set_default_dtype(torch.bfloat16 if whole else former)
        try:
            found = trained(settings, mesh, groups)
        finally:
            torch.set_default_dtype(former)
        optimizer = build_optimizer(found.net, optim, 10**6, found.undecayed)["optimizer"]
        for group in optimizer.param_groups:
            group["foreach"] = foreach and not optim.fused
        for weight in trained_weights(found):
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        return [step(found, optimizer, settings, number) for number in items]


def trained_weights(found: Trained) -> list[Tensor]:
    """The weights that the optimiser trains."""
    return [weight for weight in found.net.parameters() if weight.requires_grad]


def step(found: Trained, optimizer: Optimizer, settings: Settings, items: int) -> Measured:
    """Forward, loss, backward and optimiser step over `items` rows, prompts or images."""
    optimizer.zero_grad()
    weights, networks = trained_weights(found), [found.net, *found.frozen]
    ledger = Ledger(found.vocabulary, settings.neighbours)
    cast: Any = torch.autocast("cpu", torch.bfloat16) if settings.precision.endswith("-mixed") else nullcontext()
    with ledger:
        copies = [torch.empty_like(weight) for weight in weights] if settings.averaged else []
        ledger.hold(copies, AVERAGES)
        # DDP sums gradients in buckets of its own
        apart = settings.processes > 1 and not settings.sharded
        buckets = [torch.empty_like(weight) for weight in weights] if apart else []
        ledger.hold(buckets, GRADIENTS)
        ledger.hold([tensor for net in networks for tensor in (*net.parameters(), *net.buffers())], WEIGHTS)
        for state in optimizer.state.values():
            ledger.hold([value for value in state.values() if isinstance(value, Tensor)], OPTIMISER)
        inputs = found.inputs(items)
        with cast:
            with ledger.phase(FORWARD, ACTIVATIONS):
                made = found.forward(*inputs)
            with ledger.phase(LOSS, HEAD if found.vocabulary else ACTIVATIONS):
                loss = found.loss(made, *inputs)
        del made
        with ledger.phase(BACKWARD, WORKING):
            loss.backward()
        ledger.hold([weight.grad for weight in weights], GRADIENTS)
        with ledger.phase(STEP, WORKING):
            optimizer.step()
    parts: dict[str, int] = {}
    for name, weight in found.net.named_parameters():
        if weight.requires_grad:
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + weight.numel()
    return Measured(
        items=items,
        peaks={phase: ledger.peak(phase) for phase in PHASES},
        flops={phase: ledger.flops[phase] - (ledger.recomputed if phase == BACKWARD else 0) for phase in PHASES},
        recomputed=ledger.recomputed,
        network=int(ledger.network + 2 * sum(b.nbytes for b in buckets) * share_of_others(settings.processes)),
        between=int(ledger.between),
        parts=parts,
        frozen=sum(p.numel() for net in networks for p in net.parameters() if not p.requires_grad),
    )


def share_of_others(processes: int) -> float:
    """Share of a gathered or summed tensor that a process sends in a ring of all."""
    return (processes - 1) / processes
