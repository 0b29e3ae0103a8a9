"""The page of what was survived: a row for each case."""

import platform
from pathlib import Path

import torch

from tests.faults.cases import Case
from tests.faults.watch import PHASES

TEXT = """# Runs that are killed

`make faults`: the command of a tiny run of every stage (8 steps, a save every 2, a validation every 3, fp32 on the CPU)
is killed by SIGKILL and given again until the run ends. Moments are drawn at random from those of an uninterrupted run,
each phase as often as another; some lie just before or after the change of a file. *Rows* is a row of `metrics.csv`,
*other files* are the configuration, the vocabulary and throughput.

A run is exact when it ends with what a run of another process ends with that nobody interrupted, bit for bit: every
batch that was taken for a step, weights, averages, optimisers, codebooks and schedules of the checkpoint, all files of
the release, and all rows of `metrics.csv`.

"""


def rows(cases: list[Case]) -> str:
    """The table alone, in Markdown."""
    phases = [phase for phase in PHASES if any(case.during[phase] for case in cases)]
    names = ["stage", "processes", "workers", "kills", *phases, "runs", "exact", "seconds"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for case in cases:
        during = [case.during[phase] for phase in phases]
        values = [case.stage, case.processes, case.workers, case.kills, *during, case.runs, case.exact]
        lines.append(f"| {' | '.join(map(str, values))} | {case.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def write(cases: list[Case], out: Path) -> None:
    """Write the page, with what was found below the table."""
    found = [f"- {case.name}: {' '.join(one.split())[:300]}\n" for case in cases for one in case.found]
    below = f"\nMeasured with torch {torch.__version__} and Python {platform.python_version()}.\n"
    problems = f"\n## Found\n\n{''.join(found)}" if found else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(TEXT + rows(cases) + below + problems)
