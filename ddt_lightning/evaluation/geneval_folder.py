"""GenEval's folder of images: `00000/metadata.jsonl` (one JSON object) and `00000/samples/0000.png`, ....

The official evaluator reads what is written here, and what is written for it can be read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.images import read_image, save_png
from ddt_lightning.texts import read_json_file


@dataclass(frozen=True)
class Drawn:
    """One image of such a folder.

    Args:
        file: its path below the folder.
        metadata: its prompt.
    """

    file: str
    metadata: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The name of its prompt's folder."""
        return Path(self.file).parts[0]


def write_prompt(folder: Path, number: int, metadata: dict[str, Any]) -> None:
    """Write the metadata of prompt `number`."""
    place = folder / f"{number:05d}"
    (place / "samples").mkdir(parents=True, exist_ok=True)
    (place / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")


def write_sample(folder: Path, number: int, sample: int, image: NDArray[np.uint8]) -> None:
    """Write image `sample` of prompt `number`, uint8 `[H, W, 3]`."""
    save_png(folder / f"{number:05d}" / "samples" / f"{sample:04d}.png", image)


def read_folder(folder: str | Path) -> list[Drawn]:
    """The images of a folder in the order of prompts and samples; other names are passed over, as the evaluator does.

    Raises:
        FileNotFoundError: there is no such folder, or a prompt without metadata.
        ValueError: there is no prompt, or one without images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"`--images` ({folder}) is not a folder.")
    found = []
    for place in sorted((path for path in root.iterdir() if path.is_dir() and path.name.isdigit()), key=number):
        if not (place / "metadata.jsonl").is_file():
            raise FileNotFoundError(f"`--images` ({folder}): {place.name} has no metadata.jsonl.")
        metadata = read_json_file(place / "metadata.jsonl")
        samples = sorted((path for path in place.glob("samples/*.png") if path.stem.isdigit()), key=number)
        if not samples:
            raise ValueError(f"`--images` ({folder}): {place.name}/samples has no image such as 0000.png.")
        found += [Drawn(str(path.relative_to(root)), metadata) for path in samples]
    if not found:
        raise ValueError(f"`--images` ({folder}) has no folder of a prompt such as 00000.")
    return found


def number(path: Path) -> int:
    """The number that is a file's or folder's name."""
    return int(path.stem)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """An image file, upright, as RGB uint8 `[H, W, 3]`.

    Raises:
        ValueError: it is not a readable image.
    """
    return np.asarray(read_image(path))
