"""MagicBrush's sessions of edits to chat shards: each edit goes on from the picture that the one before it made.

    python data/magicbrush.py MagicBrush/train --out shards/magicbrush
    ddt encode --tokenizer runs/tokenizer --shards 'shards/magicbrush/*.tar' --out tokens/magicbrush

Reads `edit_sessions.json`, `{id: [{"input": FILE, "output": FILE, "instruction": ...}, ...]}`, with the files in
`images/ID/`. `--single` makes a conversation of every edit instead. Masks are not used.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.commands.data import write_chats
from ddt_lightning.shards.conversations import Chat


def conversation(session: str, edits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns whose images are file names; the first request shows the picture, the others go on from the last answer.

    Raises:
        ValueError: an edit that does not start from what the one before it made.
    """
    turns: list[dict[str, Any]] = []
    for number, edit in enumerate(edits):
        if number and edit["input"] != edits[number - 1]["output"]:
            raise ValueError(f"edit {number} starts from {edit['input']}, not from {edits[number - 1]['output']}")
        shown = [] if number else [{"image": f"{session}/{edit['input']}"}]
        turns.append({"role": "user", "content": [*shown, edit["instruction"].strip()]})
        turns.append({"role": "assistant", "content": [{"image": f"{session}/{edit['output']}"}]})
    return turns


def chats(sessions: dict[str, list[dict[str, Any]]], single: bool, problems: dict[str, str]) -> Iterator[Chat]:
    """Names and turns; sessions that cannot be used are added to `problems`."""
    for session, edits in sessions.items():
        for number, part in enumerate([[edit] for edit in edits] if single else [edits]):
            name = f"{session}:{number}"
            try:
                yield name, conversation(session, part)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problems[name] = f"{type(error).__name__}: {error}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with edit_sessions.json and images/")
    parser.add_argument("--out", required=True, help="folder of the shards")
    parser.add_argument("--name", default="magicbrush", help="start of the shards' names")
    parser.add_argument("--single", action="store_true", help="one conversation for each edit")
    parser.add_argument("--per_shard", type=int, default=1000, help="samples per shard")
    args = parser.parse_args()
    problems: dict[str, str] = {}
    try:
        sessions = json.loads((args.folder / "edit_sessions.json").read_text(encoding="utf-8"))
        images = str(args.folder / "images")
        write_chats(chats(sessions, args.single, problems), images, args.out, args.name, args.per_shard, problems)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
