"""Progress of a plan, and the time that it will take on this machine, for the person who waits."""

import csv
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from ddt_lightning.plans.step import LOGS, Record, Step

LOOK = 5.0  # seconds between two looks at how far the trainings are
SURE = 0.02  # share of a training from which on its time is a measurement


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


def share_trained(run: Path) -> float | None:
    """The share of a training that is done, by its `metrics.csv` and `config.yaml`; None while nothing is known."""
    log, config = run / "metrics.csv", run / "config.yaml"
    if not (log.is_file() and config.is_file()):
        return None
    steps = (yaml.safe_load(config.read_text(encoding="utf-8")).get("trainer") or {}).get("max_steps") or 0
    with log.open(newline="", encoding="utf-8") as file:
        logged = [int(row["step"]) for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
    return min(1.0, (max(logged) + 1) / steps) if logged and steps > 0 else None


def kind(step: Step) -> tuple[str, ...]:
    """The stage or verb of a step's first command: steps of one kind go at one pace."""
    words = list(step.commands[0])[1:4] if step.commands else []
    return tuple(word for number, word in enumerate(words) if not any(w.startswith("-") for w in words[: number + 1]))


class Progress:
    """The steps of a plan that are done, running and waiting, with the time that they took and will take.

    Costs of steps are relative. What a unit of cost takes on this machine is measured: by the steps that are done, and
    by the trainings that run; those of the same kind first.

    Args:
        steps: all that the plan does, those that are done too.
        folder: of the records and logs.
        done: names of the steps that were done before.
        jobs: how many run at a time.
    """

    def __init__(self, steps: Sequence[Step], folder: Path, done: set[str], jobs: int) -> None:
        self.steps = {step.name: step for step in steps}
        self.folder = folder
        self.jobs = jobs
        self.known = {name: (Record(folder, name).seconds, 1.0) for name in done}  # {step: (seconds, share)}
        self.running: dict[str, Record] = {}
        self.ended = set(done)
        self.live = sys.stdout.isatty()
        self.looked = 0.0
        self.told = bool(done)
        waiting = len(self.steps) - len(done)
        if done:
            say(f"{len(done)} of {len(self.steps)} steps are done already, in {minutes(self.spent())}.")
        if waiting:
            how = "" if done else " How long this takes is measured while the first of them run."
            say(f"{waiting} steps to do; what each of them prints is in {folder / LOGS}.{how}")

    def spent(self) -> float:
        """Seconds of the steps that are done."""
        return sum(self.known[name][0] for name in self.ended if name in self.known)

    def label(self, name: str) -> str:
        """Number and name of a step."""
        return f"[{list(self.steps).index(name) + 1}/{len(self.steps)}] {name}"

    def begin(self, step: Step, record: Record) -> None:
        """Say that a step starts."""
        self.running[step.name] = record
        self.line(f"{self.label(step.name)}: {step.about}")

    def end(self, name: str, failure: str = "") -> None:
        """Say that a step is done, or failed."""
        record = self.running.pop(name)
        self.ended.add(name)
        if failure:
            self.known.pop(name, None)
            self.line(f"{self.label(name)}: {failure}")
            return
        self.known[name] = record.seconds, 1.0
        left = self.left()
        more = f"; about {minutes(left)} left" if left else ""
        self.told = True
        self.line(f"{self.label(name)}: done in {minutes(record.seconds)}{more}")

    def leave_out(self, names: set[str]) -> None:
        """Expect some steps no longer: what they build on has failed."""
        self.ended |= names

    def pace(self, step: Step) -> float | None:
        """Seconds that a unit of a step's cost takes here; None where nothing has been measured."""
        for alike in (True, False):
            measured = [one for one in self.known if not alike or kind(self.steps[one]) == kind(step)]
            cost = sum(self.steps[one].cost * self.known[one][1] for one in measured)
            if cost > 0:
                return sum(self.known[one][0] for one in measured) / cost
        return None

    def left(self) -> float | None:
        """Seconds until everything is done; None where nothing has been measured."""
        total = 0.0
        for name, step in self.steps.items():
            if name in self.ended:
                continue
            pace, spent = self.pace(step), self.running[name].seconds if name in self.running else 0.0
            if pace is None:
                return None
            own = self.known.get(name)
            total += max(0.0, (own[0] / own[1] if own else pace * step.cost) - spent)
        return total / min(self.jobs, max(1, len(self.steps) - len(self.ended)))

    def show(self) -> None:
        """Look at the running trainings now and then, and say what that tells."""
        if not self.running or time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        for name, record in self.running.items():
            share = share_trained(self.steps[name].folder)
            if share is not None and share >= SURE:
                self.known[name] = record.seconds, share
        left = self.left()
        if left is not None and not self.told:
            self.told = True
            self.line(f"about {minutes(left)} left on this machine, by the pace of its first steps")
        if self.live:
            said = [f"{name} {self.known[name][1]:.0%}" if name in self.known else name for name in self.running]
            spent = [minutes(record.seconds) for record in self.running.values()]
            now = ", ".join(f"{one} ({time})" for one, time in zip(said, spent, strict=True))
            text = f"  {now}; about {minutes(left)} left" if left is not None else f"  {now}"
            sys.stdout.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stdout.flush()

    def line(self, text: str) -> None:
        """Say one line, in place of the live one."""
        if self.live:
            sys.stdout.write("\r\x1b[K")
        say(text)
