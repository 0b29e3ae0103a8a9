"""The look that all charts share: colours, axes without ornaments, and how scores are written."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ddt_lightning.metrics.cards import Card

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6f9f", "#b5651d", "#2d7d46", "#8a4fa3", "#b23b3b", "#5f8a8b", "#a08520", "#7a5c48", "#c4649a", "#4b5fc9")
Line = tuple[Sequence[float], Sequence[float]]
"""Places across and heights of the points of a line."""
DARK, GREY, SOFT, LINE = "#1d1d1f", "#55585f", "#6a6a70", "#e4e4e2"


def tidy(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    """Soft labels, lines along one direction behind what is drawn, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, length=0)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def spread_of(score: Card, digits: int, scale: float = 1.0, unit: str = "") -> str:
    """A score with half the width of its interval."""
    text = f"{scale * score['value']:.{digits}f}"
    if score["interval"]:
        low, high = score["interval"]
        text += f" ± {scale * (high - low) / 2:.{digits}f}"
    return text + unit


def percent(share: float) -> str:
    """A share in [0, 1] in words."""
    return f"{100 * share:.3g} %"


def lighter(colour: str) -> str:
    """A colour "#rrggbb" for lines on a dark ground: mixed with white."""
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(0.6 * channel + 0.4 * 255):02x}" for channel in channels)
