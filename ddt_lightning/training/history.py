"""The `metrics.csv` of a run over its restarts: a row is on the disk when it is logged, and the file is always whole.

A killed run leaves the rows of all its steps. The call that continues it drops those of steps that it takes again, and
adds its own to the same file.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter

from ddt_lightning.atomic import whole_file

FILE = "metrics.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file; none where there is no file. A last line without an end was cut off, and is left out."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].decode()
    return list(csv.DictReader(io.StringIO(whole, newline="")))


def write_rows(path: Path, rows: list[dict[str, str]], columns: Iterable[str] = ()) -> None:
    """Write rows, replacing the file in one step; no rows are no file.

    Args:
        path: of the file.
        rows: values by column.
        columns: the first columns; others follow in the order of the rows.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with whole_file(path) as temporary:
        temporary.write_text(lines(rows, names, header=True), encoding="utf-8", newline="")


def add_row(path: Path, row: Mapping[str, object], columns: Iterable[str]) -> None:
    """Add a row by one write, which a kill cannot divide; the first one, or one with a new column, replaces the file.

    Args:
        path: of the file.
        row: values by column.
        columns: those of the row, in order, if the file has to be written anew.
    """
    present = read_header(path)
    if not present or row.keys() - set(present):
        written = {name: "" if value is None else str(value) for name, value in row.items()}
        return write_rows(path, [*read_rows(path), written], columns)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, lines([row], present).encode())
    os.close(file)


def cut_rows(path: Path, step: int) -> None:
    """Drop the rows of `step` and of later steps: a run that goes on after `step` steps logs them again."""
    rows = read_rows(path)
    kept = [row for row in rows if int(row["step"]) < step]
    if len(kept) < len(rows) or (path.is_file() and not path.read_bytes().endswith(b"\n")):
        write_rows(path, kept)


def read_header(path: Path) -> list[str]:
    """Columns of a csv file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def lines(rows: Iterable[Mapping[str, object]], columns: list[str], *, header: bool = False) -> str:
    """Rows as text, below their columns if `header`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class RunLogger(CSVLogger):
    """Logger of a run: its rows follow those of earlier calls.

    Args:
        run_dir: the folder of the file.
    """

    _experiment: ExperimentWriter | None

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(run_dir, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes on the first process; made when it is first used."""
        if self._experiment is None:
            self._experiment = RowWriter(self.log_dir)
        return self._experiment


class RowWriter(ExperimentWriter):
    """Lightning's writer, with files that are whole after a kill."""

    metrics: list[dict[str, float]]

    def _check_log_dir_exists(self) -> None:
        """Keep the file that is there, which Lightning removes."""

    def save(self) -> None:
        """Add the rows that were logged."""
        path = Path(self.metrics_file_path)
        for row in self.metrics:
            add_row(path, row, sorted({*read_header(path), *row}))
        self.metrics = []
