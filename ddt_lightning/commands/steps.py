"""Long plans of command lines: a step that has finished is skipped, a killed plan goes on where it was.

A step is skipped only when the fingerprint of its configuration, code, library versions and input steps is the one it
finished with. What is known of a step lies in `FOLDER/steps/NAME.json`; the output of its commands in a log beside.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ddt_lightning.cli import shipped

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "lightning", "transformers", "diffusers", "webdataset")
PR_SET_PDEATHSIG = 1  # of Linux's prctl
STEPS = "steps"  # the folder of records
POLL = 0.2  # seconds between two looks at a running command


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Args:
        name: of its record and log.
        about: what a person reads while it runs.
        commands: command lines: Python module and arguments.
        code: parts of the package whose source belongs to the fingerprint.
        seconds: expected duration.
        folder: what is removed before the step starts with another fingerprint.
    """

    name: str
    about: str
    commands: list[list[str]]
    code: tuple[str, ...]
    seconds: float
    folder: Path


def fit(stage: str, *args: str) -> list[str]:
    """A `ddt-fit` command line; two processes where there are two cores, behind the first `--config`."""
    layout = ["--config", "stages/cpu2.yaml"] if (os.cpu_count() or 1) > 1 else []
    return ["ddt_lightning.cli", stage, *args[:2], *layout, *args[2:]]


def processor_flags() -> set[str]:
    """What Linux says that the processor can do."""
    facts = Path("/proc/cpuinfo")
    return set(facts.read_text().split()) if facts.is_file() else set()


@functools.cache
def bf16_pays() -> bool:
    """Whether products in bf16 take less time than in fp32 on this processor.

    Measured, on one thread, because the flag does not say: of two processors with `avx512_bf16` one takes half the time
    and the other twice. Both are far from the bound, so that the answer, which is part of a plan's fingerprints, is the
    same at every call.
    """
    if not {"avx512_bf16", "amx_bf16"} & processor_flags():
        return False
    import torch

    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    factors = {dtype: (torch.ones(1536, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)) for dtype in best}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(20):
        for dtype, (a, b) in factors.items():
            started = time.perf_counter()
            torch.mm(a, b)  # as large as those of a small transformer
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    torch.set_num_threads(threads)
    return best[torch.bfloat16] < best[torch.float32] / 1.2


def mixed_precision() -> list[str]:
    """Options of a stage trained by muon, where bf16 makes a step on this processor faster."""
    if not bf16_pays():
        return []
    return ["--trainer.precision=bf16-mixed", "--model.optim.orthogonalise_in=bfloat16"]


def tokenizer_start(steps: int) -> list[str]:
    """How a tokenizer's run of `steps` steps starts, as in stages/tok.yaml.

    The warm-up is shorter only where the whole run is short; the power of the times falls over half of the run.
    """
    return [
        f"--model.tokenizer.quantizer.warmup_steps={min(250, steps // 4)}",
        f"--model.tokenizer.times.fall_steps={steps // 2}",
    ]


def digest_files(paths: list[Path]) -> str:
    """Hash of names and bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def fingerprint(step: Step, before: str) -> str:
    """What a step's result depends on: its commands and their YAML, its code, the libraries, and the steps before."""
    sources: list[Path] = []
    for part in step.code:
        path = PACKAGE / part
        sources += [path] if path.is_file() else list(path.glob("*.py"))
    words = [word for command in step.commands for word in command]
    yaml = [Path(shipped(word)) for word in words if word.endswith(".yaml")]
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    parts = [step.name, before, *words, *versions, digest_files(sources), digest_files(yaml)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def assemble_model(run: Path, language: str) -> None:
    """`run/model/`: all parts of a model side by side, as `Pipeline.from_pretrained` reads them.

    Args:
        run: folder with the runs of `tokenizer`, `renderer` and a language stage.
        language: the stage whose language model is taken.
    """
    folder = run / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("tokenizer", "renderer"):
        shutil.copytree(run / part / "release" / part, folder / part)
    for part in ("lm", "vocab"):
        shutil.copytree(run / language / "release" / part, folder / part)


class Record:
    """What is known of a step on disk: its fingerprint, the seconds spent on it, and whether it is done."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / STEPS / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fingerprint: str = known.get("fingerprint", "")
        self.seconds: float = known.get("seconds", 0.0)
        self.done: bool = known.get("done", False)

    def write(self) -> None:
        """Save, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({k: v for k, v in vars(self).items() if k != "path"}) + "\n")
        os.replace(temporary, self.path)


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


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


def leave(number: int, _: FrameType | None) -> NoReturn:
    """Answer a signal by leaving, so that what is open is closed."""
    raise SystemExit(128 + number)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block by an exception, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_caller() -> None:
    """On Linux: have this process told to stop when the one that started it is gone, however that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def running(step: Step, record: Record, log: Path) -> Generator[None]:
    """Run a step's commands, adding the time spent to its record as it goes; yields to its caller while one runs.

    A command that runs when this is closed is told to stop, and has a minute to save what it has.

    Raises:
        RuntimeError: a command failed; the message ends with the last lines of its output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONWARNINGS"] = "ignore"
    spent, started = record.seconds, time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        for command in step.commands:
            words = [sys.executable, "-m", *command]
            process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, preexec_fn=end_with_caller)
            try:
                while process.poll() is None:
                    yield
                    record.seconds = spent + time.monotonic() - started
                    record.write()
            except BaseException:
                process.terminate()
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
            if process.returncode:
                output.flush()
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"step {step.name} failed (exit code {process.returncode}), see {log}:\n{tail}")
    record.seconds = spent + time.monotonic() - started


def run_step(step: Step, record: Record, log: Path) -> None:
    """Run a step's commands to their end, or stop them when this is interrupted.

    Raises:
        RuntimeError: a command failed; the message ends with the last lines of its output.
    """
    with terminable(), closing(running(step, record, log)) as turns:
        for _ in turns:
            time.sleep(POLL)


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
