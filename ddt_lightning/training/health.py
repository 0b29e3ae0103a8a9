"""Health of the machines of a job, tried before a training starts: every process multiplies two matrices, and all add.

A process that does not come, one whose product is wrong and machines that cannot add together are named. The job then
ends at once and not after the collective timeout of a training. Processes find each other as those of a training do.
"""

import contextlib
import json
import socket
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from ddt_lightning.training.messages import quiet_libraries

SIDE = 1024
"""Of the matrices: large enough to be timed, a tenth of a second on a core of a CPU."""
LARGEST_ERROR = 1e-4
"""Of a product in float32, as a share of its largest value; a sound device stays below 1e-5."""
NUMBERS = 2**20
"""Summed over all processes."""


@dataclass(frozen=True)
class Finding:
    """What a process found about its device.

    Args:
        machine: its name.
        device: on which it multiplied.
        seconds: of the second product.
        problem: what was wrong; empty for nothing.
    """

    machine: str
    device: str
    seconds: float
    problem: str


def environment() -> ClusterEnvironment:
    """Who started the processes: srun, torchrun or a user who started this one."""
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def multiply(device: torch.device) -> Finding:
    """Multiply two matrices on a device, twice, and compare with the product in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, SIDE, SIDE, generator=generator)
    expected, seconds, problem = a.double() @ b.double(), 0.0, ""
    try:
        for _ in range(2):  # the first one also starts the device
            started = time.monotonic()
            found = (a.to(device) @ b.to(device)).cpu().double()
            seconds = time.monotonic() - started
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error <= LARGEST_ERROR:
            problem = f"its product is wrong by {error:.1g} of the largest value"
    except (RuntimeError, AssertionError) as failed:  # the latter where torch is built without CUDA
        problem = " ".join(str(failed).split())[:200]
    return Finding(socket.gethostname(), str(device), seconds, problem)


def check(minutes: float) -> str | None:
    """Try this process's device, and all processes together.

    Args:
        minutes: how long to wait for the others, at each of two steps.

    Returns:
        A line about all of them on the first process, None on the others.

    Raises:
        OSError: a device multiplies wrongly, a process does not come, or they cannot add together.
    """
    quiet_libraries()
    job, limit = environment(), timedelta(minutes=minutes)
    rank, processes, local = job.global_rank(), job.world_size(), job.local_rank()
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    own, where = multiply(device), f"{job.main_address}:{job.main_port}"
    try:
        store = dist.TCPStore(job.main_address, job.main_port, processes, rank == 0, limit, wait_for_workers=False)
        store.set(f"found {rank}", json.dumps(asdict(own)))
    except dist.DistError as failed:
        raise OSError(f"process {rank} on {own.machine} does not reach the first one at {where}.") from failed
    found = collect(store, processes, limit) if rank == 0 else []
    try:
        if rank == 0:
            store.set("problems", problems(found))
        store.wait(["problems"], 2 * limit)
        wrong = store.get("problems").decode()
        if wrong:
            raise OSError(wrong)
        added = add(store, rank, processes, device, limit)
    finally:
        store.set(f"left {rank}", "")
        if rank == 0:  # the store ends with this process
            with contextlib.suppress(dist.DistStoreError):
                store.wait([f"left {other}" for other, one in enumerate(found) if one], limit)
    return line([one for one in found if one], added) if rank == 0 else None


def collect(store: dist.Store, processes: int, limit: timedelta) -> list[Finding | None]:
    """What each process found; None for one that has not come within `limit`."""
    found: list[Finding | None] = []
    until = time.monotonic() + limit.total_seconds()
    for rank in range(processes):
        try:
            store.wait([f"found {rank}"], timedelta(seconds=max(0.1, until - time.monotonic())))
            found.append(Finding(**json.loads(store.get(f"found {rank}"))))
        except dist.DistStoreError:
            found.append(None)
    return found


def problems(found: list[Finding | None]) -> str:
    """What is wrong with the processes, by rank, as a sentence; empty where nothing is."""
    said = [
        f"process {rank} on {one.machine} ({one.device}): {one.problem}" if one else f"process {rank} did not come"
        for rank, one in enumerate(found)
        if one is None or one.problem
    ]
    machines = sorted({one.machine for one in found if one})
    return f"{'; '.join(said)}; machines that came: {', '.join(machines)}." if said else ""


def add(store: dist.Store, rank: int, processes: int, device: torch.device, limit: timedelta) -> float:
    """Sum a vector over all processes; the seconds of the second time.

    Raises:
        OSError: the sum is wrong, or does not come.
    """
    where = f"process {rank} of {processes} on {socket.gethostname()}"
    backend, group = "nccl" if device.type == "cuda" else "gloo", dist.PrefixStore("add", store)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=group, rank=rank, world_size=processes, timeout=limit)
        for _ in range(2):
            started = time.monotonic()
            numbers = torch.full((NUMBERS,), float(rank + 1), device=device)
            dist.all_reduce(numbers)
            right = bool((numbers == processes * (processes + 1) / 2).all())
            seconds = time.monotonic() - started
        dist.destroy_process_group()
    except RuntimeError as failed:
        raise OSError(f"{where}: the sum of all processes fails: {' '.join(str(failed).split())[:200]}") from failed
    if not right:
        raise OSError(f"{where}: the sum of all processes is wrong.")
    return seconds


def line(found: list[Finding], added: float) -> str:
    """The findings of sound machines in a line, with the slowest process."""
    slowest = max(range(len(found)), key=lambda rank: found[rank].seconds)
    machines = len({one.machine for one in found})
    median = statistics.median(one.seconds for one in found)
    return (
        f"healthy: {len(found)} processes, machines: {machines}; products right, {median:.3g} s each, the slowest "
        f"{found[slowest].seconds:.3g} s, by process {slowest} on {found[slowest].machine}; sum right, {added:.3g} s"
    )
