"""The outcome of a study, of whatever kind: tables, pictures, numbers and a plain sentence.

Every study writes its outcome as `findings.json` and as `study.md` into its folder, beside the pictures; the report
shows it from there and knows nothing of the studies. The interval of a mean over three seeds or more is Student's at
95 %: it says how far the mean of other seeds may lie. Of two seeds both values are shown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from textwrap import wrap
from typing import Any

from ddt_lightning.atomic import write_json, write_text
from ddt_lightning.metrics.cards import versions
from ddt_lightning.metrics.intervals import over_seeds, paired, spread_title

FILE = "findings.json"
Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""{score: {name of what is compared: {seed: value}}}"""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        head: names of the columns.
        rows: as many cells each.
        names: how many columns at the left are names; the others are numbers.
        title: above it; empty for none.
    """

    head: list[str]
    rows: list[list[str]]
    names: int = 1
    title: str = ""


@dataclass(frozen=True)
class Findings:
    """The outcome of a study.

    Args:
        kind: name of the study, as in `ddt study KIND`.
        title: its heading.
        plain: one sentence for someone who has not seen the project before: what is compared, and why one would.
        explained: what the numbers of the tables are.
        tables: what was found.
        pictures: {file: caption} of PNG images and GIF animations in the study's folder, in the order of the report.
        numbers: everything behind the tables, for other programs, as JSON.
        failed: {run: last line of its error}.
    """

    kind: str
    title: str
    plain: str
    explained: str
    tables: list[Table]
    pictures: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def compared(names: Sequence[str], scores: Scores) -> Table:
    """Scores side by side, as means, and as differences from the first name."""
    first, *others = names
    spread = spread_title(max((len(by_seed) for one in scores.values() for by_seed in one.values()), default=1))
    head = ["score", *(cell for name in names for cell in (name, spread))]
    head += [cell for name in others for cell in (f"{name} - {first}", spread)]
    rows = []
    for key, one in scores.items():
        cells = [key]
        for name in names:
            cells += over_seeds(list(one[name].values())).shown(".3f") if name in one else ["", ""]
        for name in others:
            change = paired(one.get(name, {}), one.get(first, {}))
            cells += change.shown("+.3f") if change is not None else ["", ""]
        rows.append(cells)
    return Table(head, rows)


def aligned(table: Table) -> list[str]:
    """The lines of a Markdown table whose columns also align as plain text."""
    widths = [max(len(cell) for cell in column) for column in zip(table.head, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        both = enumerate(zip(cells, widths, strict=True))
        return "| " + " | ".join(c.ljust(w) if i < table.names else c.rjust(w) for i, (c, w) in both) + " |"

    rule = "|".join("-" * (w + 2) if i < table.names else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return [line(table.head), f"|{rule}|", *map(line, table.rows)]


def markdown(found: Findings) -> str:
    """The study as a text."""
    lines = [f"# {found.title}", "", *wrap(found.plain, 110)]
    for table in found.tables:
        lines += ["", *([table.title, ""] if table.title else []), *aligned(table)]
    lines += ["", *wrap(found.explained, 110)]
    lines += [f"\nFailed: {run}: {why}" for run, why in found.failed.items()]
    return "\n".join(lines) + "\n"


def write_findings(found: Findings, out: Path) -> str:
    """Write findings.json and study.md.

    Returns:
        The text of study.md.
    """
    write_json(out / FILE, {**asdict(found), "versions": versions()})
    text = markdown(found)
    write_text(out / "study.md", text)
    return text


def read_findings(folder: Path) -> Findings:
    """The outcome that `write_findings` wrote into a folder."""
    content: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    tables = [Table(**one) for one in content.pop("tables")]
    return Findings(tables=tables, **{one.name: content[one.name] for one in fields(Findings) if one.name in content})
