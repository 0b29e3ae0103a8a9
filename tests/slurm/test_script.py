"""stages/slurm.sbatch with programs that write down what they are given, in place of SLURM's and the project's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "stages" / "slurm.sbatch"
SIZES = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "3"}
GIVEN = {"STAGE": "pretrain", "CONFIG": "--config a.yaml --config b.yaml", "ARGS": "--data.shards i-*.tar"}
FIT = "ddt-fit pretrain --config a.yaml --config b.yaml --trainer.num_nodes=2 --trainer.devices=4 --data.shards i-*.tar"

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")


def run(place: Path, codes: dict[str, int], **more: str) -> tuple[int, list[str]]:
    """Exit code of the script, and the command lines that it starts; a program ends with its code in `codes`, or 0."""
    log, commands = place / "log", place / "bin"
    commands.mkdir()
    passing = 'case "$1" in ddt*|apptainer) exec "$@";; esac\n'
    for name in ("srun", "scontrol", "apptainer", "ddt", "ddt-fit"):
        more_of_it = {"srun": passing, "apptainer": 'while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"\n'}
        said = f'echo "{name} $SRUN_CPUS_PER_TASK $*" >> {log}\n'
        (commands / name).write_text(
            f"#!/bin/bash\nset -f\n{said}{more_of_it.get(name, '')}exit {codes.get(name, 0)}\n"
        )
        (commands / name).chmod(0o755)
    (place / "i-0.tar").touch()
    env = {"PATH": f"{commands}:{os.environ['PATH']}", **SIZES, **GIVEN, **more}
    done = subprocess.run(["bash", str(SCRIPT)], cwd=place, env=env, capture_output=True, text=True)
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def of(program: str, lines: list[str]) -> list[str]:
    """The command lines of one program, without the cores a task of it gets."""
    assert all(line.split()[1] == "3" for line in lines)
    return [line.replace(" 3 ", " ", 1) for line in lines if line.split()[0] == program]


def test_a_run_takes_the_sizes_of_the_job(tmp_path):
    code, lines = run(tmp_path, {})
    assert code == 0 and of("srun", lines) == ["srun ddt health", f"srun {FIT}"]
    assert of("ddt", lines) == ["ddt health"] and of("ddt-fit", lines) == [FIT] and not of("scontrol", lines)


@pytest.mark.parametrize(("code", "again"), [(138, ["scontrol requeue 17"]), (1, []), (143, [])])
def test_only_a_run_out_of_time_is_requeued(tmp_path, code, again):
    found, lines = run(tmp_path, {"ddt-fit": code})
    assert found == code and of("scontrol", lines) == again


def test_nothing_is_trained_on_machines_that_are_not_sound(tmp_path):
    code, lines = run(tmp_path, {"ddt": 1})
    assert code == 1 and of("srun", lines) == ["srun ddt health"]


@pytest.mark.parametrize(
    ("more", "options"), [({}, "--nv"), ({"CONTAINER_ARGS": "--nv --bind /data"}, "--nv --bind /data")]
)
def test_everything_runs_in_the_container(tmp_path, more, options):
    code, lines = run(tmp_path, {}, CONTAINER="a b.sif", **more)
    start = f"apptainer exec {options} a b.sif"
    assert code == 0 and of("apptainer", lines) == [f"{start} ddt health", f"{start} {FIT}"]
    assert of("ddt-fit", lines) == [FIT]


def test_a_job_without_a_stage_says_what_to_give(tmp_path):
    assert run(tmp_path, {}, STAGE="") == (1, [])
