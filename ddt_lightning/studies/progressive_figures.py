"""Pictures of progressive decoding: grid, animation and charts.

In: outcomes and pictures of some models. Out: `progressive-grid.png` (columns: growing numbers of first tokens),
`progressive.gif` (the same over time), and where the images are a truth `progressive.png` (scores against t) and
`progressive-noise.png` (from the true x_t without and with tokens).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ddt_lightning.images import unstack
from ddt_lightning.metrics.cards import Card
from ddt_lightning.plans.cached_arrays import Arrays
from ddt_lightning.report.contact_sheet import Row, sheet, stacked
from ddt_lightning.report.style import COLOURS, DARK, percent, tidy
from ddt_lightning.studies.progressive import NAME, Progress, count_at, first_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

COLUMNS, MOVING, CELL, LABEL = 8, 6, 96, 150
FRAME_MS, HOLD_MS = 140, 1800
GRID, MOVIE, CHART, NOISE = f"{NAME}-grid.png", f"{NAME}.gif", f"{NAME}.png", f"{NAME}-noise.png"
TEXTS = {
    GRID: "Columns: decoded from more and more of the first tokens.",
    MOVIE: "The same, one frame for each number of first tokens.",
    CHART: "Means over images, bands of 95 %.",
    NOISE: "The image under growing noise, and what the decoder sees in it in one step, without and with tokens.",
}


def figures(outcomes: Sequence[Progress], found: Sequence[Arrays], originals: "Tensor", out: Path) -> dict[str, str]:
    """Draw everything there is something for.

    Args:
        outcomes: of each model.
        found: the arrays of each model, with `pictures` and perhaps `noisy_pictures`.
        originals: uint8 `[N, 3, H, W]`.
        out: folder.

    Returns:
        {file: caption}.
    """
    images = unstack(originals[: found[0]["pictures"].shape[0]])
    grid(outcomes, found, images, out / GRID)
    movie(outcomes, found, images[:MOVING], out / MOVIE)
    written = [GRID, MOVIE]
    if any(one.psnr for one in outcomes):
        chart(outcomes, out / CHART)
        written.append(CHART)
    if any(one.times for one in outcomes):
        noise_grid(outcomes, found, out / NOISE)
        written.append(NOISE)
    return {name: TEXTS[name] for name in written}


def picture_at(one: Progress, arrays: Arrays, image: int, point: int, points: int) -> np.ndarray:
    """The picture from the first `point / points` of a model's tokens, rounded up: uint8 `[H, W, 3]`."""
    return arrays["pictures"][image, one.counts.index(count_at(one, point, points))].transpose(1, 2, 0)


def titles_at(outcomes: Sequence[Progress], shown: Sequence[int], points: int) -> list[str]:
    """Numbers of tokens, or shares where the models differ in their number of tokens."""
    if len({one.tokens for one in outcomes}) > 1:
        return [f"first {percent(point / points)}" for point in shown]
    return [f"first {count_at(outcomes[0], point, points)}" for point in shown]


def evenly(points: int, number: int) -> list[int]:
    """At most `number` of 1..points, evenly spaced, the last among them."""
    return first_tokens(points, min(number, points))


def grid(outcomes: Sequence[Progress], found: Sequence[Arrays], images: Sequence[np.ndarray], path: Path) -> None:
    """A block for each image, a row for each model: the original, and from more and more tokens."""
    points = max(len(one.counts) for one in outcomes)
    shown = evenly(points, COLUMNS)
    titles = ["original", *titles_at(outcomes, shown, points)]
    blocks = []
    for n, original in enumerate(images):
        rows = [
            Row(one.name, [original, *(picture_at(one, arrays, n, point, points) for point in shown)], tokens_of(one))
            for one, arrays in zip(outcomes, found, strict=True)
        ]
        blocks.append(sheet(rows, titles=titles if n == 0 else None, cell=CELL, label_width=LABEL))
    stacked(blocks, gap=10 if len(outcomes) > 1 else 0).save(path)


def tokens_of(one: Progress) -> str:
    """The number of tokens of a model, as a note."""
    return f"{one.tokens} tokens"


