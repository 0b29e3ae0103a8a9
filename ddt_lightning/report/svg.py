"""Curves of a run: the columns of a metrics.csv, and charts of them as inline SVG.

In: `metrics.csv` as Lightning's CSVLogger writes it (a `step` column, empty cells where a value was not logged). Out:
{column: (steps, values)}, and SVG that takes its colours from the page's style.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

Line = tuple[Sequence[float], Sequence[float]]

CURVE_POINTS = 160
NOT_CURVES = ("epoch", "step", "lr", "time")
COLOURS = ("accent", "second", "good", "bad")


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The columns of a metrics.csv as {name: (steps, values)}, averaged in spans to at most `CURVE_POINTS` points."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = float(row.get("step") or number)
            for name, text in row.items():
                if (
                    not name
                    or not text
                    or name.rpartition("/")[2].startswith(NOT_CURVES)
                    or name.startswith(NOT_CURVES)
                ):
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


def thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Means over equal spans where there are too many points."""
    size = math.ceil(len(steps) / CURVE_POINTS)
    spans = [slice(start, start + size) for start in range(0, len(steps), max(1, size))]
    return [sum(steps[s]) / len(steps[s]) for s in spans], [sum(values[s]) / len(values[s]) for s in spans]


def curves(title: str, lines: Mapping[str, Line]) -> str:
    """A chart of up to four lines {name: (x, y)}; the y axis is logarithmic where values span a factor of 20."""
    lines = {name: line for name, line in lines.items() if len(line[0]) > 0}
    if not lines:
        return ""
    width, height, left, bottom = 320, 170, 46, 22
    every_x = [x for xs, _ in lines.values() for x in xs]
    every_y = [y for _, ys in lines.values() for y in ys]
    low, high = min(every_y), max(every_y)
    logarithmic = low > 0 and high / low > 20
    forward = math.log10 if logarithmic else float
    y0, y1 = forward(low), forward(high)
    span_y, span_x = (y1 - y0) or 1.0, (max(every_x) - min(every_x)) or 1.0

    def place(x: float, y: float) -> str:
        across = left + (x - min(every_x)) / span_x * (width - left - 10)
        return f"{across:.1f},{8 + (1 - (forward(y) - y0) / span_y) * (height - bottom - 16):.1f}"

    legend = ""
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for share in (0.0, 0.5, 1.0):
        y = 8 + (1 - share) * (height - bottom - 16)
        value = y0 + share * span_y
        label = short(10**value if logarithmic else value)
        parts.append(f'<line class="axis" x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 3:.1f}" text-anchor="end">{label}</text>')
    for x, anchor in ((min(every_x), "start"), (max(every_x), "end")):
        at = left if anchor == "start" else width - 10
        parts.append(f'<text x="{at}" y="{height - 6}" text-anchor="{anchor}">{x:.0f}</text>')
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        colour = f"var(--{COLOURS[number]})"
        if len(xs) == 1:
            across, down = place(xs[0], ys[0]).split(",")
            parts.append(f'<circle cx="{across}" cy="{down}" r="2.5" style="fill:{colour}"/>')
        points = " ".join(place(x, y) for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" style="stroke:{colour}"/>')
        legend += f' <span style="color:{colour}">{escape(name)}</span>'
    scale = " (log scale)" if logarithmic else ""
    return f'<div class="curve"><small>{escape(title)}{scale}{legend}</small>{"".join(parts)}</svg></div>'


def short(value: float) -> str:
    """A number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def steps_chart(title: str, values: Sequence[float]) -> str:
    """Sorted values as one filled line, e.g. how often each code is used."""
    ordered = sorted(values, reverse=True)
    return curves(title, {"": (list(range(len(ordered))), ordered)})
