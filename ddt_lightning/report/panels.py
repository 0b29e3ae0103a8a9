"""Charts of the language-model studies as PNG: one look, and three shapes of panel.

In: matplotlib axes and lines, bars or points with their intervals. Out: drawn axes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddt_lightning.metrics.intervals import Mean
from ddt_lightning.report.style import COLOURS, DARK, LINE, Line, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(title: str, rows: int, columns: int, width: float = 4.6, height: float = 3.2) -> tuple["Figure", np.ndarray]:
    """An empty figure and its axes `[rows, columns]`, styled."""
    from matplotlib.figure import Figure

    size = (width * columns, height * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=DARK)
    for axes in grid.flat:
        tidy(axes)
        axes.tick_params(labelsize=8.5)
    return figure, grid


def draw_lines(axes: "Axes", lines: Mapping[str, Line], title: str, across: str, up: str) -> None:
    """Named lines (x, y)."""
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        axes.plot(xs, ys, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.5)
    axes.set_title(title, fontsize=10, loc="left", color=DARK)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)


def draw_bars(axes: "Axes", groups: Mapping[str, Mapping[str, Mean]], title: str, up: str) -> None:
    """{group: {bar: mean}} as groups of bars with intervals, or dots for two seeds; a colour for each bar's name."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    wide = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        for place, bars in enumerate(groups.values()):
            if name not in bars:
                continue
            one, at = bars[name], place + (number - (len(names) - 1) / 2) * wide
            label = name if place == next(i for i, b in enumerate(groups.values()) if name in b) else None
            axes.bar(at, one.value, 0.9 * wide, color=COLOURS[number % len(COLOURS)], label=label)
            if one.interval:
                axes.plot([at, at], one.interval, color=DARK, linewidth=1.2)
            elif len(one.by_seed) == 2:
                axes.plot([at, at], one.by_seed, "o", color=DARK, markersize=2.5)
    axes.axhline(0, color=LINE, linewidth=1)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_title(title, fontsize=10, loc="left", color=DARK)
    axes.set_ylabel(up)
    if any(names):
        axes.legend(frameon=False, fontsize=8)


def save(figure: "Figure", path: Path) -> None:
    """Write the PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
