"""The engine of plans: skipping, sharing, failing, side by side, and stopping."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddt_lightning.plans import chains
from ddt_lightning.plans.chains import is_done, run_chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.plans.step import Chain, Step


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


def test_all_that_runs_is_stopped_when_the_plan_is(tmp_path, monkeypatch, capsys):
    desk = Desk()
    monkeypatch.setattr(chains, "running", desk.running)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(chains.time, "sleep", interrupt)
    plan = [Chain(name, "", [step(name, tmp_path)]) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run_chains(plan, tmp_path, jobs=2)
    assert capsys.readouterr().out.endswith("stopped; the same call goes on from here\n")
    assert desk.stopped == ["a", "b"] and not any(is_done(tmp_path, chain) for chain in plan)
