"""The order study to look at: what each order costs, and what happens during training and along the sequence.

In: scores by set of ids. Out: `penalty.png`, `study.png`.
"""

from collections.abc import Mapping
from pathlib import Path

from ddt_lightning.studies.order import OrderStudy, Scores, penalties
from ddt_lightning.studies.panels import draw_bars, draw_lines, panels, save


def draw(study: OrderStudy, scores: Mapping[str, Scores], out: Path) -> None:
    """Both pictures."""
    figure, grid = panels(study.title, 1, 1, width=7.5, height=3.6)
    costs = {name: penalties(one, relative=True) for name, one in scores.items()}
    draw_bars(grid[0, 0], costs, "penalty of an order", "loss over that of the natural order, relative")
    save(figure, out / "penalty.png")

    figure, grid = panels(study.title, 3, len(scores))
    for column, (name, one) in enumerate(scores.items()):
        places = list(range(1, one.length + 1))
        draw_lines(grid[0, column], one.curves, f"{name}: training", "step", "held-out nats per sample")
        for row, (part, values) in enumerate({"loss": one.loss, "entropy": one.entropy}.items(), 1):
            lines = {order: (places, by_place) for order, by_place in values.items()}
            draw_lines(grid[row, column], lines, f"{name}: {part} by place", "place in the sequence", "nats")
    save(figure, out / "study.png")
