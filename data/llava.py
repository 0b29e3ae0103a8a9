r"""LLaVA-style conversations to chat shards: a JSON list (or JSON Lines) and the folder of its images in.

    python data/llava.py llava_instruct_150k.json --images coco/train2017 --out shards/llava
    ddt encode --tokenizer runs/tokenizer --shards 'shards/llava/*.tar' --out tokens/llava

An entry is `{"image": FILE or [FILE, ...], "conversations": [{"from": "human"|"gpt", "value": "<image>\n..."}]}`; each
`<image>` in a value is the next of the entry's images. Entries without an image, or with more or fewer images than
places for them, are left out and named.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.commands.convert_requests import convert
from ddt_lightning.texts import parse_json, read_json_file, read_lines

PLACE = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def turns_of(entry: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - json holds anything
    """Turns whose images are file names, of an entry or of a line of JSON with one.

    Raises:
        ValueError: no JSON, another speaker, or images that do not match their places.
        KeyError: a field is missing.
    """
    entry = parse_json(entry) if isinstance(entry, str) else entry
    named = entry.get("image") or []
    images = [named] if isinstance(named, str) else list(named)
    turns, used = [], 0
    for said in entry["conversations"]:
        if said["from"] not in ROLES:
            raise ValueError(f"speaker {said['from']!r} must be human or gpt")
        content: list[Any] = []
        for number, text in enumerate(said["value"].split(PLACE)):
            if number:
                if used == len(images):
                    raise ValueError(f"has {len(images)} images, fewer than {PLACE}")
                content.append({"image": images[used]})
                used += 1
            if text.strip():
                content.append(text.strip())
        turns.append({"role": ROLES[said["from"]], "content": content})
    if used < len(images):
        raise ValueError(f"has {len(images)} images, but {used} {PLACE}")
    return turns


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """The named entries of a JSON list or a JSON Lines file."""
    lines = path.suffix.lower() == ".jsonl"
    for number, entry in enumerate((line for _, line in read_lines(path)) if lines else read_json_file(path)):
        yield f"{path.name}:{number}", entry


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON list, or JSON Lines")
    parser.add_argument("--images", required=True, help="folder of the images")
    convert(parser, "llava", lambda args: entries(args.file), turns_of, lambda args: args.images)


if __name__ == "__main__":
    main()
