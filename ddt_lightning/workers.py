"""Run one function over many tasks, in this process or in several, results in the order of the tasks.

On a CPU, P processes with one thread each beat one process with P threads for networks of this size. Workers come from
a fork server, which imports what they need (torch, the package) once. They stay for later calls and keep what they
loaded, such as a pipeline. They end when their caller ends, however that happens, and when one of their tasks fails.
A process that is started otherwise ends with its caller by `end_with_caller`.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

POOLS: dict[int, tuple[ProcessPoolExecutor, Connection]] = {}
"""The pools of this process by their number of workers, each with a pipe: its workers end when the pipe is closed."""
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def pool(processes: int, first: Callable[..., Any]) -> ProcessPoolExecutor:
    """The worker processes, each with its share of the cores; they start with their first task.

    Args:
        processes: how many.
        first: a function they will run: a new pool's fork server imports its module, so that no worker has to.
    """
    if processes not in POOLS:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([first.__module__])
        threads = max(1, (os.cpu_count() or 1) // processes)
        watched, ours = context.Pipe(duplex=False)
        executor = ProcessPoolExecutor(processes, context, initializer=begin, initargs=(threads, watched))
        POOLS[processes] = executor, ours
    return POOLS[processes][0]


def begin(threads: int, caller: Connection) -> None:
    """Prepare a worker: its share of the cores, Ctrl-C left to the caller, and the watch over the caller's pipe."""
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, args=(caller,), daemon=True).start()


def follow(caller: Connection) -> None:
    """End this process when the other end of the pipe is closed: by the caller, or with a caller that was killed."""
    caller.poll(None)
    os._exit(1)


def end(processes: int) -> None:
    """Drop a pool's waiting tasks and end its workers, whatever they are at."""
    if processes in POOLS:  # an interrupt may come before there is a pool
        executor, ours = POOLS.pop(processes)
        executor.shutdown(wait=False, cancel_futures=True)
        ours.close()


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], processes: int, label: str
) -> Iterator[Any]:
    """Yield the result of ``function(*task)`` for every task, in order, with a progress bar on a terminal.

    Args:
        function: a module's function; its arguments and result can be pickled.
        tasks: its arguments, one tuple per call.
        processes: how many processes; 1 runs here, with torch's own threads.
        label: what the progress bar says.

    Raises:
        Exception: whatever the function raises, after the tasks that had not started were dropped.
    """
    bar = tqdm(total=len(tasks), desc=label, disable=len(tasks) < 2 or not sys.stderr.isatty())
    if processes == 1:
        for task in tasks:
            yield function(*task)
            bar.update()
    else:
        try:
            waiting: list[Future[Any]] = [pool(processes, function).submit(function, *task) for task in tasks]
            for future in waiting:
                yield future.result()
                bar.update()
        except BaseException:
            end(processes)
            raise
    bar.close()


def end_with_caller(caller: int | None = None) -> None:
    """On Linux: have this process told to stop when the one that started it is gone, however that was killed.

    Args:
        caller: its process id, where it may have ended before this call.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if caller is not None and has_ended(caller):
        signal.raise_signal(signal.SIGTERM)


def has_ended(process: int) -> bool:
    """True for a process that is not there, or whose exit code alone is."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
