"""Conversations about image files to chat samples: JSON Lines and a folder in, samples for `write_shards` out.

A chat sample is `KEY.json {"turns": [...]}` with its images `KEY.0.jpg`, `KEY.1.png`, ...; `ddt encode` makes a
conversation shard of it. What comes in is not trusted: an image must be a file of an image type inside the folder, and
turns must alternate, beginning with the user and ending with the assistant.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddt_lightning.shards.members import Problems
from ddt_lightning.shards.read import IMAGE_TYPES
from ddt_lightning.texts import parse_json, read_lines

Turns = list[dict[str, Any]]
Chat = tuple[str, Turns]  # where it comes from, and turns whose images are file names


def read_chats(path: str | Path, problems: Problems) -> Iterator[Chat]:
    """The conversations of a JSON Lines file: `{"turns": [{"role", "content": ["text", {"image": "a.jpg"}]}]}` a line.

    Args:
        path: the file; empty lines are passed over.
        problems: lines that are none are added here (line -> reason).

    Raises:
        ValueError: the file is no text.
    """
    for number, line in read_lines(path):
        name = f"{Path(path).name}:{number}"
        try:
            entry = parse_json(line)
        except ValueError as error:
            problems[name] = str(error)
            continue
        if isinstance(entry, dict) and isinstance(entry.get("turns"), list):
            yield name, entry["turns"]
        else:
            problems[name] = 'has no list "turns"'


def chat_samples(chats: Iterable[Chat], folder: str | Path, problems: Problems) -> Iterator[dict[str, Any]]:
    """Chat samples of conversations whose images lie in a folder; a file that is shown twice is one image.

    Args:
        chats: names and turns.
        folder: of the image files.
        problems: conversations that cannot be used are added here (name -> reason).
    """
    made = 0
    for name, turns in chats:
        try:
            sample = chat_sample(turns, Path(folder))
        except (ValueError, OSError, KeyError, TypeError) as error:
            problems[name] = f"{type(error).__name__}: {error}"
        else:
            yield {"__key__": f"{made:08d}", **sample}
            made += 1


def chat_sample(turns: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The members of one chat sample.

    Raises:
        ValueError: turns that training would refuse, an image file that is none or lies elsewhere, or no image at all.
    """
    files: list[str] = []
    numbered: Turns = []
    for turn in turns:
        content: list[Any] = []
        parts = turn["content"]
        for part in [parts] if isinstance(parts, str) else parts:
            if isinstance(part, str):
                content.append(part)
                continue
            if not isinstance(part, dict) or not isinstance(part.get("image"), str):
                raise ValueError(f'part {part!r} must be a text or {{"image": "FILE"}}')
            if part["image"] not in files:
                files.append(part["image"])
            content.append({"image": files.index(part["image"])})
        numbered.append({"role": turn["role"], "content": content})
    if not files:
        raise ValueError("shows no image")
    check_turns(numbered, len(files))
    sample: dict[str, Any] = {"json": {"turns": numbered}}
    for number, name in enumerate(files):
        path = image_file(folder, name)
        sample[f"{number}{path.suffix.lower()}"] = path.read_bytes()
    return sample


def check_turns(turns: object, images: int) -> None:
    """Refuses turns that are not a conversation about so many images.

    Raises:
        ValueError: no list, other roles than user and assistant in turn, an answer missing, or parts of another kind.
    """
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError("turns must be a list of requests, each with its answer")
    for number, turn in enumerate(turns):
        role = ("user", "assistant")[number % 2]
        if not isinstance(turn, dict) or turn.get("role") != role or not isinstance(turn.get("content"), list):
            raise ValueError(f'turn {number} must be {{"role": "{role}", "content": [...]}}')
        for part in turn["content"]:
            shown = part.get("image") if isinstance(part, dict) else None
            if not isinstance(part, str) and not (type(shown) is int and 0 <= shown < images):
                raise ValueError(f"part {part!r} of turn {number} is neither a text nor one of {images} images")


def image_file(folder: Path, name: str) -> Path:
    """An image file of a folder, by the name that untrusted data gives it.

    Raises:
        ValueError: another type than an image's, or a path that leads out of the folder, through a link as well.
        FileNotFoundError: there is no such file.
    """
    if Path(name).suffix.lower().removeprefix(".") not in IMAGE_TYPES:
        raise ValueError(f"image {name!r} must end in {', '.join(IMAGE_TYPES)}")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"image {name!r} lies outside {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {folder / name}")
    return path
