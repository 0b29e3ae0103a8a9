"""Lists of requests of other data sets to shards, for the converters in `data/`."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ddt_lightning.commands.data import write_chats
from ddt_lightning.shards.conversations import Chat, Turns
from ddt_lightning.shards.members import Problems

Entry = TypeVar("Entry")


def convert(
    parser: argparse.ArgumentParser,
    name: str,
    entries: Callable[[argparse.Namespace], Iterable[tuple[str, Entry]]],
    turns_of: Callable[[Entry], Turns],
    folder: Callable[[argparse.Namespace], str],
    args: Sequence[str] | None = None,
) -> None:
    """Parse the command line and write the chat shards; what cannot be read at all ends it with code 2.

    Args:
        parser: with the converter's own options.
        name: default start of the shards' names.
        entries: options to named entries.
        turns_of: an entry to turns.
        folder: options to the folder of the images.
        args: the command line; None for that of the process.
    """
    parser.add_argument("--out", required=True, help="folder of the shards")
    parser.add_argument("--name", default=name, help="start of the shards' names")
    parser.add_argument("--per_shard", type=int, default=1000, help="samples per shard")
    found = parser.parse_args(args)
    problems: Problems = {}
    try:
        chats = usable(entries(found), turns_of, problems)
        write_chats(chats, folder(found), found.out, found.name, found.per_shard, problems)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def usable(entries: Iterable[tuple[str, Any]], turns_of: Callable[[Any], Turns], problems: Problems) -> Iterator[Chat]:
    """Names and turns of the entries that are conversations.

    Args:
        entries: named entries.
        turns_of: an entry to turns; a ValueError, KeyError, TypeError or AttributeError refuses it.
        problems: refused entries are added here (name -> reason).
    """
    for name, entry in entries:
        try:
            yield name, turns_of(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems[name] = f"{type(error).__name__}: {error}"
