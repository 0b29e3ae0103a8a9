"""The `metrics.csv` of a run over its restarts: the logger starts an empty file, so rows are carried over."""

import csv
from pathlib import Path

from ddt_lightning.atomic import whole_file

KEPT = "metrics.before.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file; none when it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows under the union of their columns, replacing the file in one step."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def set_aside(run_dir: Path, step: int) -> None:
    """Before a run continues from `step`: keep the rows up to it, drop what the continued run will log again."""
    rows = read_rows(run_dir / KEPT) + read_rows(run_dir / "metrics.csv")
    rows = [row for row in rows if int(row.get("step") or 0) < step]
    if rows:
        write_rows(run_dir / KEPT, rows)
    (run_dir / "metrics.csv").unlink(missing_ok=True)


def put_back(run_dir: Path) -> None:
    """When training ends: one `metrics.csv` with the rows of every part."""
    rows = read_rows(run_dir / KEPT) + read_rows(run_dir / "metrics.csv")
    if rows:
        write_rows(run_dir / "metrics.csv", rows)
    (run_dir / KEPT).unlink(missing_ok=True)
