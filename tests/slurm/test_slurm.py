"""stages/slurm.sbatch on a real SLURM of one node: trained, out of time, cancelled, requeued, and its node lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.slurm.cluster import Cluster, lacking
from tests.slurm.waiting import WaitForSignal

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "stages" / "slurm.sbatch"
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml", "--config", "stages/cpu2.yaml"]
SAVES, STEP, STEPS = 3, 4, 6
"""Steps between saves, after which step something happens, and steps of a run."""
LENGTH = [f"--trainer.max_steps={STEPS}", f"--checkpoint.every_n_train_steps={SAVES}", "--trainer.val_check_interval=3"]
WAIT = [f"--trainer.callbacks+={WaitForSignal.__module__}.WaitForSignal", f"--trainer.callbacks.init_args.step={STEP}"]
SIZES = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking())]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    one = Cluster()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of a run by two processes that this machine starts itself."""
    run = tmp_path_factory.mktemp("local")
    call = [sys.executable, "-m", "ddt_lightning.cli", "fit", "tokenizer", *TINY, *LENGTH, "--run_dir", str(run)]
    subprocess.run(call, cwd=ROOT, check=True, capture_output=True, timeout=600)
    return weights(run)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "release" / "tokenizer" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def submit(cluster: Cluster, run: Path, *options: str, more: list[str] = WAIT) -> int:
    """Submit stages/slurm.sbatch, which writes to `run` and says what it says in `run.log`."""
    words = {"STAGE": "tokenizer", "CONFIG": " ".join(TINY), "ARGS": " ".join([*LENGTH, *more, "--run_dir", str(run)])}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    places = [f"--chdir={ROOT}", f"--output={run}.log"]
    return cluster.submit(SCRIPT, *SIZES, *places, *options, PATH=path, PYTHONPATH=str(ROOT), **words)


def wait_until_it_waits(cluster: Cluster, run: Path) -> None:
    files = [run / f"waiting-{rank}" for rank in range(2)]
    cluster.wait(lambda: all(file.exists() for file in files), f"step {STEP} of {run}", 1200)


def at_step(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def check_requeued(cluster: Cluster, job: int, run: Path, local: dict[str, torch.Tensor]) -> str:
    """What a job said that was requeued once and ended with what an uninterrupted run ends with."""
    ended, said = cluster.end(job), Path(f"{run}.log").read_text()
    assert (ended["JobState"], ended["Restarts"], ended["ExitCode"]) == ("COMPLETED", "1", "0:0"), said
    assert same(weights(run), local), said
    assert not list(run.rglob("hpc_ckpt*")), "Lightning has answered a signal, too"
    return said


def test_two_tasks_train_what_two_local_processes_train(cluster, local, tmp_path):
    run = tmp_path / "run"
    ended = cluster.end(submit(cluster, run, more=[]))
    said = Path(f"{run}.log").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), said
    assert "healthy: " in said and "2 processes, machines: 1;" in said and "2 x cpu" in said
    assert same(weights(run), local)


def test_a_job_out_of_time_saves_requeues_itself_and_ends(cluster, local, tmp_path):
    run = tmp_path / "run"
    job = submit(cluster, run, "--time=4", "--signal=SIGUSR1@90")
    said = check_requeued(cluster, job, run, local)
    assert f"stopped by SIGUSR1 after step {STEP}" in said and f"goes on after step {STEP}" in said
    assert said.count("healthy: ") == 2


def test_a_cancelled_job_saves_and_stays_away(cluster, tmp_path):
    run = tmp_path / "run"
    job = submit(cluster, run)
    wait_until_it_waits(cluster, run)
    cluster.run("scancel", str(job))
    ended, said = cluster.end(job), Path(f"{run}.log").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), said
    cluster.wait(lambda: not cluster.started(), "the end of the processes", 120)
    assert f"stopped by SIGTERM after step {STEP}" in Path(f"{run}.log").read_text() and at_step(run) == STEP


def test_a_job_that_an_operator_requeues_saves_and_goes_on(cluster, local, tmp_path):
    run = tmp_path / "run"
    job = submit(cluster, run)
    wait_until_it_waits(cluster, run)
    cluster.run("scontrol", "requeue", str(job))
    said = check_requeued(cluster, job, run, local)
    assert f"stopped by SIGTERM after step {STEP}" in said and f"goes on after step {STEP}" in said


def test_a_lost_node_costs_less_than_a_save_interval(cluster, local, tmp_path):
    run = tmp_path / "run"
    job = submit(cluster, run)
    wait_until_it_waits(cluster, run)
    cluster.kill_node(job)
    said = check_requeued(cluster, job, run, local)
    assert f"goes on after step {SAVES}" in said and "stopped by" not in said
