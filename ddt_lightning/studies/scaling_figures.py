"""The scaling study to look at: losses against tokens and parameters, and what each checkpoint draws.

In: the study's points. Out: `study.png`, and `grid.png` where checkpoints drew.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddt_lightning.report.contact_sheet import Row, sheet
from ddt_lightning.report.galleries import read_json
from ddt_lightning.report.panels import draw_lines, panels, save
from ddt_lightning.report.style import COLOURS, SOFT
from ddt_lightning.studies.scaling import Point, ScalingStudy, law

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(study: ScalingStudy, points: Sequence[Point], out: Path) -> None:
    """Both pictures."""
    scored = any(one.layout is not None for one in points)
    figure, grid = panels(study.title, 1, 3 if scored else 2, width=5.2, height=3.6)
    fitted = law(points)
    sizes = [size for size in study.sizes if any(one.size == size for one in points)]
    for axes, factor, across in zip(grid[0, :2], ("ids", "parameters"), ("image ids seen", "parameters"), strict=True):
        groups = {f"{percent} %": [one for one in points if one.percent == percent] for percent in study.percents}
        if factor == "ids":
            groups = {size: [one for one in points if one.size == size] for size in sizes}
        lines, laws = {}, []
        for name, group in groups.items():
            places = sorted({getattr(one, factor) for one in group})
            lines[name] = places, [mean([o.image_loss for o in group if getattr(o, factor) == x]) for x in places]
            if fitted is not None:
                at = {getattr(one, factor): one for one in group}
                facts = [{"parameters": float(at[x].parameters), "image ids": float(at[x].ids)} for x in places]
                laws.append((places, [fitted.loss(one) for one in facts]))
        draw_lines(axes, lines, "", across, "held-out nats per image id")
        for number, (xs, ys) in enumerate(laws):
            axes.plot(xs, ys, linestyle=":", color=COLOURS[number % len(COLOURS)], linewidth=1.2)
        axes.set_yscale("log")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(lambda value, _: f"{value:.3g}")
        finish(axes, len(lines), {getattr(one, factor) for one in points})
    if scored:
        lines = {}
        for size in sizes:
            found = [(one.ids, one.layout) for one in points if one.size == size and one.layout is not None]
            places = sorted({ids for ids, _ in found})
            lines[size] = places, [mean([layout for ids, layout in found if ids == place]) for place in places]
        draw_lines(grid[0, 2], lines, "", "image ids seen", "drawings with colour and layout right")
        finish(grid[0, 2], len(lines), {one.ids for one in points})
    save(figure, out / "study.png")
    rows = drawings(study, sizes, out)
    if rows:
        sheet([row for _, row in rows], titles=rows[0][0], label_width=110).save(out / "grid.png")


def short(count: int) -> str:
    """A count of three digits: 160k, 2.21M."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:#.3g}".rstrip(".") + name
    return str(count)


def mean(values: Sequence[float]) -> float:
    """Mean over seeds."""
    return sum(values) / len(values)


def finish(axes: "Axes", lines: int, places: Collection[int]) -> None:
    """Dots on the first lines, and a logarithmic axis with the counts at which there are any."""
    for line in axes.lines[:lines]:
        line.set_marker("o")
        line.set_markersize(4)
    axes.set_xscale("log")
    axes.set_xticks(sorted(places), [short(place) for place in sorted(places)])
    axes.set_xticks([], minor=True)
    axes.tick_params(which="both", colors=SOFT, length=0, labelsize=8)


def drawings(study: ScalingStudy, sizes: Sequence[str], out: Path) -> list[tuple[list[str], Row]]:
    """(tags and prompts, a row of the first seed's drawings) of each size and checkpoint, one prompt of each tag."""
    found = []
    for size in sizes:
        for percent in study.percents:
            folder = out / "runs" / size / f"seed-{study.seeds[0]}" / f"at-{percent}" / "eval"
            first: dict[str, dict[str, Any]] = {}
            for item in read_json(folder / "samples" / "t2i.json") or []:
                first.setdefault(item["tag"], item)
            if first:
                images = [np.asarray(Image.open(folder / item["files"][0]).convert("RGB")) for item in first.values()]
                titles = [title(tag, item["prompt"]) for tag, item in first.items()]
                found.append((titles, Row(size, images, f"{percent} %")))
    return found


def title(tag: str, prompt: str) -> str:
    """A tag and its prompt in lines as wide as a picture of the sheet."""
    return "\n".join([tag.replace("_", " ").upper(), *wrap(prompt, 17)])
