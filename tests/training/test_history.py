"""`metrics.csv` and the validation that was owed: a run that was killed anywhere has the rows of one that was not."""

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from lightning.pytorch.loggers import CSVLogger

from ddt_lightning import cli
from ddt_lightning.training.history import RunLogger, add_row, cut_rows, read_rows, write_rows
from ddt_lightning.training.kept import KeptCheckpoints

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml", "--checkpoint.every_n_train_steps=2"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def log(folder: Path, *rows: dict[str, float]) -> None:
    """What a call logs from its start on."""
    logger = RunLogger(folder)
    for row in rows:
        logger.log_metrics({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
        logger.save()


def test_rows_survive_restarts(tmp_path):
    path = tmp_path / "metrics.csv"
    log(tmp_path, *({"step": step, "loss": step / 10} for step in range(5)))
    cut_rows(path, 3)  # goes on from a checkpoint at step 3: rows 3 and 4 will be logged again
    log(tmp_path, *({"step": step, "loss": step, "new": 1} for step in (3, 4)))
    cut_rows(path, 5)
    log(tmp_path, {"step": 5, "loss": 5})
    rows = read_rows(path)
    assert [(int(r["step"]), float(r["loss"])) for r in rows] == [(0, 0), (1, 0.1), (2, 0.2), (3, 3), (4, 4), (5, 5)]
    assert [row["new"] for row in rows] == ["", "", "", "1", "1", ""]
    assert [one.name for one in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_file_is_that_of_a_run_without_a_restart(tmp_path):
    rows = [{"step": 0, "b": 0.1}, {"step": 1, "b": 1 / 3}, {"step": 2, "a": 2}, {"step": 2, "b": 3e-9, "c": 4}]
    log(tmp_path / "whole", *rows)
    for cut in range(4):
        folder = tmp_path / str(cut)
        log(folder, *rows[: cut + 2])
        cut_rows(folder / "metrics.csv", rows[cut]["step"])
        log(folder, *(row for row in rows if row["step"] >= rows[cut]["step"]))
        assert (folder / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_a_new_column_never_leaves_less_than_there_was(tmp_path):
    path = tmp_path / "metrics.csv"
    log(tmp_path, {"step": 0, "loss": 1})
    with patch.object(Path, "replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        add_row(path, {"step": 1, "other": 2}, ["other", "step"])
    assert read_rows(path) == [{"loss": "1", "step": "0"}]


def test_a_line_without_an_end_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    write_rows(path, [{"step": "0", "loss": "1"}])
    path.write_bytes(path.read_bytes() + b"1,0.")
    assert read_rows(path) == [{"step": "0", "loss": "1"}]
    cut_rows(path, 7)
    add_row(path, {"step": 1, "loss": 2}, ["step", "loss"])
    assert [row["step"] for row in read_rows(path)] == ["0", "1"]


def test_nothing_is_cut_from_nothing(tmp_path):
    cut_rows(tmp_path / "metrics.csv", 3)
    write_rows(tmp_path / "metrics.csv", [{"step": "3"}])
    cut_rows(tmp_path / "metrics.csv", 3)
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run without a fault."""
    run, place = tmp_path_factory.mktemp("whole") / "run", Path.cwd()
    os.chdir(ROOT)
    cli.fit("tokenizer", [*TINY, "--run_dir", str(run)])
    os.chdir(place)
    return run


class Killed(BaseException):
    """The process is gone: nothing that a trainer does at its end is done."""


def kill_after_save(run: Path, step: int) -> None:
    """What a call leaves that is killed as soon as the checkpoint of a step lies in its place."""
    left, save = run.with_name("left"), KeptCheckpoints.save_checkpoint

    def saved(self, checkpoint, path, **more):
        save(self, checkpoint, path, **more)
        if checkpoint["global_step"] == step:
            shutil.copytree(run, left)  # the trainer still writes while it clears up
            raise Killed

    with patch.object(KeptCheckpoints, "save_checkpoint", saved), pytest.raises(Killed):
        cli.fit("tokenizer", [*TINY, "--run_dir", str(run)])
    shutil.rmtree(run)
    left.rename(run)


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_killed_between_a_step_and_its_validation_validates_when_it_goes_on(step, whole, tmp_path, capsys):
    """At step 4 nothing is left to train."""
    killed = tmp_path / "killed"
    kill_after_save(killed, step)
    assert max(int(row["step"]) for row in read_rows(killed / "metrics.csv")) == step - 1  # the row of the last step
    for _ in range(2):
        cli.fit("tokenizer", [*TINY, "--run_dir", str(killed)])
        assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
        for file in (whole / "release").rglob("*.safetensors"):
            assert file.read_bytes() == (killed / file.relative_to(whole)).read_bytes()
        shutil.rmtree(killed / "release")
    assert ("nothing left to train" in capsys.readouterr().out) and os.listdir(killed / "checkpoints")


def test_a_finished_run_that_is_to_be_longer_keeps_its_last_validation(whole, tmp_path):
    longer = tmp_path / "longer"
    cli.fit("tokenizer", [*TINY, "--run_dir", str(longer), "--trainer.max_steps=2"])
    cli.fit("tokenizer", [*TINY, "--run_dir", str(longer)])
    assert (longer / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_logger_of_the_same_file_gives_way(tmp_path):
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger",
              "init_args": {"save_dir": str(tmp_path), "name": "", "version": ""}}  # fmt: skip
    other = {**logger, "init_args": {**logger["init_args"], "name": "other"}}
    trainer = cli.fit("tokenizer", [*TINY, "--run_dir", str(tmp_path), f"--trainer.logger={[logger, other]}"])
    assert [type(one) for one in trainer.loggers] == [RunLogger, CSVLogger]
    assert len(read_rows(tmp_path / "metrics.csv")) == len(read_rows(tmp_path / "other" / "metrics.csv")) == 6
