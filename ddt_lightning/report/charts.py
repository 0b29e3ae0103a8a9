"""Curves of a run: the columns of a metrics.csv, and charts of them as SVG that follows the page into the dark.

In: `metrics.csv` as Lightning's CSVLogger writes it (a `step` column, empty cells where a value was not logged). Out:
{column: (steps, values)}, and charts drawn by matplotlib, whose colours are variables of the page's style.
"""

import csv
import io
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ddt_lightning.report.style import COLOURS, LINE, SOFT, Line, tidy

CURVE_POINTS = 160
SPLITS = ("train/", "val/")
"""Starts of the names of curves that share a chart where the rest is the same."""
NOT_CURVES = ("epoch", "step", "lr", "time")
THEME = {SOFT: "--soft", LINE: "--line"} | {colour: f"--line-{number}" for number, colour in enumerate(COLOURS)}
"""Variables of the page's style that take the place of matplotlib's colours."""


@dataclass(frozen=True)
class Chart:
    """A chart for the page.

    Args:
        title: what is drawn.
        legend: names of the lines, in the order of the page's colours.
        logarithmic: whether the vertical axis is.
        svg: the drawing, without the title and the legend.
    """

    title: str
    legend: list[str]
    logarithmic: bool
    svg: Markup


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The columns of a metrics.csv as {name: (steps, values)}, averaged in spans to at most `CURVE_POINTS` points."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = float(row.get("step") or number)
            for name, text in row.items():
                if not name or not text or name.startswith(NOT_CURVES):
                    continue
                if name.rpartition("/")[2].startswith(NOT_CURVES):
                    continue
                try:
                    value = float(text)
                except ValueError:
                    continue
                if math.isfinite(value):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
    return {name: thin(*line) for name, line in found.items()}


def run_charts(lines: Mapping[str, Line], left_out: Collection[str] = ()) -> list[Chart]:
    """Charts of a run's curves, losses first: training and validation of one quantity share a chart.

    Args:
        lines: curves by column, as `read_curves` gives them.
        left_out: columns without a chart.
    """
    quantities: dict[str, dict[str, Line]] = {}
    for column, line in lines.items():
        if column not in left_out:
            split = column.partition if column.startswith(SPLITS) else column.rpartition
            part, _, quantity = split("/")
            quantities.setdefault(quantity, {})[part or "value"] = line
    ordered = sorted(quantities, key=lambda quantity: (quantity != "loss", "loss" not in quantity, quantity))
    return [one for one in (chart(quantity, quantities[quantity]) for quantity in ordered) if one is not None]


def thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Means over equal spans where there are more than `CURVE_POINTS` points."""
    size = math.ceil(len(steps) / CURVE_POINTS)
    spans = [slice(start, start + size) for start in range(0, len(steps), max(1, size))]
    return [sum(steps[s]) / len(steps[s]) for s in spans], [sum(values[s]) / len(values[s]) for s in spans]


def chart(title: str, lines: Mapping[str, Line]) -> Chart | None:
    """A chart of named lines; the vertical axis is logarithmic where positive values span a factor of 20.

    Args:
        title: what is drawn.
        lines: {name: (x, y)}; empty lines are left out.

    Returns:
        The chart, or None where no line has a point.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    lines = {name: line for name, line in lines.items() if len(line[0]) > 0}
    if not lines:
        return None
    every = [y for _, ys in lines.values() for y in ys]
    logarithmic = min(every) > 0 and max(every) / min(every) > 20
    figure = Figure(figsize=(3.6, 1.9))
    axes = figure.add_axes((0.14, 0.13, 0.84, 0.83))
    for number, (xs, ys) in enumerate(lines.values()):
        colour, dot = COLOURS[number % len(COLOURS)], len(xs) == 1  # a line of no length with round ends is a dot
        x, y = ([*xs] * 2, [*ys] * 2) if dot else (xs, ys)
        axes.plot(x, y, color=colour, linewidth=4 if dot else 1.4, solid_capstyle="round")
    tidy(axes)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(left=False, bottom=False, labelsize=8)
    round_numbers = [1, 2, 2.5, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=round_numbers))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=round_numbers))
    if logarithmic:
        axes.set_yscale("log")
        few = max(every) / min(every) < 300  # a power of ten alone would label a single line
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,), numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):  # texts as text
        figure.savefig(written, format="svg", metadata={"Date": None})
    return Chart(title, list(lines), logarithmic, inline(written.getvalue(), title))


def inline(svg: str, title: str) -> Markup:
    """A file by matplotlib as an element of the page: as wide as its place, in the page's colours, without links."""
    content = svg[svg.index("</defs>") + len("</defs>") :].strip()  # after the head, with its styles of every element
    content = re.sub(r"<defs>.*?</defs>\s*", "", content, flags=re.DOTALL)  # what cuts lines off at the edge
    content = re.sub(r' (id|clip-path)="[^"]*"', "", content)  # ids would not be unique in the page
    content = re.sub(r" font-family: [^;\"]*;", "", content)  # the page's font
    content = re.sub("|".join(THEME), lambda found: f"var({THEME[found.group()]})", content)
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None, "matplotlib writes the size of a drawing"
    return Markup('<svg {} role="img" aria-label="{}">{}').format(Markup(size.group()), title, Markup(content))


def short(value: float) -> str:
    """A number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
