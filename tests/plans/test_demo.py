"""The demo: every command line parses, steps are skipped only when nothing changed, time adds up over restarts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ddt_lightning.plans import chains, demo
from ddt_lightning.plans.fingerprint import fingerprint
from ddt_lightning.plans.step import Record, Step
from tests.command_lines import parse_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("mode", demo.MODES)
def test_every_command_line_parses(mode, monkeypatch):
    steps = demo.plan(demo.MODES[mode])
    parse_plan(steps, monkeypatch)
    assert [step.name for step in steps] == [
        "scenes",
        "tokenizer",
        "renderer",
        "tokens",
        "pretrain",
        "instruct",
        "eval",
        "report",
    ]


def two_steps(run: Path, word: str = "one") -> list[Step]:
    """A plan of two real command lines: each packs a file into its folder."""
    (run / "input").write_text("x")

    def step(name: str, text: str) -> Step:
        command = ["zipfile", "-c", str(run / name / f"{text}.zip"), str(run / "input")]
        make = ["compileall", "-q", str(run)]
        return Step(name, "pack", [make, command], run / name, before=partial((run / name).mkdir, exist_ok=True))

    return [step("first", word), step("second", "two")]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A demo of two steps; `small.run(word)` runs it and returns what was started."""

    class Small:
        folder = tmp_path
        started: list[str]

        def run(self, word: str = "one", until: str = "second", fails: str = "") -> list[str]:
            self.started = []
            original = chains.running

            def running(step, record, log):
                self.started.append(step.name)
                if step.name == fails:
                    step = replace(step, commands=[["zipfile", "-l", "missing"]])
                return original(step, record, log)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(chains, "running", running)
                patch.setattr(demo, "plan", lambda mode: two_steps(tmp_path, word))
                demo.demo(replace(demo.MODES["quick"], folder=str(tmp_path)), until)
            return self.started

    return Small()


def test_finished_steps_are_skipped_and_changes_run_again(small):
    assert small.run() == ["first", "second"]
    assert small.run() == []
    assert small.run(word="other") == ["first", "second"]  # a changed command, and what builds on it
    assert not (small.folder / "first" / "one.zip").exists()  # nothing of the old step is left
    (small.folder / "second" / "two.zip").unlink()
    (small.folder / "second").rmdir()
    assert small.run(word="other") == ["second"]  # its result is gone


def test_a_failed_step_says_where_and_goes_on_from_there(small):
    with pytest.raises(RuntimeError, match="missing"):
        small.run(fails="second")
    spent = json.loads((small.folder / "steps" / "second.json").read_text())
    assert not spent["done"]
    assert small.run() == ["second"]
    done = json.loads((small.folder / "steps" / "second.json").read_text())
    assert done["done"] and done["seconds"] > spent["seconds"]  # time adds up over the restart


def test_fingerprint_depends_on_command_yaml_and_before(tmp_path, monkeypatch):
    step = demo.plan(demo.MODES["quick"])[1]
    mark = fingerprint(step, "before")
    assert mark == fingerprint(step, "before")
    assert mark != fingerprint(step, "other")
    assert mark != fingerprint(replace(step, commands=[[*step.commands[0], "--x=1"]]), "before")
    yaml = tmp_path / "tok.yaml"
    yaml.write_text("a: 1\n")
    edited = replace(step, commands=[["m", str(yaml)]])
    mark = fingerprint(edited, "")
    yaml.write_text("a: 2\n")
    assert mark != fingerprint(edited, "")


def test_metrics_hold_scores_and_times(tmp_path):
    (tmp_path / "eval" / "seen").mkdir(parents=True)
    for folder, value in (("eval", 0.5), ("eval/seen", 0.75)):
        scores = {"vqa/accuracy": {"value": value, "n": 4}, "decode/steps": {"value": 16, "n": 1}}
        (tmp_path / folder / "vqa.json").write_text(json.dumps(scores))
    for name, seconds in {"tokenizer": 2.0, "eval": 1.5}.items():
        record = Record(tmp_path, name)
        record.seconds = seconds
        record.write()
    metrics = demo.collect_metrics(tmp_path)
    scores = {"vqa/accuracy": 0.5, "seen/vqa/accuracy": 0.75, "decode/steps": 16}
    assert metrics == {**scores, "time/tokenizer_s": 2.0, "time/eval_s": 1.5, "time/total_s": 3.5}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
