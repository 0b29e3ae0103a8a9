"""The engine of all plans: chains of steps, some at a time; what is done is skipped, a killed plan goes on.

A step is skipped only when its fingerprint (commands, files, inputs, code, libraries, earlier steps) is the one it
finished with. The plan's folder holds `steps/NAME.json`, what is known of each step, and `logs/NAME.log`, the output
of its commands.
"""

import logging
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from ddt_lightning import cli
from ddt_lightning.atomic import write_text
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.plans.process import POLL, running, terminable
from ddt_lightning.plans.progress import Progress
from ddt_lightning.plans.step import LOGS, Chain, Record, Step, open_record
from ddt_lightning.settings import shipped


def is_done(folder: Path, chain: Chain) -> bool:
    """Whether all steps of a chain were done as they would be now."""
    return len(done_steps(folder, chain)) == len(chain.steps)


def done_steps(folder: Path, chain: Chain) -> set[str]:
    """Names of the steps of a chain that were done as they would be now."""
    records = [
        (Record(folder, step.name), step, mark) for step, mark in zip(chain.steps, fingerprints(chain), strict=True)
    ]
    return {
        step.name
        for record, step, mark in records
        if record.done and record.fingerprint == mark and step.folder.exists()
    }


def check(step: Step, label: str) -> None:
    """Read a step's settings as its commands will, without running them.

    Raises:
        ValueError: naming `label`, where they make no run.
    """
    from ddt_lightning.training.run import StageCLI

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # or every trainer lists the devices
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        written = {}
        for number, (path, text) in enumerate(step.files.items()):
            written[path] = str(Path(place) / f"{number}-{Path(path).name}")
            write_text(Path(written[path]), text)
        for _, *words in step.commands:
            words = [shipped(written.get(word, word)) for word in words]
            if words[0] != "fit":
                verb, rest = cli.split_verb(words)
                cli.parse(verb, cli.load(verb), rest)
                continue
            stage = words[1]
            if "--ckpt_path" in words and not Path(words[words.index("--ckpt_path") + 1]).exists():
                at = words.index("--ckpt_path")  # an earlier step writes it
                del words[at : at + 2]
            net, data = (cli.locate(target) for target in cli.STAGES[stage])
            try:
                StageCLI(net, data, args=words[2:], stage=stage)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            except SystemExit as usage:
                raise ValueError(f"{label} is not a configuration of `ddt-fit {stage}`, see above.") from usage


class Plan:
    """Chains being run in one folder.

    Args:
        chains: what to do; a step that several of them share is run once.
        folder: of the records and logs.
        jobs: how many chains at a time.

    Raises:
        ValueError: two different steps have one name.
    """

    def __init__(self, chains: Sequence[Chain], folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self.marks: dict[str, str] = {}
        self.broken: dict[str, str] = {}  # steps that failed, and why
        self.busy: set[str] = set()  # steps that run now
        steps, done = {}, set()
        for chain in chains:
            for step, mark in zip(chain.steps, fingerprints(chain), strict=True):
                if self.marks.setdefault(step.name, mark) != mark:
                    raise ValueError(f"two different steps of one plan are named {step.name!r}.")
                steps[step.name] = step
            done |= done_steps(folder, chain)
        self.waiting = [chain for chain in chains if not done.issuperset(step.name for step in chain.steps)]
        self.progress = Progress(list(steps.values()), folder, done, jobs)

    def work(self, chain: Chain) -> Generator[None]:
        """Run the steps of a chain that are not done; yields to its caller while one runs.

        Raises:
            RuntimeError: a step failed, or ended without what it makes.
        """
        for step in chain.steps:
            while step.name in self.busy:
                yield
            if step.name in self.broken:
                raise RuntimeError(self.broken[step.name])
            record = open_record(self.folder, step, self.marks[step.name])
            if record.done:
                continue
            record.write()
            self.busy.add(step.name)
            self.progress.begin(step, record)
            try:
                yield from self.run(step, record)
            except (RuntimeError, OSError, ValueError) as error:
                self.broken[step.name] = str(error)
                self.progress.end(step.name, failure=str(error))
                raise RuntimeError(str(error)) from error
            finally:
                self.busy.remove(step.name)
            record.done = True
            record.write()
            self.progress.end(step.name)

    def run(self, step: Step, record: Record) -> Generator[None]:
        """Write a step's files, then call and run what it consists of.

        Raises:
            RuntimeError: a command failed, or the step ended without what it makes.
        """
        for path, text in step.files.items():
            write_text(Path(path), text)
        if step.before is not None:
            step.before()
        yield from running(step, record, self.folder / LOGS / f"{step.name}.log")
        if not step.folder.exists():
            raise RuntimeError(f"step {step.name} ended without {step.folder}.")

    def finish(self) -> dict[str, str]:
        """Run all chains that wait; what went wrong, by name of the chain."""
        active: dict[str, tuple[Chain, Generator[None]]] = {}
        failed: dict[str, str] = {}
        try:
            while self.waiting or active:
                while self.waiting and len(active) < self.jobs:
                    chain, *self.waiting = self.waiting
                    active[chain.name] = chain, self.work(chain)
                before = len(active)
                for name, (chain, turns) in list(active.items()):
                    try:
                        next(turns)
                    except StopIteration:
                        del active[name]
                    except RuntimeError as error:
                        del active[name]
                        failed[name] = str(error).splitlines()[-1]
                        others = [*self.waiting, *(other for other, _ in active.values())]
                        needed = {step.name for other in others for step in other.steps}
                        self.progress.leave_out({step.name for step in chain.steps} - needed)
                self.progress.show()
                if len(active) == before:
                    time.sleep(POLL)
        except (KeyboardInterrupt, SystemExit):
            self.progress.line("stopped; the same call goes on from here")
            raise
        finally:
            for _, turns in active.values():
                turns.close()
        return failed


def run_chains(chains: Sequence[Chain], folder: Path, jobs: int = 1) -> dict[str, str]:
    """Run what is not done; a chain that fails does not stop the others.

    Args:
        chains: in order; a step that several of them share is run once. A sequential plan is one chain.
        folder: of the records and logs.
        jobs: how many chains at a time.

    Returns:
        The last line of what went wrong, by name of the chain.

    Raises:
        ValueError: two different steps have one name.
    """
    with terminable():
        return Plan(chains, folder, jobs).finish()


def run_to_end(steps: Sequence[Step], folder: Path, until: str) -> None:
    """Run a sequential plan up to one of its steps.

    Raises:
        ValueError: `until` names no step.
        ChildProcessError: a step failed.
    """
    names = [step.name for step in steps]
    if until not in names:
        raise ValueError(f"`--until` ({until}) is no step of this plan; it has {', '.join(names)}.")
    chain = Chain(until, "", steps[: names.index(until) + 1])
    if failed := run_chains([chain], folder):
        raise ChildProcessError(f"{failed[until]} (more in {folder / LOGS}; the same call goes on from there)")
