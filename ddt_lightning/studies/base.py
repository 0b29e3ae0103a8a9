"""What every study shares: its settings from YAML, its runs, and how it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ddt_lightning.plans.recipes import Overlay
from ddt_lightning.settings import read_yaml

if TYPE_CHECKING:
    from ddt_lightning.plans.step import Chain
    from ddt_lightning.report.findings import Findings


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every study of language models says about its runs.

    Args:
        title: what tables and pictures are headed with.
        configs: YAML files of `ddt-fit pretrain` that every run starts from, merged in order; also the process layout.
        settings: overlay of every run.
        steps: optimizer steps of every run.
        seeds: of every run: fresh weights, order of the data.
        jobs: runs at a time; as many as there are cores where a run is one process of one thread.
    """

    title: str
    configs: list[str]
    settings: Overlay = field(default_factory=dict)
    steps: int = 600
    seeds: list[int] = field(default_factory=lambda: [0])
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"`jobs` ({self.jobs}) must be at least 1.")
        if self.steps < 1:
            raise ValueError(f"`steps` ({self.steps}) must be at least 1.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` ({self.seeds}) must name each seed once, and at least one.")

    @classmethod
    def read(cls, path: str, changed: dict[str, Any]) -> Self:
        """A study from a YAML file.

        Args:
            path: the file.
            changed: fields to replace; those that are None stay.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it does not describe a study of this kind.
        """
        values = read_yaml([path])
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{path} has no option {unknown[0]!r}; this study has {', '.join(sorted(known))}.")
        values |= {name: value for name, value in changed.items() if value is not None}
        if missing := [name for name in ("title", "configs") if not values.get(name)]:
            raise ValueError(f"{path} lacks `{missing[0]}`.")
        return cls(**values)


def listed(runs: Sequence["Chain"], plan: bool) -> bool:
    """Whether only the plan was asked for; it is printed then."""
    for run in runs if plan else []:
        print(f"{run.name}: {run.about}")
    return plan


def check_all(runs: Sequence["Chain"], out: Path) -> None:
    """Read the settings of everything that waits.

    Raises:
        ValueError: settings make no run.
    """
    from ddt_lightning.plans import chains

    for run in runs:
        if not chains.is_done(out, run):
            for step in run.steps:
                chains.check(step, run.name)


def run_checked(runs: Sequence["Chain"], out: Path, jobs: int = 1) -> dict[str, str]:
    """Read the settings of everything that waits, then run it, some at a time; what failed, by run.

    Raises:
        ValueError: settings make no run; nothing has been run then.
    """
    from ddt_lightning.plans import chains

    check_all(runs, out)
    return chains.run_chains(runs, out, jobs)


def conclude(found: "Findings", out: Path) -> None:
    """Write and print what was found.

    Raises:
        RuntimeError: runs failed.
    """
    from ddt_lightning.report.findings import write_findings

    print(f"\n{write_findings(found, out)}\nEverything is in {out}; `ddt report {out}` makes a page of it.")
    if found.failed:
        raise RuntimeError(f"{len(found.failed)} runs failed ({', '.join(found.failed)}); see {out}/logs.")
