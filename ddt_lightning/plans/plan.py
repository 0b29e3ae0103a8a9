"""Long plans of command lines: a step that has finished is skipped, a killed plan goes on where it was.

A step is skipped only when the fingerprint of its configuration, code, library versions and input steps is the one it
finished with. What is known of a step lies in `FOLDER/steps/NAME.json`; the output of its commands in a log beside.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from ddt_lightning.plans.process import run_step
from ddt_lightning.plans.step import Record, Step, fingerprint, open_record


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


def run_plan(
    folder: Path, steps: list[Step], prepare: Callable[[Step, dict[str, float]], None], before: str = ""
) -> dict[str, float]:
    """Run what is not done of some steps that build on each other, and say what runs and how long is left.

    Args:
        folder: of the records, the logs and everything the steps write.
        steps: in order.
        prepare: called before a step runs, with the seconds of the steps before it.
        before: fingerprint of what the first step builds on.

    Returns:
        Seconds of every step.

    Raises:
        RuntimeError: a step failed, or ended without what it makes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pace = 1.0
    times: dict[str, float] = {}
    for number, step in enumerate(steps, 1):
        before = fingerprint(step, before)
        record = open_record(folder, step, before)
        here = f"[{number}/{len(steps)}] {step.name}"
        left = pace * sum(later.seconds for later in steps[number - 1 :] if not Record(folder, later.name).done)
        if record.done:
            say(f"{here}: done before, in {minutes(record.seconds)}")
        else:
            record.write()
            say(f"{here}: {step.about} (about {minutes(pace * step.seconds)}; {minutes(left)} left in all)")
            prepare(step, times)
            run_step(step, record, folder / "logs" / f"{step.name}.log")
            if not step.folder.exists():
                raise RuntimeError(f"step {step.name} ended without {step.folder}.")
            record.done = True
            record.write()
            pace = 0.5 * pace + 0.5 * min(3.0, max(0.3, record.seconds / step.seconds))
        times[step.name] = record.seconds
    return times
