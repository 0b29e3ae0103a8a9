"""`make bench` reaches every benchmark; the figures themselves are not tested."""

import importlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.fixture
def costs(monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("costs")


def test_the_entry_point_knows_every_benchmark(monkeypatch):
    done = subprocess.run([sys.executable, str(FOLDER), "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__main__", "timing", "sizes", "device"}
    assert names
    for name in names:
        assert name in done.stderr
        assert callable(importlib.import_module(name).main)


def test_a_step_is_measured_and_planned_at_the_same_sizes(costs):
    curve = next(one for one in costs.CURVES if one.size == "length")
    points = [costs.take(curve, value, rounds=1) for value in (16, 32)]
    assert all(one.seconds > 0 and one.memory >= 0 for one in points)
    first, second = ([one.products, one.planned] for one in points)
    assert all(1 < b / a < 2.5 for a, b in zip(first, second, strict=True))
    for one in costs.CURVES:
        settings = [one.settings(value) for value in one.values]
        assert all(a != b for a, b in pairwise(settings)), one.name


def test_a_curve_is_a_power_law_beside_the_expected_one(costs, tmp_path):
    curve = costs.Curve("rows", costs.LANGUAGE, "data.batch_size", (2, 4, 8, 16), None)
    law = [costs.Point(n, 0.1 * n**2, 10.0 * n, 5.0 * n, 20.0 * n) for n in curve.values]
    assert costs.exponent(law, "seconds") == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-6))
    assert costs.exponent(law, "products")[0] == pytest.approx(1.0)
    (line,) = costs.table({curve: law}).splitlines()[2:]
    assert line.startswith("| rows | 2 to 16 | 2.00 ± 0.00 grows faster | 1.00 | 1.00 ± 0.00 | 1.00 | 25.60 s |")
    costs.draw({curve: law}, tmp_path / "costs.png")
    assert (tmp_path / "costs.png").stat().st_size > 5000
