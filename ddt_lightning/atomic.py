"""Folders and files that are either whole or not there.

A verb writes into a staging folder beside its target; only when it is done are the files renamed into place, so that a
killed or failed call leaves what was there before.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def staged(out: str | Path) -> Iterator[Path]:
    """A folder to write into; what it holds moves to `out` when the block ends without an error.

    Existing files of the same names are replaced, other files in `out` stay.

    Raises:
        ValueError: where `out` is a file.
    """
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise ValueError(f"`--out` ({target}) is a file; name a folder.")
    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield stage
        os.chmod(stage, 0o777 & ~_umask())
        if target.exists():
            for path in sorted(path for path in stage.rglob("*") if path.is_file()):
                place = target / path.relative_to(stage)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        else:
            stage.rename(target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:  # innermost first; a folder that someone else filled meanwhile stays
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
    shutil.rmtree(stage, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - json holds anything
    """Write an indented JSON file through a temporary name."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _umask() -> int:
    """The process's file mode mask (mkdtemp ignores it: its folders are private)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
