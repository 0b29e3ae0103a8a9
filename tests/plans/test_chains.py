"""What studies share: shared steps, failures, intervals, tables, kept checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
from numpy.random import default_rng
from scipy.stats import ttest_1samp

from ddt_lightning import cli
from ddt_lightning.callbacks.snapshots import Snapshots, snapshot
from ddt_lightning.metrics.intervals import over_seeds, paired
from ddt_lightning.plans import chains
from ddt_lightning.plans.chains import is_done, run_chains
from ddt_lightning.plans.fingerprint import CLI, fingerprints, inputs_mark, modules_of
from ddt_lightning.plans.recipes import overlaid
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, Table, markdown, write_findings
from ddt_lightning.training.checkpoint import resume_step
from tests.inprocess import TINY_LM, token_shards

ROOT = Path(__file__).parents[2]


def step(name: str, folder: Path, *words: str, **more) -> Step:
    return Step(name, f"make {name}", [["module", *words]], folder / name, **more)


def test_a_chain_covers_what_came_before(tmp_path):
    first, second = step("a", tmp_path), step("b", tmp_path)
    marks = fingerprints(Chain("x", "", [first, second]))
    assert fingerprints(Chain("y", "other", [first, second])) == marks
    assert not set(marks) & set(fingerprints(Chain("x", "", [replace(first, inputs="shards"), second])))
    changed = fingerprints(Chain("x", "", [first, step("b", tmp_path, "more")]))
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
    shared = step("shared", tmp_path)
    plan = [Chain(name, "", [shared, step(name, tmp_path)]) for name in "abc"]
    assert run_chains(plan, tmp_path) == {"b": "because of b"}  # named, and the others are done
    assert started == ["shared", "a", "b", "c"]
    assert [is_done(tmp_path, chain) for chain in plan] == [True, False, True]
    started.clear()
    broken.clear()
    assert run_chains(plan, tmp_path) == {} and started == ["b"]
    said = capsys.readouterr().out
    assert "3 of 4 steps are done already" in said and "[3/4] b: it failed\nbecause of b" in said
    shared.folder.rmdir()
    started.clear()
    broken.add("shared")
    assert run_chains(plan, tmp_path) == dict.fromkeys("abc", "because of shared") and started == ["shared"]


def test_files_are_written_and_the_function_called_before_the_commands(tmp_path, monkeypatch):
    file, seen = tmp_path / "folder" / "prompts.txt", []

    def running(one, record, log):
        seen.append(file.read_text())
        one.folder.mkdir(parents=True)
        return iter(())

    monkeypatch.setattr(chains, "running", running)
    one = step("a", tmp_path, files={str(file): "a ring\n"}, before=lambda: seen.append("called"))
    chain = Chain("a", "", [one])
    before = fingerprints(chain)
    assert not list(tmp_path.iterdir())  # planning writes nothing
    assert run_chains([chain], tmp_path) == {} and seen == ["called", "a ring\n"]
    assert fingerprints(Chain("a", "", [replace(one, files={str(file): "a cross\n"})])) != before
    assert fingerprints(Chain("a", "", [replace(one, cost=7.0, about="other")])) == before  # an estimate is no result


def test_a_yaml_file_that_the_step_writes_counts_as_the_one_that_is_there(tmp_path):
    text = "class_path: ddt_lightning.callbacks.distribution.Distribution\n"
    command = [CLI, "fit", "tokenizer", "--config", str(tmp_path / "x.yaml")]
    one = Step("a", "", [command], tmp_path / "a", {str(tmp_path / "x.yaml"): text})
    planned = fingerprints(Chain("a", "", [one]))
    assert "ddt_lightning.callbacks.distribution" in modules_of(command, one.files)
    (tmp_path / "x.yaml").write_text("a: stale\n")
    assert fingerprints(Chain("a", "", [one])) == planned


def test_what_a_step_does_not_make_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "running", lambda one, record, log: iter(()))
    failed = run_chains([Chain("x", "", [step("a", tmp_path)])], tmp_path)
    assert failed == {"x": f"step a ended without {tmp_path}/a."}


def test_two_steps_of_one_name_are_refused(tmp_path):
    plan = [Chain(word, "", [step("a", tmp_path, word)]) for word in ("one", "two")]
    with pytest.raises(ValueError, match="named 'a'"):
        run_chains(plan, tmp_path)
    assert not list(tmp_path.iterdir())


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
def test_chains_side_by_side(jobs, tmp_path, monkeypatch):
    desk = Desk()
    monkeypatch.setattr(chains, "running", desk.running)
    monkeypatch.setattr(chains, "POLL", 0.0)
    alone = [Chain(name, "", [step(name, tmp_path)]) for name in "xyz"]
    both = [Chain(name, "", [step("shared", tmp_path), step(name, tmp_path)]) for name in "ab"]
    plan = [*both, *alone]
    assert run_chains(plan, tmp_path, jobs) == {} and all(is_done(tmp_path, chain) for chain in plan)
    assert sorted(desk.started) == ["a", "b", "shared", "x", "y", "z"]  # the shared one once, and waited for
    assert desk.started.index("shared") < min(desk.started.index("a"), desk.started.index("b"))
    assert desk.most == min(jobs, 5)


def test_all_that_runs_is_stopped_when_the_plan_is(tmp_path, monkeypatch):
    desk = Desk()
    monkeypatch.setattr(chains, "running", desk.running)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(chains.time, "sleep", interrupt)
    plan = [Chain(name, "", [step(name, tmp_path)]) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run_chains(plan, tmp_path, jobs=2)
    assert desk.stopped == ["a", "b"] and not any(is_done(tmp_path, chain) for chain in plan)


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


def test_findings_as_text(tmp_path):
    table = Table(["name", "x", "y"], [["a<b", "1.00", "2"], ["long name", "10.00", ""]])
    found = Findings("order", "A title", "One & two.", "Numbers.", [table], {"gone.png": "x"}, {}, {"run": "why"})
    lines = write_findings(found, tmp_path).splitlines()
    assert lines == markdown(found).splitlines() and (tmp_path / "study.md").read_text().splitlines() == lines
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and rows[2].startswith("| a<b       |  1.00 | 2 |")


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
