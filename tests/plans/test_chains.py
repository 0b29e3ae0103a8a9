"""What studies share: shared steps, failures, intervals, tables, kept checkpoints."""

from pathlib import Path

import pytest
from numpy.random import default_rng
from scipy.stats import ttest_1samp

from ddt_lightning import cli
from ddt_lightning.callbacks.snapshots import Snapshots, snapshot
from ddt_lightning.metrics.intervals import over_seeds, paired
from ddt_lightning.plans import chains
from ddt_lightning.plans.chains import Run, chain, inputs_mark, is_done, overlaid, run_all
from ddt_lightning.plans.step import Step
from ddt_lightning.report.findings import Findings, Table, markdown, section, write_findings
from ddt_lightning.training.checkpoint import resume_step
from tests.inprocess import TINY_LM, token_shards

ROOT = Path(__file__).parents[2]


def step(name: str, folder: Path, *words: str) -> Step:
    return Step(name, "", [["module", *words]], 0.0, folder)


def test_a_chain_covers_what_came_before(tmp_path):
    first, second = step("a", tmp_path / "a"), step("b", tmp_path / "b")
    marks = [mark for _, mark in chain([first, second], "x")]
    assert [mark for _, mark in chain([first, second], "x")] == marks
    assert not set(marks) & {mark for _, mark in chain([first, second], "y")}
    changed = [mark for _, mark in chain([first, step("b", tmp_path / "b", "more")], "x")]
    assert changed[0] == marks[0] and changed[1] != marks[1]


def test_a_shared_step_runs_once_and_its_failure_reaches_all(tmp_path, monkeypatch, capsys):
    started, broken = [], {"b"}

    def running(one, record, log):
        started.append(one.name)
        if one.name in broken:
            raise RuntimeError(f"it failed\nbecause of {one.name}")
        one.folder.mkdir(parents=True)
        return iter(())

    monkeypatch.setattr(chains, "running", running)
    shared = chain([step("shared", tmp_path / "shared")])
    runs = [Run(name, "", [*shared, *chain([step(name, tmp_path / name)], shared[0][1])]) for name in "abc"]
    assert run_all(runs, tmp_path) == {"b": "because of b"}  # named, and the others are done
    assert started == ["shared", "a", "b", "c"]
    assert [is_done(tmp_path, run.steps) for run in runs] == [True, False, True]
    started.clear()
    broken.clear()
    assert run_all(runs, tmp_path) == {} and started == ["b"]
    assert "2 of 3 runs are done already" in capsys.readouterr().out


class Desk:
    """Stands in for processes: every step takes three turns; what ran when, and what was told to stop."""

    def __init__(self) -> None:
        self.now, self.most, self.started, self.stopped = set(), 0, [], []

    def running(self, one, record, log):
        self.started.append(one.name)
        self.now.add(one.name)
        try:
            for _ in range(3):
                self.most = max(self.most, len(self.now))
                yield
            one.folder.mkdir(parents=True)
        except GeneratorExit:
            self.stopped.append(one.name)
            raise
        finally:
            self.now.remove(one.name)


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_runs_side_by_side(jobs, tmp_path, monkeypatch):
    desk = Desk()
    monkeypatch.setattr(chains, "running", desk.running)
    monkeypatch.setattr(chains, "POLL", 0.0)
    shared = chain([step("shared", tmp_path / "shared")])
    alone = [Run(name, "", chain([step(name, tmp_path / name)])) for name in "xyz"]
    both = [Run(name, "", [*shared, *chain([step(name, tmp_path / name)], shared[0][1])]) for name in "ab"]
    runs = [*both, *alone]
    assert run_all(runs, tmp_path, jobs) == {} and all(is_done(tmp_path, run.steps) for run in runs)
    assert sorted(desk.started) == ["a", "b", "shared", "x", "y", "z"]  # the shared one once, and waited for
    assert desk.started.index("shared") < min(desk.started.index("a"), desk.started.index("b"))
    assert desk.most == min(jobs, 5)


