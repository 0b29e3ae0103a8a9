"""Steps, chains of steps, and the record of what has been done.

A plan is data: planning reads files and writes none. What a step needs beside its command lines it carries along: texts
of files, a mark of its inputs, a function to call before its commands.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddt_lightning.atomic import write_json

STEPS = "steps"  # the folder of records
LOGS = "logs"  # and that of the commands' output


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Args:
        name: of its record and log; steps of one name in several chains are one step, and must be equal.
        about: what a person reads while it runs.
        commands: command lines: Python module and arguments.
        folder: what the commands make; it is removed before the step starts with another fingerprint.
        files: {path as the commands name it: text} of files that are written right before the commands run.
        inputs: marks of shards and weights that the result depends on beside commands, code and earlier steps.
        before: function that is called right before the commands run, in this process.
        cost: expected duration, relative to the other steps of the plan; no part of the fingerprint.
    """

    name: str
    about: str
    commands: Sequence[Sequence[str]]
    folder: Path
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: str = ""
    before: Callable[[], object] | None = None
    cost: float = 1.0


@dataclass(frozen=True)
class Chain:
    """Steps that build on each other, in order.

    Args:
        name: what a person reads.
        about: what the steps do, for lists of a plan.
        steps: each one's fingerprint covers those before it.
    """

    name: str
    about: str
    steps: Sequence[Step]


class Record:
    """Record of a step on disk: its fingerprint, the seconds spent on it, and whether it is done."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / STEPS / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fingerprint: str = known.get("fingerprint", "")
        self.seconds: float = known.get("seconds", 0.0)
        self.done: bool = known.get("done", False)

    def write(self) -> None:
        """Save, in one step."""
        write_json(self.path, {name: value for name, value in vars(self).items() if name != "path"})


def open_record(folder: Path, step: Step, mark: str) -> Record:
    """The record of a step whose fingerprint is now `mark`.

    What another fingerprint left is removed first; where the step's folder is gone, the step is not done.
    """
    record = Record(folder, step.name)
    if record.fingerprint != mark:
        remove = shutil.rmtree if step.folder.is_dir() else Path.unlink
        if step.folder.exists():
            remove(step.folder)
        record.fingerprint, record.seconds, record.done = mark, 0.0, False
    record.done = record.done and step.folder.exists()
    return record
