"""Quantizer health of a run: usage, perplexity, dead and revived codes and commitment over the steps, with a reading.

In: the curves of a tokenizer's metrics.csv, `train/...` over the memory of the moving averages (about a hundred
batches), `val/...` over the whole validation set; a single batch says little about usage. Out: HTML. Charts of what a
run did not log are left out.
"""

from collections.abc import Mapping

from ddt_lightning.report.svg import Line, curves

CHARTS: dict[str, dict[str, str]] = {
    "Codes used, share of the codebook": {"val/codebook_usage": "validation set"},
    "Perplexity of the codes": {"train/perplexity": "training", "val/codebook_perplexity": "validation set"},
    "Perplexity by quarter of the positions, validation set": {
        f"val/codebook_perplexity_{number}": name
        for number, name in enumerate(("finest", "second", "third", "coarsest"), 1)
    },
    "Mean perplexity of one position, by quarter, training": {
        f"train/position_perplexity_{number}": name
        for number, name in enumerate(("finest", "second", "third", "coarsest"), 1)
    },
    "Dead and revived codes": {"train/dead_codes": "hardly used lately", "train/revived_codes": "replaced in the step"},
    "Commitment, squared distance of features to codes": {"train/commit": "training"},
}
"""Titles of the charts, and the columns that each shows with their names."""

HEALTHY = (
    "Healthy: usage is high and holds, perplexity stays far above 1 in every quarter (coarse positions use fewer "
    "codes), dead and revived codes fall and stay low, and commitment levels off above 0."
)


def health(lines: Mapping[str, Line]) -> str:
    """The charts of a tokenizer's curves, or nothing where it logged none of them."""
    drawn = "".join(
        curves(title, {name: lines[column] for column, name in columns.items() if column in lines})
        for title, columns in CHARTS.items()
    )
    return f'<h3>Over the steps</h3><p class="soft">{HEALTHY}</p><div class="grid wide">{drawn}</div>' if drawn else ""