def movie(outcomes: Sequence[Progress], found: Sequence[Arrays], images: Sequence[np.ndarray], path: Path) -> None:
    """A row for each model below the originals; a frame for each number of first tokens, the last one held."""
    points = max(len(one.counts) for one in outcomes)
    frames = []
    for point in range(1, points + 1):
        rows = [Row("original", list(images))]
        for one, arrays in zip(outcomes, found, strict=True):
            made = [picture_at(one, arrays, n, point, points) for n in range(len(images))]
            rows.append(Row(one.name, made, f"first {count_at(one, point, points)} of {one.tokens} tokens"))
        frames.append(sheet(rows, cell=CELL, label_width=LABEL).quantize(255, dither=Image.Dither.NONE))
    waits = [FRAME_MS] * (points - 1) + [HOLD_MS]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=waits, loop=0)


def chart(outcomes: Sequence[Progress], path: Path) -> None:
    """Every score against the number of first tokens, and the error from x_t against t."""
    from matplotlib.figure import Figure

    scores = [name for name in ("psnr", "ssim", "lpips") if any(getattr(one, name) for one in outcomes)]
    noisy = any(one.times for one in outcomes)
    figure = Figure(figsize=(4.6 * (len(scores) + noisy), 3.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(scores) + noisy, squeeze=False)[0]
    shares = len({one.tokens for one in outcomes}) > 1
    for axes, score in zip(panels, scores, strict=False):
        for number, one in enumerate(outcomes):
            counts = [100 * count / one.tokens for count in one.counts] if shares else one.counts
            line(axes, counts, getattr(one, score), COLOURS[number % len(COLOURS)], one.name)
        axes.set_xlabel("first tokens given to the decoder" + (", % of all" if shares else ""))
        axes.set_title(score.upper() + (" in dB" if score == "psnr" else ""), loc="left", fontsize=11, color=DARK)
    if noisy:
        axes = panels[-1]
        for number, one in enumerate(outcomes):
            if one.times:
                colour = COLOURS[number % len(COLOURS)]
                line(axes, one.times, one.informed, colour, f"{one.name}, tokens 0..d(t)")
                line(axes, one.times, one.uninformed, colour, f"{one.name}, no tokens", "--")
        axes.set_yscale("log")
        axes.set_xlabel("t of the true x_t (1: pure noise)")
        axes.set_title("Squared error of x0 in one step", loc="left", fontsize=11, color=DARK)
    for axes in panels:
        tidy(axes)
        axes.legend(frameon=False, fontsize=8.5, loc="best", labelcolor=DARK)
    figure.savefig(path, dpi=130)


def line(axes: "Axes", x: Sequence[float], scores: Sequence[Card], colour: str, label: str, style: str = "-") -> None:
    """Means as a line, their intervals as a band."""
    if not scores:
        return
    low, high = zip(*(card["interval"] or (card["value"],) * 2 for card in scores), strict=True)
    marker = "o" if len(scores) == 1 else ""
    axes.plot(x, [card["value"] for card in scores], style, color=colour, label=label, linewidth=1.8, marker=marker)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def noise_grid(outcomes: Sequence[Progress], found: Sequence[Arrays], path: Path) -> None:
    """Of the first images: x_t, and what one step makes of it without and with the tokens visible at t."""
    blocks = []
    for one, arrays in zip(outcomes, found, strict=True):
        if not one.times:
            continue
        shown = [point - 1 for point in evenly(len(one.times), COLUMNS)]
        titles = [f"t {one.times[at]:.2f}, sees {one.seen[at]}" for at in shown]
        for n, pictures in enumerate(arrays["noisy_pictures"][:2]):
            texts = (("x_t", one.name), ("without tokens", ""), ("with tokens 0..d(t)", "as many as it sees at t"))
            rows = [
                Row(text, [pictures[at, part].transpose(1, 2, 0) for at in shown], note)
                for part, (text, note) in enumerate(texts)
            ]
            blocks.append(sheet(rows, titles=titles if n == 0 else None, cell=CELL, label_width=LABEL))
    stacked(blocks).save(path)
