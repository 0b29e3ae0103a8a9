"""A call with a time limit leaves a checkpoint, and the same call goes on to what an uninterrupted run ends with."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from safetensors.torch import load_file

from ddt_lightning import cli
from ddt_lightning.training.run import with_environment

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def at_step(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def test_a_call_whose_time_is_up_saves_and_the_same_call_goes_on(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    call = [*TINY, "--checkpoint.every_n_train_steps=100"]
    cli.fit("tokenizer", [*call, "--run_dir", str(whole)])
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *call, "--run_dir", str(parts), "--call_minutes=1e-6"])  # over before the first step
    assert left.value.code == 138 and at_step(parts) == 1
    assert "stopped by `call_minutes` (1e-06) after step 1" in capsys.readouterr().err
    for _ in range(2):  # the second has nothing left to do
        cli.fit_main(["tokenizer", *call, "--run_dir", str(parts), "--call_minutes=100"])
        a, b = (load_file(run / "release" / "tokenizer" / "model.safetensors") for run in (whole, parts))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)  # averaged weights
    assert losses(whole) == losses(parts) and sorted(losses(parts)) == [0, 1, 2, 3]


def test_no_time_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *TINY, "--run_dir", str(tmp_path), "--call_minutes=0"])
    assert left.value.code == 1 and "`call_minutes` (0.0) must be above 0" in capsys.readouterr().err


def test_the_end_by_max_time_is_saved(tmp_path):
    more = ["--trainer.max_steps=100000", "--trainer.max_time=00:00:00:01", "--checkpoint.every_n_train_steps=100000"]
    trainer = cli.fit("tokenizer", [*TINY, *more, "--trainer.limit_val_batches=0", "--run_dir", str(tmp_path)])
    assert 0 < trainer.global_step == at_step(tmp_path)
    assert not (tmp_path / "release").exists()


class InterruptAfter(pl.Callback):
    """Presses Ctrl-C at a step."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def interrupted(capsys: pytest.CaptureFixture, run: Path, step: int, times: int) -> str:
    callback = f"--trainer.callbacks+={InterruptAfter.__module__}.InterruptAfter"
    ending = [f"--trainer.callbacks.init_args.step={step}", f"--trainer.callbacks.init_args.times={times}"]
    more = ["--checkpoint.every_n_train_steps=100", "--trainer.limit_val_batches=0"]
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as left:
            cli.fit_main(["tokenizer", *TINY, *more, "--run_dir", str(run), callback, *ending])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert left.value.code == 130
    return capsys.readouterr().err


def test_ctrl_c_saves_after_the_step_and_says_so(tmp_path, capsys):
    text = interrupted(capsys, tmp_path, 1, 1)
    assert at_step(tmp_path) == 2 and not (tmp_path / "release").exists()
    assert text == "ddt-fit: stopped by Ctrl-C after step 2; the same command goes on from there\n"


def test_a_second_ctrl_c_stops_at_once(tmp_path, capsys):
    text = interrupted(capsys, tmp_path, 1, 2)
    assert text.startswith("ddt-fit tokenizer: interrupted") and not (tmp_path / "checkpoints" / "last.ckpt").exists()


class SayHandler(pl.Callback):
    """Notes who answers SIGUSR1 while a run starts: Lightning has registered its handlers, and ours come at once."""

    seen: ClassVar[list[object]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(signal.getsignal(signal.SIGUSR1))


def test_in_a_job_of_slurm_lightning_answers_no_signal(tmp_path, monkeypatch):
    job = {"JOB_ID": "17", "JOB_NAME": "ddt", "NTASKS": "1", "NTASKS_PER_NODE": "1", "NNODES": "1"}
    for name, value in {**job, "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    callback = f"--trainer.callbacks+={SayHandler.__module__}.SayHandler"
    before = signal.getsignal(signal.SIGUSR1)
    trainer = cli.fit("tokenizer", [*TINY, "--trainer.max_steps=2", "--run_dir", str(tmp_path), callback])
    assert trainer.global_step == 2 and SayHandler.seen == [before] == [signal.SIG_DFL]
    (environment,) = (one for one in with_environment(None) if isinstance(one, SLURMEnvironment))
    assert not environment.auto_requeue and with_environment(environment) == [environment]


def test_ctrl_c_of_a_terminal_leaves_the_loading_processes_at_work(tmp_path):
    more = ["--trainer.max_steps=100000", "--trainer.limit_val_batches=0", "--checkpoint.every_n_train_steps=100000"]
    call = [sys.executable, "-m", "ddt_lightning.cli", "fit", "tokenizer", *TINY, *more, "--data.workers=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([*call, "--run_dir", str(tmp_path)], cwd=ROOT, text=True, start_new_session=True, **pipes)
    said = iter(run.stdout.readline, "")
    assert any("steps 1 to" in line for line in said)
    time.sleep(3)  # the first step is under way
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to every process in the foreground
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    assert errors == f"ddt-fit: stopped by Ctrl-C after step {at_step(tmp_path)}; the same command goes on from there\n"
