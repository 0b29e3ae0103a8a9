"""One stage with so many processes and data workers: it is run, killed and restarted until it ends, and compared."""

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.device.rehearsal import fit_words
from tests.faults.calls import SURVIVE, Outcome, call
from tests.faults.compare import differences, other_batches
from tests.faults.moments import Moment, draw_moment
from tests.faults.watch import PHASES, Watch

ROOT = Path(__file__).parents[2]
LENGTH = ["--trainer.max_steps=8", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=2"]
"""Saves and validations in turn, some of both after the same step."""
MOST_CALLS = 10
"""Calls without a kill between two of them; more mean that a run does not get on."""
MOST_FOUND = 20
"""Findings after which a case is left."""


@dataclass
class Case:
    """A stage, and what became of its runs.

    Args:
        stage: a step of the rehearsal, whose data and weights the runs take.
        processes: 1 or 2.
        workers: that load data; 0 loads in the process itself.
        kills: that were survived.
        runs: that were killed and ended.
        exact: how many of them ended with what an uninterrupted run ends with.
        calls: command lines that it took.
        seconds: of the whole case.
        during: kills by what the first process was doing.
        found: what was wrong.
    """

    stage: str
    processes: int
    workers: int
    kills: int = 0
    runs: int = 0
    exact: int = 0
    calls: int = 0
    seconds: float = 0.0
    during: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Folder of its runs."""
        return f"{self.stage}-{self.processes}-{self.workers}"

    def words(self, world: Path, run: Path) -> list[str]:
        """The command line of a run, behind `ddt fit`."""
        more = ["--config", "stages/cpu2.yaml"] if self.processes == 2 else []
        more += [f"--data.workers={self.workers}"] if self.workers else []
        return [*fit_words(self.stage, world, run), *more, *LENGTH, f"--trainer.callbacks+={Watch.__module__}.Watch"]

    def compare(self, whole: Path, run: Path) -> bool:
        """Whether two runs are equal; what differs is added to what was found, and the second run removed if not."""
        found = [*differences(whole, run), *other_batches(whole, run, self.processes)]
        self.found += [f"{run.name}: {one}" for one in found]
        if not found:
            for path in run.parent.glob(f"{run.name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return not found

    def killed(self, moment: Moment | None, outcome: Outcome) -> bool:
        """Whether a call has to be restarted; one that failed by itself is added to what was found."""
        self.calls += 1
        if -9 not in outcome.codes:
            if any(outcome.codes):
                self.found.append(f"a call ended by itself with {outcome.codes}: {outcome.said}")
            return False
        self.kills += 1
        phase = outcome.lines[-1]["at"] if outcome.lines else PHASES[0]
        self.during[phase] += 1
        if outcome.late > SURVIVE:
            ranks = moment.ranks if moment else ()
            self.found.append(f"a process stayed {outcome.late:.0f} s after the kill of {ranks} ({phase})")
        return True

    def survive(self, world: Path, folder: Path, kills: int, draw: random.Random) -> None:
        """Run without a fault, then kill and restart runs until there were enough kills."""
        started, whole = time.monotonic(), folder / "whole"
        folder.mkdir(parents=True)
        uninterrupted([sys.executable, "-m", "ddt_lightning.cli", "fit", *self.words(world, whole)])
        one = call(self.words(world, folder / "again"), folder / "again", self.processes)
        if any(one.codes):
            self.found.append(f"a call without a kill ended with {one.codes}: {one.said}")
            return
        self.compare(whole, folder / "again")
        while self.kills < kills and len(self.found) < MOST_FOUND:
            run = folder / f"run-{self.runs}"
            self.runs += 1
            for _ in range(kills + MOST_CALLS):
                moment = draw_moment(one.lines, self.processes, draw) if self.kills < kills else None
                if not self.killed(moment, call(self.words(world, run), run, self.processes, moment)):
                    break
            self.exact += self.compare(whole, run)
        self.seconds = time.monotonic() - started


def uninterrupted(command: list[str]) -> None:
    """A command in a process of its own, as a user starts it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} fails without a fault: {done.stderr[-2000:]}")
