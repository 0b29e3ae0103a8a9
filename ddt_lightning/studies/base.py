"""The base of all studies that train: their settings, and one driver from the plan of runs to the findings."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.chains import check, is_done, run_chains
from ddt_lightning.plans.recipes import Overlay
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, write_findings
from ddt_lightning.shards.write import common_fields

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Study(ABC, Generic[Found]):
    """Runs that differ in what is studied and in nothing else. `Found` is what `collect` reads from the finished ones.

    Args:
        title: heading of tables and pictures.
        configs: YAML files of `ddt-fit` that every run starts from, merged in order; also the process layout.
        settings: overlay of every run.
        steps: optimizer steps of every run.
        seeds: of every run: fresh weights, order of the data.
        jobs: runs at a time; as many as there are cores where a run is one process of one thread.
    """

    CONFIG: ClassVar[str]
    """YAML file with the default of every field."""

    title: str
    configs: list[str]
    settings: Overlay = field(default_factory=dict)
    steps: int = 600
    seeds: list[int] = field(default_factory=lambda: [0])
    jobs: int = 1

    def __post_init__(self) -> None:
        for name in ("title", "configs"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty: name it in the study's YAML file, or as --{name}.")
        for name in ("steps", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` ({self.seeds}) must name each seed once, and at least one.")

    @abstractmethod
    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed, so that a stopped study has whole comparisons; writes nothing.

        Args:
            out: the study's folder.
        """

    def checked(self, run: Chain) -> Sequence[Step]:
        """The steps of a run whose settings can be read before anything has run."""
        return run.steps

    def prepare(self, out: Path) -> None:
        """Do what has to be done before the first run."""

    @abstractmethod
    def collect(self, out: Path) -> Found:
        """Read the results of the finished runs."""

    @abstractmethod
    def draw(self, found: Found, out: Path) -> None:
        """Draw the pictures of the findings; called where at least one run is finished."""

    @abstractmethod
    def findings(self, found: Found, failed: dict[str, str]) -> Findings:
        """The outcome, from the results and what went wrong, by run."""


def run_study(study: Study[Any], out: str, plan: bool) -> None:
    """Run what is not done of a study, and show the results.

    Args:
        study: the study.
        out: folder of everything written.
        plan: only list the runs.

    Raises:
        ValueError: the settings of a run make none; nothing has been run then.
        RuntimeError: runs failed; the others are done and shown.
    """
    folder = Path(out)
    runs = study.plan(folder)
    if plan:
        print("\n".join(f"{run.name}: {run.about}" for run in runs))
        return
    for run in runs:
        if not is_done(folder, run):
            for step in study.checked(run):
                check(step, run.name)
    study.prepare(folder)
    failed = run_chains(runs, folder, study.jobs)
    found = study.collect(folder)
    if any(is_done(folder, run) for run in runs):
        study.draw(found, folder)
    conclude(study.findings(found, failed), folder)


def conclude(found: Findings, out: Path) -> None:
    """Write and print what was found.

    Raises:
        RuntimeError: runs failed.
    """
    print(f"\n{write_findings(found, out)}\nEverything is in {out}; `ddt report {out}` makes a page of it.")
    if found.failed:
        raise RuntimeError(f"{len(found.failed)} runs failed ({', '.join(found.failed)}); see {out}/logs.")


def validations(run: Path, column: str) -> dict[int, float]:
    """{step: value} of a column of a run's metrics.csv that its validations write."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {round(float(row["step"])): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def token_sets(folders: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """Token shards for training and held out, as {name: {shards, val_shards}}.

    Args:
        folders: {name: folder} with `train/` and `val/`, or with `images-train-*.tar` and `images-val-*.tar`.
    """
    found = {}
    for name, folder in folders.items():
        pattern = "{}/*.tar" if (Path(folder) / "train").is_dir() else "images-{}-*.tar"
        found[name] = {option: [f"{folder}/{pattern.format(part)}"]
                       for option, part in (("shards", "train"), ("val_shards", "val"))}  # fmt: skip
    return found


def token_facts(shards: list[str], option: str) -> dict[str, Any]:
    """The `tokens.json` of token shards: K, codebook_size, tokenizer and more.

    Raises:
        FileNotFoundError: the shards, which `option` names, do not exist.
    """
    from ddt_lightning.shards.read import expand  # which imports torch

    facts, _ = common_fields(expand(list(shards), option), option)
    return facts


def check_renderer(renderer: str, tokenizer: str) -> None:
    """Refuse a renderer that was trained for other ids.

    Args:
        renderer: its run or folder.
        tokenizer: fingerprint of the tokenizer that made the ids.

    Raises:
        ValueError: the renderer is another tokenizer's.
    """
    config = find_part("renderer", renderer) / "config.json"
    made_for = json.loads(config.read_text(encoding="utf-8"))["tokenizer"]
    if made_for != tokenizer:
        raise ValueError(
            f"`renderer` ({renderer}) renders the ids of tokenizer {made_for}, and these are of {tokenizer}: name the "
            "renderer of this tokenizer, or none."
        )
