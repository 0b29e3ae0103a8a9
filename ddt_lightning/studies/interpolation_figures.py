"""Pictures of counterfactual interpolation: a sheet of mixed images, and a chart.

In: outcomes and pictures of some models. Out: `interpolation-grid.png` (a block for each pair, a row for each model),
`interpolation.png` (way and evenness against the share of exchanged tokens).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddt_lightning.metrics.cards import Card
from ddt_lightning.plans.cached_arrays import Arrays
from ddt_lightning.report.contact_sheet import Row, sheet, stacked
from ddt_lightning.report.style import COLOURS, DARK, SOFT, percent, tidy
from ddt_lightning.studies.interpolation import BLEND, CUT, NAME, Mixing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, LABEL = 96, 150
GRID, CHART = f"{NAME}-grid.png", f"{NAME}.png"
TEXTS = {
    GRID: "Left what A's tokens give, right B's; between them the first tokens are B's and the others A's.",
    CHART: "Means over pairs, bars of 95 %; hollow: fewer than half of the pairs have left A and not arrived at B.",
}


def figures(outcomes: Sequence[Mixing], found: Sequence[Arrays], shares: Sequence[float], out: Path) -> dict[str, str]:
    """Draw the sheet and the chart.

    Args:
        outcomes: of each model, and of the mixes of pixels.
        found: their arrays, with `pictures`.
        shares: of B's tokens.
        out: folder.

    Returns:
        {file: caption}.
    """
    blocks = []
    for n in range(len(found[0]["pictures"])):
        rows = [
            Row(one.name, [image.transpose(1, 2, 0) for image in arrays["pictures"][n]], note(one))
            for one, arrays in zip(outcomes, found, strict=True)
        ]
        titles = ["A", *(f"{percent(share)} of B" for share in shares), "B"]
        blocks.append(sheet(rows, titles=titles if n == 0 else None, cell=CELL, label_width=LABEL))
    stacked(blocks).save(out / GRID)
    chart(outcomes, shares, out / CHART)
    return TEXTS


def note(one: Mixing) -> str:
    """The note beside a row of the sheet: what is exchanged."""
    if one.tokens:
        return f"first of {one.tokens} tokens"
    return "upper rows of B" if one.name == CUT else "weighted mean of A and B"


def chart(outcomes: Sequence[Mixing], shares: Sequence[float], path: Path) -> None:
    """Evenness and way against the share of B's tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.1), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2)
    models = [one.name for one in outcomes if one.tokens]
    titles = ("Spread of the change (0: regions are swapped, 1: all alike)", "Way of the picture from A to B")
    for axes, key, title in zip(panels, ("spread", "moved"), titles, strict=True):
        for one in outcomes:
            colour = COLOURS[models.index(one.name) % len(COLOURS)] if one.tokens else SOFT
            draw_line(axes, one, key, shares, colour)
        axes.set_title(title, loc="left", fontsize=10.5, color=DARK)
        axes.set_xlabel("tokens of B, % of all")
        axes.set_xticks([100 * share for share in shares], [f"{100 * share:.3g}" for share in shares])
        axes.set_ylim(-0.04, 1.04)
        tidy(axes)
    figure.legend(
        *panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(outcomes)), frameon=False,
        fontsize=9, labelcolor=DARK,
    )  # fmt: skip
    figure.savefig(path, dpi=130)


def draw_line(axes: "Axes", one: Mixing, key: str, shares: Sequence[float], colour: str) -> None:
    """One score of one model, with bars for the intervals; hollow where less than half of the pairs have it."""
    scores: list[Card | None] = getattr(one, key)
    told = [(100 * share, score) for share, score in zip(shares, scores, strict=True) if score is not None]
    width, style = (1.8, "-") if one.tokens else (1.2, ":" if one.name == BLEND else "--")
    axes.plot(
        [x for x, _ in told], [score["value"] for _, score in told], style, color=colour, linewidth=width, marker="o",
        markersize=4.5, label=one.name,
    )  # fmt: skip
    most = max((score["n"] for score in one.moved if score is not None), default=0)
    for x, score in told:
        if score["interval"]:
            axes.plot([x, x], score["interval"], color=colour, linewidth=1.2)
        if score["n"] < most / 2:
            axes.plot([x], [score["value"]], "o", color="white", markeredgecolor=colour, markersize=4.5, zorder=3)
