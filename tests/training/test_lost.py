"""A process of a run dies or hangs: the others say so in a line, leave, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddt_lightning import cli
from ddt_lightning.training.checkpoint import resume_step
from ddt_lightning.training.kept import KeptCheckpoints, whole_checkpoint
from ddt_lightning.training.lost import lost_process

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml", "--trainer.limit_val_batches=0",
        "--trainer.max_steps=100000", "--trainer.callbacks+=ranks.MarkStep"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("DataLoader worker (pid 31) is killed by signal: Killed. ", "(pid 31) ended by signal Killed after step 7"),
        ("DataLoader worker (pid(s) 31, 32) exited unexpectedly", "(pid 31, 32) ended unexpectedly after step 7"),
    ],
)
def test_a_lost_process_for_data_is_named(text, how, tmp_path):
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), global_step=7, global_rank=0, world_size=1)
    said = str(lost_process(RuntimeError(text), trainer, 4))
    assert how in said and "fewer `--data.workers` than 4" in said and "there is no checkpoint yet" in said
    failed = RuntimeError("Caught RuntimeError in DataLoader worker process 0. shapes do not fit")
    assert lost_process(failed, trainer, 4) is None


def test_a_process_for_data_that_is_lost_while_saving_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def stopped(*_):
        raise RuntimeError("DataLoader worker (pid 31) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", stopped)
    with pytest.raises(RuntimeError, match=r"pid 31"):
        KeptCheckpoints().save_checkpoint({"global_step": 3}, tmp_path / "last.ckpt")


def test_lost_others_are_named_where_there_are_others(tmp_path):
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), global_step=7, global_rank=1, world_size=2)
    error = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    said = str(lost_process(error, trainer, 0))
    assert "process 1 of 2 lost the others after step 7" in said and "`answer_minutes`" in said
    assert lost_process(error, SimpleNamespace(**{**vars(trainer), "world_size": 1}), 0) is None
    assert lost_process(RuntimeError("shapes do not fit"), trainer, 0) is None


def test_no_time_to_answer_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *TINY[:4], "--run_dir", str(tmp_path), "--answer_minutes=0"])
    assert left.value.code == 1 and "`answer_minutes` (0.0) must be above 0" in capsys.readouterr().err


def start(run: Path, *words: str) -> subprocess.Popen:
    """A run in processes of its own."""
    command = [sys.executable, "-m", "ddt_lightning.cli", "fit", "tokenizer", *TINY, "--run_dir", str(run), *words]
    path = f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, **pipes)


def at_work(process: subprocess.Popen, run: Path, ranks: int) -> list[int]:
    """Wait for the third step of every process, and name them."""
    files = [run / f"rank-{rank}.pid" for rank in range(ranks)]
    while not all(file.is_file() and file.read_text() for file in files):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    return [int(file.read_text()) for file in files]


def running(pid: int) -> bool:
    """True for a process that is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(process: subprocess.Popen, run: Path, pids: list[int]) -> str:
    """What a run says that ends within a minute, all of it, by a failure, and with a whole checkpoint."""
    started = time.monotonic()
    said = process.communicate(timeout=120)[1]
    while any(map(running, pids)) and time.monotonic() - started < 60:
        time.sleep(0.1)
    assert not any(map(running, pids)) and time.monotonic() - started < 60
    assert process.returncode != 0 and "Traceback" not in said, said
    path, problems = whole_checkpoint(run)
    assert path is not None and resume_step(path) >= 2 and problems == []
    return said


@pytest.mark.slow
def test_a_run_whose_process_for_data_is_killed_ends_in_a_line(tmp_path):
    process = start(tmp_path, "--data.workers=1")
    pids = at_work(process, tmp_path, 1)
    (child,) = children(pids[0])
    os.kill(child, signal.SIGKILL)
    said = ended(process, tmp_path, [*pids, child])
    assert process.returncode == 1 and len(said.splitlines()) == 1, said
    assert f"(pid {child}) ended by signal Killed" in said and "the same command goes on after step" in said


def children(pid: int) -> list[int]:
    """Processes that load data: children that were forked, and so have the command line of their parent."""
    own = Path(f"/proc/{pid}/cmdline").read_bytes()
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes() == own]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)])
def test_a_process_that_dies_or_hangs_ends_the_run(number, rank, tmp_path):
    """One that hangs is given up after 12 seconds. The first process is the command itself: who started it sees it."""
    process = start(tmp_path, "--config", "stages/cpu2.yaml", "--answer_minutes=0.2")
    pids = at_work(process, tmp_path, 2)
    os.kill(pids[rank], number)
    said = ended(process, tmp_path, pids)
    assert "lost the others after step" in said or "terminated with code" in said, said
    assert "the same command goes on after step" in said or rank == 1, said


@pytest.mark.slow
def test_a_process_of_a_run_that_is_killed_as_it_starts_does_not_wait_for_it(tmp_path):
    process = start(tmp_path, "--config", "stages/cpu2.yaml")
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (others := [pid for pid in map(int, listed.read_text().split()) if b"fit" in command_of(pid)]):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    started = time.monotonic()
    while any(map(running, others)) and time.monotonic() - started < 60:
        time.sleep(0.1)
    assert len(others) == 1 and not any(map(running, others))


def command_of(pid: int) -> bytes:
    """The command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