def test_all_that_runs_is_stopped_when_the_study_is(tmp_path, monkeypatch):
    desk = Desk()
    monkeypatch.setattr(chains, "running", desk.running)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(chains.time, "sleep", interrupt)
    runs = [Run(name, "", chain([step(name, tmp_path / name)])) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, tmp_path, jobs=2)
    assert desk.stopped == ["a", "b"] and not any(is_done(tmp_path, run.steps) for run in runs)


def test_inputs_are_known_by_name_size_and_facts(tmp_path):
    folder = token_shards(tmp_path / "ids", default_rng(0).integers(0, 9, (20, 4)), codes=9)
    pattern = [f"{folder}/*.tar"]
    before = inputs_mark(pattern, "sets")
    assert inputs_mark(pattern, "sets") == before
    (folder / "images-train-000001.tar").write_bytes(b"more")
    more = inputs_mark(pattern, "sets")
    facts = folder / "tokens.json"
    facts.write_text(facts.read_text().replace("abc123", "abc124"))
    assert len({before, more, inputs_mark(pattern, "sets")}) == 3
    with pytest.raises(FileNotFoundError, match="`sets`"):
        inputs_mark([f"{tmp_path}/none-*.tar"], "sets")


def test_overlays_do_not_share_what_they_hold():
    base = {"a": {"b": 1, "c": [1]}}
    merged = overlaid(base, {"a": {"b": 2}})
    merged["a"]["c"].append(2)
    assert base == {"a": {"b": 1, "c": [1]}} and merged == {"a": {"b": 2, "c": [1, 2]}}


def test_intervals_are_those_of_a_paired_t_test():
    of, to = {0: 3.0, 1: 3.5, 2: 2.9, 7: 9.0}, {0: 2.0, 1: 2.1, 2: 2.2, 8: 1.0}
    change = paired(of, to)
    low, high = ttest_1samp([of[n] - to[n] for n in range(3)], 0.0).confidence_interval(0.95)
    assert change is not None and change.interval == pytest.approx((low, high))
    share = paired(of, to, relative=True)
    assert share is not None and share.by_seed == pytest.approx([0.5, 3.5 / 2.1 - 1, 2.9 / 2.2 - 1])
    assert paired({1: 1.0}, {2: 1.0}) is None
    assert over_seeds([4.0]).shown() == ["4.00", ""]
    two = over_seeds([1.0, 2.0])  # Student's interval of two shares reaches far outside of 0 to 1: both are shown
    assert two.interval is None and two.shown() == ["1.50", "1.00, 2.00"]


def test_findings_as_text_and_page(tmp_path):
    table = Table(["name", "x", "y"], [["a<b", "1.00", "2"], ["long name", "10.00", ""]])
    found = Findings("order", "A title", "One & two.", "Numbers.", [table], {"gone.png": "x"}, {}, {"run": "why"})
    lines = write_findings(found, tmp_path).splitlines()
    assert lines == markdown(found).splitlines() and (tmp_path / "study.md").read_text().splitlines() == lines
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and rows[2].startswith("| a<b       |  1.00 | 2 |")
    html = section(tmp_path)
    assert "a&lt;b" in html and "One &amp; two." in html and "Failed: run: why" in html and "gone.png" not in html


def test_kept_checkpoints_are_those_of_their_steps(tmp_path, monkeypatch):
    """Also with accumulation, where a step has several batches."""
    monkeypatch.chdir(ROOT)
    folder = token_shards(tmp_path / "ids", default_rng(0).integers(0, 9, (40, 4)), codes=9)
    kept = '[{"class_path": "ddt_lightning.callbacks.snapshots.Snapshots", "init_args": {"steps": [1, 3]}}]'
    args = [word for config in TINY_LM for word in ("--config", config)]
    args += ["--data.shards", f'["{folder}/images-train-*.tar"]', "--data.text_vocab_size=300"]
    args += ["--trainer.accumulate_grad_batches=2", "--trainer.callbacks", kept, "--run_dir", str(tmp_path / "run")]
    cli.fit("pretrain", args)
    for number in (1, 3):
        assert resume_step(snapshot(tmp_path / "run", number)) == number
    assert not snapshot(tmp_path / "run", 2).exists()
    with pytest.raises(ValueError, match=r"Snapshots\.steps"):
        Snapshots([0])
