"""Atomic writes: files and folders that are either whole or not there.

Everything is written under a temporary name beside its target and renamed when it is done, so that a killed or failed
call leaves what was there before.
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


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `target` when the block ends well; by then `target` must be gone or empty.

    Raises:
        OSError: `target` holds files when the block ends.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield stage
        os.chmod(stage, 0o777 & ~_umask())
        stage.replace(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` when the block ends well; a block may also write nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        if temporary.exists():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed calls left under temporary names; no other call may be writing there."""
    for path in list(folder.rglob(".*.partial")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary name."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - json holds anything
    """Write an indented JSON file through a temporary name."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _umask() -> int:
    """The process's file mode mask (mkdtemp ignores it: its folders are private)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
