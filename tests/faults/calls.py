"""Calls of `ddt fit` by fork from this process, which has imported all of it; each is killed at a moment, or not.

A fork saves the seconds of importing torch. It is a process of its own, runs the `main` of the command line, and is
killed by a real SIGKILL. Two processes are started as `torchrun` starts them, by variables like LOCAL_RANK.
"""

import gc
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import ddt_lightning.cli as cli
from tests.faults.moments import Moment, reached
from tests.faults.watch import PHASES, journal, note, read, watch_files

SURVIVE = 60.0
"""Seconds after which a process whose other one was killed must have left."""
PATIENCE = 900.0
"""Seconds after which a call without a kill hangs."""


@dataclass
class Outcome:
    """How a call ended.

    Args:
        codes: exit codes; -9 is a kill.
        lines: what the first process wrote down.
        said: the end of what it printed to stderr.
        late: seconds that the others took to leave after the kill.
    """

    codes: list[int]
    lines: list[dict[str, Any]]
    said: str
    late: float


def warm() -> None:
    """Import what every stage needs, and start no thread."""
    import torch

    import ddt_lightning.callbacks.throughput
    import ddt_lightning.training.run  # noqa: F401

    torch.set_num_threads(1)
    for targets in cli.STAGES.values():
        for target in targets:
            cli.locate(target)
    gc.collect()
    gc.freeze()


def fit(words: list[str], run: Path, rank: int, variables: dict[str, str], moment: Moment | None) -> None:
    """What a forked process does: the command line, with what it prints in a file."""
    os.environ.update(variables)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        log = os.open(said(run, rank, number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, number)
    sys.argv = ["ddt", "fit", *words]
    note(journal(run, rank), "start")
    watch_files(run, rank, moment if rank == 0 else None)
    cli.main(["fit", *words])


def said(run: Path, rank: int, number: int) -> Path:
    """The file of what a process prints, to stdout (1) or stderr (2)."""
    return run.with_name(f"{run.name}.said-{rank}.{number}")


def call(words: list[str], run: Path, processes: int, moment: Moment | None = None) -> Outcome:
    """Start a call, kill it at a moment, and wait for its end."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    context = multiprocessing.get_context("fork")
    ranks, path = range(processes), journal(run, 0)
    several = [{**variables, "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in ranks]
    earlier = len(read(path))
    running: list[BaseProcess] = [
        context.Process(target=fit, args=(words, run, rank, several[rank], moment)) for rank in ranks
    ]
    for process in running:
        process.start()
    if moment is not None and not moment.deed and wait_for(moment, running, path, earlier):
        for rank in moment.ranks:
            os.kill(running[rank].pid or 0, signal.SIGKILL)
    killed = wait_for_first(running)
    join_until(running, killed + SURVIVE / 2)
    if all(line["at"] == PHASES[0] for line in read(path)[earlier:]):
        # what waits for a process that has never come ends with the one that started both: torchrun tells it to
        for process in running:
            process.terminate()
    join_until(running, killed + SURVIVE)
    late = time.monotonic() - killed
    for process in running:
        if process.is_alive():
            process.kill()
            process.join()
    codes = [process.exitcode or 0 for process in running]
    return Outcome(codes, read(path)[earlier:], said(run, 0, 2).read_text()[-2000:], late)


def wait_for(moment: Moment, running: list[BaseProcess], path: Path, earlier: int) -> bool:
    """Wait until a call is at a moment; False if it ended before."""
    size = -1
    while all(process.is_alive() for process in running):
        now = path.stat().st_size if path.exists() else 0
        if now != size and reached(read(path)[earlier:], moment):
            running[0].join(moment.wait)
            return all(process.is_alive() for process in running)
        size = now
        time.sleep(0.001)
    return False


def wait_for_first(running: list[BaseProcess]) -> float:
    """Wait until one of the processes has ended, and say when it had."""
    until = time.monotonic() + PATIENCE
    while all(process.is_alive() for process in running) and time.monotonic() < until:
        time.sleep(0.02)
    return time.monotonic()


def join_until(running: list[BaseProcess], moment: float) -> None:
    """Wait for all processes, at most until a moment of the monotonic clock."""
    for process in running:
        process.join(max(0.0, moment - time.monotonic()))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
