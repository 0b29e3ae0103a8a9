"""Runs of `ddt-fit` on several processes that are forks of one: what they import is imported once.

Started each by itself, a process of a run takes more time for its imports than a tiny model takes for its training;
four of them then need minutes on a busy machine of two cores. A fork must come before torch starts threads, so the
forks are not those of the tests' own process:

    python -m tests.forked '[[4, "pretrain", ["--config", "stages/pretrain.yaml", "--trainer.devices=4"]]]'
"""

import faulthandler
import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from signal import SIGKILL

from tests.faults.calls import free_port

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""A run that takes longer says where each of its processes stands, and ends."""

Run = tuple[int, str, list[str]]  # processes, stage, arguments


def fit(*runs: Run) -> None:
    """Run them to their ends, one after another."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    command = [sys.executable, "-m", "tests.forked", json.dumps(runs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def process(rank: int, processes: int, port: int, stage: str, words: list[str]) -> int:
    """One process of a run; its exit code."""
    from ddt_lightning import cli

    faulthandler.dump_traceback_later(SECONDS, exit=True)
    places = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    try:
        cli.fit(stage, [*words, f"--trainer.devices={processes}"])
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(processes: int, stage: str, words: list[str]) -> bool:
    """Fork the processes of a run and wait for them; whether all came to their ends. One that fails ends the others."""
    port, running, good = free_port(), set(), True
    for rank in range(processes):
        pid = os.fork()
        if not pid:
            code = process(rank, processes, port, stage, words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        running.add(pid)
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and good:
            good = False
            for other in running:
                os.kill(other, SIGKILL)
    return good


def main() -> None:
    """Import what the stages need, then run."""
    from ddt_lightning import cli

    runs: list[Run] = json.loads(sys.argv[1])
    for stage in {stage for _, stage, _ in runs}:
        for target in cli.STAGES[stage]:
            cli.locate(target)
    for name in ("ddt_lightning.training.parallel", "transformers.models.llama.modeling_llama"):
        import_module(name)
    for one in runs:
        if not run(*one):
            sys.exit(1)


if __name__ == "__main__":
    main()
