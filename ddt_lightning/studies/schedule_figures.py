"""Pictures of an ablation: a chart, and a sheet of reconstructions.

In: outcomes, and the evaluations of their first seeds. Out: `study.png` (PSNR of each variant, and by number of first
tokens), `pictures.png` (the same held-out images by every variant).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ddt_lightning.report.contact_sheet import Row, sheet
from ddt_lightning.report.galleries import read_json
from ddt_lightning.report.style import COLOURS, DARK, GREY, tidy
from ddt_lightning.studies.schedule_table import REFERENCE, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = len(COLOURS) + 1
PREFIX = "tokenizer/psnr@"


def colours(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """A colour for each variant: grey for the reference; faint for all but the best where there are many."""
    others = [one for one in outcomes if one.name != REFERENCE]
    best = sorted(others, key=lambda one: -one.value("tokenizer/psnr"))[: len(COLOURS)]
    shown = [one.name for one in others if one in best]
    return {
        one.name: GREY if one.name == REFERENCE else COLOURS[shown.index(one.name)] if one.name in shown else "#c8c8cc"
        for one in outcomes
    }


def prefix(one: Outcome) -> dict[int, float]:
    """PSNR by number of first tokens."""
    found = {int(key.removeprefix(PREFIX)): one.value(key) for key in one.cards if key.startswith(PREFIX)}
    return dict(sorted(found.items()))


def chart(title: str, outcomes: Sequence[Outcome], path: Path) -> None:
    """PSNR of each variant as a bar, and PSNR against the number of first tokens as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, max(4.2, 0.42 * len(outcomes) + 1.6)), layout="constrained", facecolor="white")
    bars, lines = figure.subplots(1, 2, width_ratios=(1.15, 1))
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, color=DARK)
    draw_bars(bars, outcomes)
    draw_lines(lines, outcomes)
    tidy(bars, "x")
    tidy(lines)
    for text in bars.get_yticklabels():
        text.set_color(DARK)
    figure.savefig(path, dpi=130)


def draw_bars(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    """PSNR with its interval; the light part of a bar is what decoding without tokens gives."""
    from matplotlib.patheffects import withStroke

    colour, halo = colours(outcomes), [withStroke(linewidth=3.2, foreground="white")]
    start = min(min(prefix(one).values()) for one in outcomes) - 1.0
    highest = start
    for place, one in enumerate(outcomes):
        value, interval = one.value("tokenizer/psnr"), one.cards["tokenizer/psnr"]["interval"]
        low, high = interval or (value, value)
        highest = max(highest, high)
        axes.barh(place, value - start, left=start, height=0.62, color=colour[one.name])
        alone = min(value, prefix(one).get(0, start))
        axes.barh(place, alone - start, left=start, height=0.62, color="white", alpha=0.55)
        if interval:
            axes.plot([low, high], [place, place], color=DARK, linewidth=1.2, path_effects=halo)
        axes.annotate(f"{value:.2f}", (high, place), (5, 0), textcoords="offset points", va="center", color=DARK)
    axes.set_yticks(range(len(outcomes)), [one.label() for one in outcomes])
    axes.set_ylim(max(len(outcomes), 5) - 0.4, -0.6)
    axes.set_xlim(start, highest + 0.12 * (highest - start))
    over = "seeds" if max(len(one.seeds) for one in outcomes) > 1 else "images"
    axes.set_xlabel(f"PSNR in dB, 95 % over {over}; light: decoded without tokens")


def draw_lines(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    """PSNR by the number of first tokens."""
    colour = colours(outcomes)
    for one in outcomes:
        counts, first = prefix(one), one.name == REFERENCE
        axes.plot(
            list(counts), list(counts.values()), label=one.label(), color=colour[one.name],
            marker="o", markersize=3.5, linewidth=2.4 if first else 1.4, zorder=3 if first else 2,
        )  # fmt: skip
    axes.set_xticks(sorted({count for one in outcomes for count in prefix(one)}))
    axes.set_xlabel("first tokens given to the decoder")
    axes.set_ylabel("PSNR in dB")
    if len(outcomes) <= MANY:
        axes.legend(frameon=False, fontsize=8.5, loc="best")


def pictures(outcomes: Sequence[Outcome], out: Path) -> None:
    """The same held-out images, a row for each variant, below their originals."""
    found: list[Row] = []
    for one in outcomes:
        folder = out / one.eval
        index = read_json(folder / "samples" / "reconstruction.json")
        if not found:
            originals = [np.asarray(Image.open(folder / item["original"]).convert("RGB")) for item in index]
            found.append(Row("original", originals))
        whole = [item["by_tokens"][max(item["by_tokens"], key=int)] for item in index]
        images = [np.asarray(Image.open(folder / file).convert("RGB")) for file in whole]
        found.append(Row(one.label(), images, f"{one.value('tokenizer/psnr'):.2f} dB"))
    sheet(found, label_width=200).save(out / "pictures.png")
