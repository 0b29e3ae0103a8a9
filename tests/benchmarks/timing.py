"""Side-by-side figures: candidates take turns in one process, or run alone where peak memory counts.

A noisy machine hits candidates that take turns alike. Peak memory can only be told in a process of its own.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def side_by_side(
    title: str, candidates: dict[str, Callable[[], object]], rounds: int = 5, amount: int = 0, unit: str = ""
) -> None:
    """Print median seconds of each candidate and its speed relative to the first, over rounds taken in turn.

    Where a run makes an `amount` of some `unit`, also how many of these a second.
    """

    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    compare(title, {name: partial(timed, run) for name, run in candidates.items()}, rounds, amount, unit)


def compare(
    title: str, candidates: dict[str, Callable[[], float]], rounds: int = 5, amount: int = 0, unit: str = ""
) -> None:
    """The same of candidates that return their seconds."""
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            seconds[name].append(run())
    reference = next(iter(seconds.values()))
    print(f"\n{title} (medians of {rounds})")
    print(f"{'':<44}{'seconds':>10}{'speed':>8}" + (f"{unit + '/s':>12}" if amount else ""))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(reference, times, strict=True))
        middle = statistics.median(times)
        print(f"{name:<44}{middle:>10.3f}{ratio:>7.2f}x" + (f"{amount / middle:>12,.0f}" if amount else ""))


def resident(which: str) -> int:
    """Memory of this process in bytes, Linux only: `VmRSS` now, `VmHWM` the peak since `forget_peak`.

    `ru_maxrss` does not serve: a new process starts with that of its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def forget_peak() -> None:
    """Let `VmHWM` start again from the present."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(run: Callable[[int], object], rounds: int = 5) -> None:
    """Print median seconds of `run(round)`, and this process's peak memory in GiB above what it held before."""
    forget_peak()
    before = resident("VmRSS")
    seconds = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds[1:]), (resident("VmHWM") - before) / 2**30)


def alone(file: str, word: str) -> list[float]:
    """What `python FILE WORD` prints, in a process of its own."""
    done = subprocess.run([sys.executable, file, word], stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def each_alone(title: str, file: str, candidates: dict[str, str], rounds: int = 5) -> None:
    """Print seconds and peak memory of each candidate beside the first.

    Args:
        title: of the table.
        file: the benchmark, which calls `measure` for the word it is given.
        candidates: name in the table by word.
        rounds: what `measure` runs.
    """
    print(f"\n{title} (medians of {rounds}, one process each)")
    print(f"{'':<44}{'seconds':>10}{'speed':>8}{'GiB':>8}{'memory':>8}")
    first: list[float] = []
    for word, name in candidates.items():
        seconds, peak = alone(file, word)
        first = first or [seconds, peak]
        print(f"{name:<44}{seconds:>10.3f}{first[0] / seconds:>7.2f}x{peak:>8.2f}{peak / first[1]:>7.2f}x", flush=True)
