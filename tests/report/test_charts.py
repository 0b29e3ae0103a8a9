"""Curves of a metrics.csv, and charts that follow the style of the page."""

import re
from xml.etree import ElementTree

import pytest

from ddt_lightning.report.charts import CURVE_POINTS, chart, read_curves
from ddt_lightning.report.style import COLOURS


def test_curves_keep_means_and_skip_gaps(tmp_path):
    file = tmp_path / "metrics.csv"
    lines = [f"{n},{n},{'' if n % 2 else n},nan,{n}" for n in range(1000)]
    file.write_text("step,train/loss,val/loss,train/bad,epoch\n" + "\n".join(lines))
    found = read_curves(file)
    assert set(found) == {"train/loss", "val/loss"}
    steps, values = found["train/loss"]
    assert len(steps) <= CURVE_POINTS and steps == values
    assert sum(found["val/loss"][1]) / len(found["val/loss"][1]) == pytest.approx(499, abs=5)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_chart_scale():
    wide, narrow = chart("x", {"a": ([0, 1], [1.0, 100.0])}), chart("x", {"a": ([0, 1], [1.0, 2.0])})
    assert wide is not None and wide.logarithmic and narrow is not None and not narrow.logarithmic
    assert chart("x", {"a": ([], [])}) is None and chart("x", {}) is None
    for constant_line in ([3.0, 3.0], [0.0, 0.0], [-1.0, 1.0]):
        one = chart("x", {"a": ([0, 1], constant_line)})
        assert one is not None and "nan" not in one.svg
    labels = {element.text for element in drawn(wide.svg).iter("text")}
    assert {"0", "1", "10", "100"} <= labels


def test_lines_lie_where_their_values_are():
    """The points of a line, read back from the drawing: proportional to what was given."""
    xs, ys = [0.0, 10.0, 40.0], [1.0, 3.0, 2.0]
    one = chart("a line", {"train": (xs, ys)})
    assert one is not None and one.legend == ["train"]
    line = next(path for path in drawn(one.svg).iter("path") if "--line-0" in path.get("style", ""))
    points = [tuple(map(float, point)) for point in re.findall(r"([-\d.]+) ([-\d.]+)", line.get("d", ""))]
    across, up = zip(*points, strict=True)
    assert (across[1] - across[0]) / (across[2] - across[0]) == pytest.approx(0.25, abs=1e-4)
    assert (up[0] - up[2]) / (up[0] - up[1]) == pytest.approx(0.5, abs=1e-4)  # SVG counts downwards


def test_charts_take_their_colours_from_the_page_and_load_nothing():
    lines = {f"line {n}": ([0, 1], [n, n + 1.0]) for n in range(len(COLOURS) + 1)}
    one = chart("<b>", lines)
    assert one is not None and set(re.findall(r"var\((--line-\d)\)", one.svg)) == {f"--line-{n}" for n in range(10)}
    assert not re.search("#[0-9a-f]{6}| id=|url|href|http|<b>", one.svg)
    assert one.svg == chart("<b>", lines).svg


def test_one_point_is_a_dot():
    one = chart("x", {"a": ([5], [2.0])})
    assert one is not None
    line = next(path for path in drawn(one.svg).iter("path") if "--line-0" in path.get("style", ""))
    start, end = re.findall(r"[-\d.]+ [-\d.]+", line.get("d", ""))
    assert start == end and "stroke-linecap: round" in line.get("style", "")
