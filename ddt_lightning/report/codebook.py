"""Quantizer health of a run: how evenly codes are used, at the end and over the steps of the tokenizer's training.

In: the counts that `ddt eval reconstruction` kept, and the curves of a tokenizer's metrics.csv: `train/...` over the
memory of the moving averages (about a hundred batches), `val/...` over the whole validation set; a single batch says
little about usage. Out: the variables of the template. Charts of what a run did not log are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddt_lightning.report.charts import Chart, chart
from ddt_lightning.report.galleries import Facts, read_json
from ddt_lightning.report.style import Line

QUARTERS = tuple(enumerate(("finest", "second", "third", "coarsest"), 1))
CHARTS: dict[str, dict[str, str]] = {
    "Codes used, share of the codebook": {"val/codebook_usage": "validation set"},
    "Perplexity of the codes": {"train/perplexity": "training", "val/codebook_perplexity": "validation set"},
    "Perplexity by quarter of the positions, validation set": {
        f"val/codebook_perplexity_{number}": name for number, name in QUARTERS
    },
    "Mean perplexity of one position, by quarter, training": {
        f"train/position_perplexity_{number}": name for number, name in QUARTERS
    },
    "Dead and revived codes": {"train/dead_codes": "hardly used lately", "train/revived_codes": "replaced in the step"},
    "Commitment, squared distance of features to codes": {"train/commit": "training"},
}
"""Titles of the charts, and the columns that each shows with their names."""


def codebook(run: Path, lines: Mapping[str, Line]) -> Facts:
    """Use of the codes over held-out images, and quantizer health over the steps.

    Args:
        run: run folder.
        lines: curves of the tokenizer's training.
    """
    counts: dict[str, Any] | None = read_json(run / "eval" / "samples" / "codebook.json")
    over_steps = health(lines)
    if not counts and not over_steps:
        return {}
    uses = sorted(counts["counts"], reverse=True) if counts else []
    drawn = chart("Uses of each code, most used first", {"": (range(len(uses)), uses)})
    return {"found": counts, "used": sum(count > 0 for count in uses), "uses": drawn, "health": over_steps}


def health(lines: Mapping[str, Line]) -> list[Chart]:
    """The charts of a tokenizer's curves."""
    drawn = (
        chart(title, {name: lines[column] for column, name in columns.items() if column in lines})
        for title, columns in CHARTS.items()
    )
    return [one for one in drawn if one is not None]
