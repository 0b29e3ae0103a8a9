"""The page of what was survived, a row for each case; another call adds its cases."""

import platform
from pathlib import Path

import torch

from tests.faults.cases import Case
from tests.faults.watch import PHASES

TEXT = """# Runs that are killed

`make faults`: the command of a tiny run of every stage (8 steps, a save every 2, a validation every 3, fp32 on the CPU)
is killed by SIGKILL and given again until the run ends. Moments are drawn at random from those of an uninterrupted run,
each phase as often as another; some lie just before or after the change of a file. *Rows* is a row of `metrics.csv`,
*other files* are the configuration, the vocabulary and throughput. Of two processes one is killed, or both; the other
leaves by itself within a minute, or, where they had not met yet, is told to, as torchrun does.

A run is exact when it ends with what a run of another process ends with that nobody interrupted, bit for bit: every
batch that was taken for a step, weights, averages, optimisers, codebooks and schedules of the checkpoint, all files of
the release, and all rows of `metrics.csv`.

"""


Row = dict[str, str]


def row(case: Case) -> Row:
    """A case as cells by column."""
    during = {phase: str(case.during[phase]) for phase in PHASES}
    counts = {"kills": case.kills, **during, "runs": case.runs, "exact": case.exact, "seconds": round(case.seconds)}
    return {"stage": case.stage, "processes": str(case.processes), "workers": str(case.workers),
            **{name: str(value) for name, value in counts.items()}}  # fmt: skip


def earlier(out: Path, cases: list[Case]) -> list[Row]:
    """Rows of a page that was written before, but for those of cases that are measured anew."""
    lines = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    found = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    anew = {(case.stage, str(case.processes), str(case.workers)) for case in cases}
    return [one for one in found if (one["stage"], one["processes"], one["workers"]) not in anew]


def table(rows: list[Row]) -> str:
    """Rows in Markdown, with the phases in which there was a kill."""
    phases = [phase for phase in PHASES if any(one.get(phase, "0") != "0" for one in rows)]
    names = ["stage", "processes", "workers", "kills", *phases, "runs", "exact", "seconds"]
    lines = [names, *([one.get(name, "0") for name in names] for one in rows)]
    text = [f"| {' | '.join(line)} |\n" for line in lines]
    return text[0] + "|---" * len(names) + "|\n" + "".join(text[1:])


def write(cases: list[Case], out: Path) -> None:
    """Write the page, with what was found below the table; rows of other cases stay."""
    rows = [*(earlier(out, cases) if out.is_file() else []), *map(row, cases)]
    found = [f"- {case.name}: {' '.join(one.split())[:300]}\n" for case in cases for one in case.found]
    below = f"\nMeasured with torch {torch.__version__} and Python {platform.python_version()}.\n"
    problems = f"\n## Found\n\n{''.join(found)}" if found else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(TEXT + table(rows) + below + problems)
