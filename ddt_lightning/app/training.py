"""The train tab: loss curves and grids of samples of a run, read anew while it goes on.

In: a folder of runs; a run is a folder with `metrics.csv`, as `ddt-fit` and the plans write them, and perhaps
`samples/step-N.png`. Nothing outside of the folder that the command names is read.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from ddt_lightning.app.limits import in_words
from ddt_lightning.app.pictures import empty, note
from ddt_lightning.report.charts import read_curves, run_charts
from ddt_lightning.report.page import environment

SECONDS = 5  # between two looks at a run
DEPTH = 3  # how deep runs may lie in the folder
GRIDS = 4  # newest grids that are shown
CHARTS = environment().from_string(
    '{% from "macros.html" import charts, picture %}{{ charts(curves) }}'
    '{% for grid in grids %}<figure class="ddt-grid">{{ picture(grid, grid.stem) }}'
    "<figcaption>{{ grid.stem }}</figcaption></figure>{% endfor %}"
)
Look = tuple[str, float, float]  # a run, and when its curves and its samples changed


def find_runs(folder: Path) -> list[str]:
    """Names of the runs in a folder, relative to it, the one that changed last first."""
    places = ["metrics.csv", *("/".join(["*"] * depth) + "/metrics.csv" for depth in range(1, DEPTH + 1))]
    found = {path.parent: path.stat().st_mtime for pattern in places for path in folder.glob(pattern)}
    return [str(run.relative_to(folder)) for run in sorted(found, key=lambda run: -found[run])]


def training_tab(tab: gr.Tab, folder: Path) -> None:
    """Build the tab of the runs in `folder`, inside `tab`."""
    missing = f"No run in {folder} yet: `make demo` or `ddt-fit` start one, and `--run` names another folder."
    listed, seen = gr.State([]), gr.State(None)
    run = gr.Dropdown([], label="Run", elem_id="train-run")
    view = gr.HTML(empty(missing), elem_id="train-view", padding=False)
    timer = gr.Timer(SECONDS, active=False)

    @in_words
    def find(name: str | None, before: list[str]) -> tuple[Any, Any]:
        names = find_runs(folder)
        if names and sorted(names) == sorted(before):
            return gr.skip(), gr.skip()  # a list that is open stays open
        return gr.update(choices=names, value=name if name in names else next(iter(names), None)), names

    @in_words
    def show(name: str | None, before: Look | None) -> tuple[Any, Any]:
        if name is None or name not in find_runs(folder):
            return None, empty(missing)
        look = changed(folder / name, name)
        return (gr.skip(), gr.skip()) if look == before else (look, page(folder / name))

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    for event in (tab.select, timer.tick):
        event(find, [run, listed], [run, listed], **quiet).then(show, [run, seen], [seen, view], **quiet)
    tab.select(lambda: gr.Timer(active=True), None, timer, **quiet)
    run.input(show, [run, seen], [seen, view], **quiet)


def changed(run: Path, name: str) -> Look:
    """When the files that the tab shows changed last."""
    samples = run / "samples"
    times = [path.stat().st_mtime if path.exists() else 0.0 for path in (run / "metrics.csv", samples)]
    return name, times[0], times[1]


def page(run: Path) -> Markup:
    """Charts of the curves of a run, and its newest grids of samples."""
    curves = run_charts(read_curves(run / "metrics.csv"))
    grids = sorted((run / "samples").glob("step-*.png"))[-GRIDS:][::-1]
    if not curves and not grids:
        return empty("This run has logged nothing yet.")
    return note(f"{len(curves)} quantities against optimizer steps") + Markup(CHARTS.render(curves=curves, grids=grids))
