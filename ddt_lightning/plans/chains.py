"""What studies share: runs of several steps, each skipped when it is done as it would be now, continued when killed.

A run is a chain of command lines (train, then measure). In one folder: `variants/` (the overlays that runs differ by),
`steps/` (what is known of each step) and `logs/`. Fingerprints are those of `plans/step.py`, and each covers the
steps before it and the shards that the first one reads.
"""

import hashlib
import json
import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ddt_lightning import cli
from ddt_lightning.atomic import write_text
from ddt_lightning.plans.plan import minutes, say
from ddt_lightning.plans.process import POLL, running, terminable
from ddt_lightning.plans.step import CLI, Record, Step, fingerprint, open_record
from ddt_lightning.settings import merge, shipped

Overlay = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One thing to train and measure.

    Args:
        name: what a person reads.
        about: the same, of what is being done.
        steps: in order, each with its fingerprint.
    """

    name: str
    about: str
    steps: list[tuple[Step, str]]


def overlaid(*parts: Overlay) -> Overlay:
    """Overlays merged in order, into a new one."""
    merged: Overlay = {}
    for part in parts:
        merge(merged, json.loads(json.dumps(part)))  # a copy: merging fills nested mappings
    return merged


def fit_step(
    name: str, stage: str, configs: Sequence[str], overlay: Overlay, seed: int, out: Path, folder: Path
) -> Step:
    """The step that trains one language model; writes its overlay.

    Args:
        name: of the step and of the overlay.
        stage: of `ddt-fit`.
        configs: YAML files below the overlay.
        overlay: what this run says beyond them.
        seed: of the run.
        out: the study's folder.
        folder: the run's.
    """
    file = out / "variants" / f"{name}.yaml"
    write_text(file, yaml.safe_dump(overlay, sort_keys=False))
    words = [word for config in (*configs, str(file)) for word in ("--config", config)]
    command = [CLI, "fit", stage, *words, "--run_dir", str(folder), "--seed_everything", str(seed)]
    return Step(name, f"train {name}", [command], 0.0, folder)


def verb_step(name: str, verb: str, options: dict[str, Any], folder: Path) -> Step:
    """The step of a `ddt` verb that writes `folder`.

    Args:
        name: of the step.
        verb: e.g. `eval t2i`.
        options: of the verb; those that are None are left out.
        folder: what the verb writes, given as its `--out`.
    """
    words = [*verb.split(), "--out", str(folder)]
    for option, value in options.items():
        if value is not None:
            words += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    return Step(name, verb, [[CLI, *words]], 0.0, folder)


def chain(steps: Sequence[Step], before: str = "") -> list[tuple[Step, str]]:
    """Steps with their fingerprints, each of which covers those before it, and `before`."""
    found = []
    for step in steps:
        before = fingerprint(step, before)
        found.append((step, before))
    return found


def inputs_mark(patterns: Sequence[str], option: str) -> str:
    """What a result depends on of the shards it is made from: their names, sizes, and the `tokens.json` beside them.

    Raises:
        FileNotFoundError: a pattern matches nothing; the message names `option`.
    """
    from ddt_lightning.shards.read import expand  # which imports torch

    digest = hashlib.blake2b(digest_size=8)
    urls = expand(list(patterns), option)
    for url in urls:
        digest.update(f"{url} {Path(url).stat().st_size if Path(url).is_file() else 'remote'}\n".encode())
    for folder in dict.fromkeys(Path(url).parent for url in urls):
        if (folder / "tokens.json").is_file():
            digest.update((folder / "tokens.json").read_bytes())
    return digest.hexdigest()


def weights_mark(folder: Path) -> str:
    """What a result depends on of the weights it is made with: their place, size and time."""
    weights = folder / "model.safetensors"
    facts = weights.stat()
    return f"{weights} {facts.st_size} {facts.st_mtime_ns}"


def is_done(out: Path, steps: Sequence[tuple[Step, str]]) -> bool:
    """Whether steps were done as they would be now."""
    records = [(Record(out, step.name), step.folder, mark) for step, mark in steps]
    return all(record.done and record.fingerprint == mark and folder.exists() for record, folder, mark in records)


def check(step: Step, label: str) -> None:
    """Read a step's settings as its commands will, without running them.

    Raises:
        ValueError: naming `label`, where they make no run.
    """
    from ddt_lightning.training.run import StageCLI

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # or every trainer lists the devices
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    for _, *words in step.commands:
        if words[0] != "fit":
            verb, rest = cli.split_verb(words)
            cli.parse(verb, cli.load(verb), rest)
            continue
        stage, args = words[1], [shipped(word) for word in words[2:]]
        net, data = (cli.locate(target) for target in cli.STAGES[stage])
        try:
            StageCLI(net, data, args=args, stage=stage)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
        except SystemExit as usage:
            raise ValueError(f"{label} is not a configuration of `ddt-fit {stage}`, see above.") from usage


def work(run: Run, out: Path, busy: set[str]) -> Generator[None]:
    """Run the steps of a run that are not done; yields to its caller while one runs.

    Args:
        run: what to do.
        out: the study's folder.
        busy: names of the steps that run now: one that another run is at is waited for.

    Raises:
        RuntimeError: a step failed.
    """
    for step, mark in run.steps:
        while step.name in busy:
            yield
        record = open_record(out, step, mark)
        if not record.done:
            record.write()
            busy.add(step.name)
            try:
                yield from running(step, record, out / "logs" / f"{step.name}.log")
            finally:
                busy.remove(step.name)
            record.done = True
            record.write()


def run_all(runs: Sequence[Run], out: Path, jobs: int = 1) -> dict[str, str]:
    """Run what is not done; a run that fails does not stop the others.

    Args:
        runs: in order; a step that several of them share is run once.
        out: the study's folder.
        jobs: how many at a time.

    Returns:
        What went wrong, by name of the run.
    """
    queue = [run for run in runs if not is_done(out, run.steps)]
    active: dict[str, Generator[None]] = {}
    failed: dict[str, str] = {}
    busy: set[str] = set()
    began, total = time.monotonic(), len(queue)
    if total < len(runs):
        say(f"{len(runs) - total} of {len(runs)} runs are done already.")
    with terminable():
        try:
            while queue or active:
                while queue and len(active) < jobs:
                    run, *queue = queue
                    ended = total - len(queue) - 1 - len(active)
                    left = f"; {minutes((time.monotonic() - began) / ended * (total - ended))} left" if ended else ""
                    say(f"[{total - len(queue)}/{total}] {run.name}: {run.about}{left}")
                    active[run.name] = work(run, out, busy)
                running_before = len(active)
                for name, turns in list(active.items()):
                    try:
                        next(turns)
                    except StopIteration:
                        del active[name]
                    except RuntimeError as error:
                        del active[name]
                        failed[name] = [line for line in str(error).splitlines() if line.strip()][-1]
                        say(f"  {name} failed: {failed[name]}")
                if len(active) == running_before:
                    time.sleep(POLL)
        finally:
            for turns in active.values():
                turns.close()
    return failed
