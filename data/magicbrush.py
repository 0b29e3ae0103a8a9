"""MagicBrush's sessions of edits to chat shards: each edit goes on from the picture that the one before it made.

    python data/magicbrush.py MagicBrush/train --out shards/magicbrush
    ddt encode --tokenizer runs/tokenizer --shards 'shards/magicbrush/*.tar' --out tokens/magicbrush

Reads `edit_sessions.json`, `{id: [{"input": FILE, "output": FILE, "instruction": ...}, ...]}`, with the files in
`images/ID/`. `--single` makes a conversation of every edit instead. Masks are not used.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.commands.convert_requests import convert
from ddt_lightning.texts import read_json_file

Edit = dict[str, Any]
Session = tuple[str, list[Edit]]


def turns_of(session: Session) -> list[dict[str, Any]]:
    """Turns whose images are file names; the first request shows the picture, the others go on from the last answer.

    Raises:
        ValueError: an edit that does not start from what the one before it made.
    """
    folder, edits = session
    turns: list[dict[str, Any]] = []
    for number, edit in enumerate(edits):
        if number and edit["input"] != edits[number - 1]["output"]:
            raise ValueError(f"edit {number} starts from {edit['input']}, not from {edits[number - 1]['output']}")
        shown = [] if number else [{"image": f"{folder}/{edit['input']}"}]
        turns.append({"role": "user", "content": [*shown, edit["instruction"].strip()]})
        turns.append({"role": "assistant", "content": [{"image": f"{folder}/{edit['output']}"}]})
    return turns


def sessions(folder: Path, single: bool) -> Iterator[tuple[str, Session]]:
    """The named sessions, or every edit of theirs as one."""
    found = read_json_file(folder / "edit_sessions.json")
    for session, edits in found.items():
        for number, part in enumerate([[edit] for edit in edits] if single else [edits]):
            yield f"{session}:{number}", (session, part)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with edit_sessions.json and images/")
    parser.add_argument("--single", action="store_true", help="one conversation for each edit")
    convert(
        parser,
        "magicbrush",
        lambda args: sessions(args.folder, args.single),
        turns_of,
        lambda args: str(args.folder / "images"),
    )


if __name__ == "__main__":
    main()
