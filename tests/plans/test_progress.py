"""Time left: measured on this machine by the steps that are done and the trainings that run."""

import pytest
import yaml

from ddt_lightning.plans import chains, progress
from ddt_lightning.plans.chains import run_chains
from ddt_lightning.plans.progress import Progress, minutes, share_trained
from ddt_lightning.plans.step import Chain, Record, Step


def step(name, folder, cost=1.0, *words):
    return Step(name, f"make {name}", [["ddt_lightning.cli", *(words or (name,))]], folder / name, cost=cost)


def train_until(folder, done, steps):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": steps}}))
    rows = [f"{number},1.0" for number in range(9, done, 10)]
    (folder / "metrics.csv").write_text("\n".join(["step,train/loss", *rows]) + "\n")


def took(folder, name, seconds):
    record = Record(folder, name)
    record.seconds = seconds
    return record


@pytest.fixture
def clock(monkeypatch):
    """A clock that every look moves on by a minute, so that no look is too early."""
    now = iter(range(60, 10**6, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))


def test_share_of_a_training_is_that_of_its_log(tmp_path):
    assert share_trained(tmp_path) is None
    train_until(tmp_path, 50, 200)
    assert share_trained(tmp_path) == 0.25
    (tmp_path / "metrics.csv").write_text("step,train/loss\n")
    assert share_trained(tmp_path) is None


def test_nothing_is_said_before_it_is_measured_and_then_by_the_pace_of_this_machine(tmp_path, capsys, clock):
    steps = [step("scenes", tmp_path, 10), step("tokenizer", tmp_path, 200), step("eval", tmp_path, 40)]
    seen = Progress(steps, tmp_path, set(), 1)
    seen.begin(steps[0], took(tmp_path, "scenes", 0.0))
    assert seen.left() is None
    seen.running["scenes"].seconds = 20.0  # twice as long as the plan says
    seen.end("scenes")
    assert seen.left() == pytest.approx(2 * (200 + 40))
    seen.begin(steps[1], took(tmp_path, "tokenizer", 30.0))
    assert seen.left() == pytest.approx(2 * (200 + 40) - 30)
    train_until(tmp_path / "tokenizer", 50, 200)  # a quarter after 30 seconds: this one is faster
    seen.show()
    assert seen.left() == pytest.approx(90 + 40 * (20 + 30) / (10 + 50))
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"3 steps to do; what each of them prints is in {tmp_path / 'logs'}. "
        "How long this takes is measured while the first of them run.",
        "[1/3] scenes: make scenes",
        "[1/3] scenes: done in 20 s; about 8 min left",
        "[2/3] tokenizer: make tokenizer",
    ]


def test_the_first_measurement_is_said_once(tmp_path, capsys, clock):
    steps = [step("tokenizer", tmp_path, 200), step("eval", tmp_path, 40)]
    seen = Progress(steps, tmp_path, set(), 1)
    seen.begin(steps[0], took(tmp_path, "tokenizer", 60.0))
    seen.show()
    for done in (50, 100):
        train_until(tmp_path / "tokenizer", done, 200)
        seen.show()
    lines = [line for line in capsys.readouterr().out.splitlines() if "this machine" in line]
    assert lines == ["about 4 min left on this machine, by the pace of its first steps"]


def test_steps_of_one_kind_go_at_one_pace(tmp_path):
    """The studies' steps have no estimates: what was measured of trainings counts for trainings."""
    kinds = {"train": ("fit", "pretrain", "--x"), "eval": ("eval", "t2i", "--y")}
    steps = [step(f"{kind}.{n}", tmp_path, 1.0, *words) for n in range(3) for kind, words in kinds.items()]
    for name, seconds in (("train.0", 100.0), ("eval.0", 10.0)):
        took(tmp_path, name, seconds).write()
    assert Progress(steps, tmp_path, {"train.0", "eval.0"}, 1).left() == pytest.approx(2 * 110)
    assert Progress(steps, tmp_path, {"train.0", "eval.0"}, 2).left() == pytest.approx(110)


def test_steps_behind_a_failure_are_not_expected(tmp_path, capsys, monkeypatch):
    """Of two chains the first one fails at its first step; the other's steps alone are left."""

    def running(one, record, log):
        if one.name == "a1":
            raise RuntimeError("it broke")
        record.seconds = 50.0
        one.folder.mkdir()
        return iter(())

    monkeypatch.setattr(chains, "running", running)
    plan = [Chain(name, "", [step(f"{name}{n}", tmp_path, 1.0, "doctor") for n in (1, 2)]) for name in "ab"]
    assert run_chains(plan, tmp_path) == {"a": "it broke"}
    assert "[3/4] b1: done in 50 s; about 50 s left" in capsys.readouterr().out


def test_a_plan_in_a_pipe_prints_two_lines_a_step(tmp_path, capsys, monkeypatch):
    def running(one, record, log):
        yield
        record.seconds = 100.0
        one.folder.mkdir()

    monkeypatch.setattr(chains, "running", running)
    monkeypatch.setattr(chains, "POLL", 0.0)
    names = ["scenes", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "eval", "report"]
    plan = [Chain("demo", "", [step(name, tmp_path, 1.0, "doctor") for name in names])]
    assert run_chains(plan, tmp_path) == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(names) and "\r" not in "".join(lines)
    assert lines[-1] == "[8/8] report: done in 2 min" and "left" in lines[-3]
    assert run_chains(plan, tmp_path) == {}
    assert capsys.readouterr().out == "8 of 8 steps are done already, in 13 min.\n"


def test_a_terminal_has_one_live_line(tmp_path, capsys, monkeypatch, clock):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    seen = Progress([step("tokenizer", tmp_path, 200)], tmp_path, set(), 1)
    seen.begin(seen.steps["tokenizer"], took(tmp_path, "tokenizer", 60.0))
    train_until(tmp_path / "tokenizer", 50, 200)
    seen.show()
    seen.end("tokenizer")
    live = capsys.readouterr().out.split("\n")[-2]
    assert "\r  tokenizer 25% (60 s); about 3 min left\x1b[K" in live and live.endswith("done in 60 s")


def test_durations_in_words():
    assert [minutes(seconds) for seconds in (0.2, 89, 90, 7200)] == ["1 s", "89 s", "2 min", "120 min"]
