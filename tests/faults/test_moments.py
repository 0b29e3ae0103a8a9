"""Moments of kills: every phase is met, at any of its beginnings, within its time."""

import random
from collections import Counter

from tests.faults.moments import Moment, draw_moment, reached
from tests.faults.watch import PHASES, phase_of

STEPS = [
    line
    for step in range(40)
    for line in ({"at": "step", "time": 10.0 + step}, {"at": "between steps", "time": 10.9 + step})
]
LINES = [
    {"at": "start", "time": 0.0}, *STEPS,
    {"at": "save", "time": 50.0}, {"at": "save", "time": 50.01, "deed": "open"}, {"at": "end", "time": 50.02},
]  # fmt: skip


def drawn(processes: int = 1, number: int = 4000) -> list[Moment]:
    draw = random.Random(0)
    return [draw_moment(LINES, processes, draw) for _ in range(number)]


def test_every_phase_comes_as_often_as_another():
    counts = Counter(moment.phase for moment in drawn())
    assert counts.keys() == {"start", "step", "between steps", "save", "end"}
    assert all(abs(count - 800) < 120 for count in counts.values()), counts


def test_every_beginning_is_met_at_any_time_until_the_next_line():
    moments = drawn()
    assert {moment.number for moment in moments if moment.phase == "step"} == set(range(40))
    waits = [moment.wait for moment in moments if moment.phase == "step"]
    assert 0 <= min(waits) < 0.05 and 0.85 < max(waits) <= 0.9001
    assert max(moment.wait for moment in moments if moment.phase == "start") > 9
    assert all(moment.wait == 0 for moment in moments if moment.phase == "end")


def test_deeds_on_files_are_met_exactly_as_often_as_not():
    saves = [moment for moment in drawn() if moment.phase == "save"]
    kinds = Counter(moment.deed for moment in saves if moment.number == 1)
    assert kinds["before"] > 60 and kinds["after"] > 60 and kinds[None] > 150
    assert all(moment.deed is None for moment in saves if moment.number == 0)
    assert all(moment.deed is None for moment in drawn() if moment.phase != "save")


def test_each_of_two_processes_is_killed():
    assert {moment.ranks for moment in drawn(2)} == {(0,), (1,), (0, 1)}
    assert {moment.ranks for moment in drawn(1)} == {(0,)}


def test_a_moment_is_reached_when_its_phase_has_begun_so_often():
    moment = Moment("step", 1, 0.0)
    assert not reached(LINES[:3], moment) and reached(LINES[:4], moment)


def test_files_belong_to_what_writes_them():
    phases = {
        "checkpoints/.last.ckpt.partial": "save", "checkpoints": "save", ".metrics.csv.partial": "rows",
        "metrics.csv": "rows", ".release.x1.partial/lm/config.json": "release", "release": "release",
        "config.yaml": "other files", "throughput.csv": "other files",
    }  # fmt: skip
    assert {file: phase_of(file) for file in phases} == phases and set(phases.values()) <= set(PHASES)
