"""Results of a verb: a folder of `00000.png`, ... and `results.jsonl`, one line for each picture or text.

A call replaces what an earlier call left in the folder: the pictures that its `results.jsonl` names are removed, other
files stay. A call whose own inputs would be replaced is refused before it begins. A call that names no folder gets a
new one below `pictures/`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ddt_lightning.atomic import staged
from ddt_lightning.images import save_png
from ddt_lightning.texts import to_json

if TYPE_CHECKING:
    from torch import Tensor

LINES = "results.jsonl"
PICTURE = re.compile(r"\d{5,}\.png")  # the name that a result has
PLACE = "pictures"  # where new folders are made
LONGEST = 40  # characters of a text in the name of a folder


class Results:
    """Lines and pictures in the order in which they are added.

    Args:
        folder: where the pictures go.
        lines: the open `results.jsonl`.
    """

    def __init__(self, folder: Path, lines: IO[str]) -> None:
        self.folder, self.lines = folder, lines
        self.pictures: set[str] = set()

    def add(self, record: dict[str, Any], picture: "Tensor | None" = None) -> str:
        """Write a line, and a picture uint8 `[3, H, W]` that it names; returns the picture's name."""
        name = ""
        if picture is not None:
            name = f"{len(self.pictures):05d}.png"
            save_png(self.folder / name, picture.permute(1, 2, 0).numpy())
            self.pictures.add(name)
            record = {"file": name, **record}
        self.lines.write(to_json(record) + "\n")
        return name


@contextmanager
def results(out: str) -> Iterator[Results]:
    """Results that replace those in the folder `out` when the block ends without an error."""
    with staged(out) as folder, (folder / LINES).open("w", encoding="utf-8") as lines:
        written = Results(folder, lines)
        yield written
        former = pictures_of(Path(out))
    for name in former - written.pictures:
        (Path(out) / name).unlink(missing_ok=True)


@contextmanager
def folder_for(out: str | None, text: str) -> Iterator[str]:
    """The folder `out`, or where none is given a new one, `pictures/NUMBER-TEXT`; it goes where the block fails."""
    if out is not None:
        yield out
        return
    place = Path(PLACE)
    made = [] if place.exists() else [place]
    place.mkdir(exist_ok=True)
    words = re.sub(r"\W+", "-", text.lower()).strip("-")[:LONGEST].rstrip("-")
    used = [int(found[0]) for path in place.iterdir() if (found := re.match(r"\d+", path.name))]
    number = max(used, default=0)
    while True:
        number += 1
        folder = place / f"{number:03d}-{words}"
        try:
            folder.mkdir()
            break
        except FileExistsError:  # another call was faster
            continue
    try:
        yield str(folder)
    except BaseException:
        for path in (folder, *made):
            if not any(path.iterdir()):
                path.rmdir()
        raise


def pictures_of(folder: Path) -> set[str]:
    """Names of the pictures in a folder that its `results.jsonl` names; nothing else is taken for a result."""
    if not (folder / LINES).is_file():
        return set()
    found = set()
    for line in (folder / LINES).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.add(str(json.loads(line)["file"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a line of a text, or of another program
    return {name for name in found if PICTURE.fullmatch(name)}


def check_sources(out: str | None, sources: Iterable[Path]) -> None:
    """Refuse inputs that the results would replace.

    Raises:
        ValueError: naming the first of them.
    """
    folder = Path(out).resolve() if out is not None else None
    for source in sources:
        if source.resolve().parent == folder and PICTURE.fullmatch(source.name):
            raise ValueError(f"`--out` ({out}) is the folder of {source}, which would be replaced: name another one.")
