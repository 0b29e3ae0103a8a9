"""`make faults`: every stage is killed at random moments, and ends with what an uninterrupted run ends with.

    python -m tests.faults --stages ddt rl --kills 5 --processes 1 2 --workers 0 2 --out faults.md

A case is a stage with a number of processes and of data workers. The exit code is 1 if anything differs; the runs that
do are kept.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.device.rehearsal import CONFIGS, STAGES, prepare
from tests.faults.calls import warm
from tests.faults.cases import ROOT, Case
from tests.faults.table import row, table, write


def main() -> None:
    """Every case of the command line, one after the other."""
    parser = argparse.ArgumentParser("faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--processes", nargs="+", type=int, choices=(1, 2), default=[1])
    parser.add_argument("--workers", nargs="+", type=int, default=[0], help="that load data")
    parser.add_argument("--kills", type=int, default=20, help="of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="file of the table; its rows of other cases stay")
    parser.add_argument("--work", type=Path, help="folder of the runs, kept; those that were equal are removed")
    given = parser.parse_args()
    os.chdir(ROOT)
    warm()
    work = (given.work or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    world = made(work / "world")
    cases: list[Case] = []
    for stage in given.stages:
        for processes in given.processes:
            for workers in given.workers:
                if workers and CONFIGS[stage][0] == "rl":  # its prompts are made in the process itself
                    continue
                case = Case(stage, processes, workers)
                cases.append(case)
                case.survive(world, work / case.name, given.kills, random.Random(f"{given.seed} {case.name}"))
                print(table([row(case)]) + "".join(f"  {one}\n" for one in case.found[:10]), flush=True)
                if given.out:
                    write(cases, given.out)
    print(table(list(map(row, cases))))
    wrong = any(case.found for case in cases)
    if wrong:
        print(f"The runs that differ lie in {work}.")
    elif not given.work:
        shutil.rmtree(work)
    sys.exit(wrong)


def made(world: Path) -> Path:
    """Make what the runs read, in a process of its own: a process with threads cannot be forked safely."""
    if not world.exists():
        part = world.with_name("world-partial")
        part.mkdir(parents=True)
        making = multiprocessing.get_context("fork").Process(target=prepare, args=(part,))
        making.start()
        making.join()
        if making.exitcode:
            raise RuntimeError("The shards and the model that the runs read could not be made.")
        part.rename(world)
    return world


if __name__ == "__main__":
    main()
