"""Side-by-side timing: the candidates take turns, so that a noisy machine hits all of them alike."""

import statistics
import time
from collections.abc import Callable


def side_by_side(
    title: str, candidates: dict[str, Callable[[], object]], rounds: int = 5, amount: int = 0, unit: str = ""
) -> None:
    """Print median seconds of each candidate and its speed relative to the first, over rounds taken in turn.

    Where a run makes an `amount` of some `unit`, also how many of these a second.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    reference = next(iter(seconds.values()))
    print(f"\n{title} (medians of {rounds})")
    print(f"{'':<44}{'seconds':>10}{'speed':>8}" + (f"{unit + '/s':>12}" if amount else ""))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(reference, times, strict=True))
        middle = statistics.median(times)
        print(f"{name:<44}{middle:>10.3f}{ratio:>7.2f}x" + (f"{amount / middle:>12,.0f}" if amount else ""))
