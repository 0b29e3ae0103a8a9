"""Side-by-side timing: the candidates take turns, so that a noisy machine hits all of them alike."""

import statistics
import time
from collections.abc import Callable


def side_by_side(title: str, candidates: dict[str, Callable[[], object]], rounds: int = 5) -> None:
    """Print median seconds of each candidate and its speed relative to the first, over rounds taken in turn."""
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
    print(f"{'':<44}{'seconds':>10}{'speed':>8}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(reference, times, strict=True))
        print(f"{name:<44}{statistics.median(times):>10.3f}{ratio:>7.2f}x")
