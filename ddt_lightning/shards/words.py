"""Text as shards of word ids."""

import re
from collections.abc import Iterator
from typing import Any

END = "\n"


OTHER = "<other>"


def read_words(shards: list[str] | str, option: str, problems: dict[str, str]) -> Iterator[str]:
    """The words and marks of all texts, in file order, in lower case, a line end behind each text.

    Args:
        shards: paths and patterns; of several captions of a sample the first one counts.
        option: the option they come from, for errors.
        problems: samples that cannot be read are added here (sample -> reason).
    """
    from ddt_lightning.shards.members import UNREADABLE
    from ddt_lightning.shards.read import Columns, expand, name, read_shard
    from ddt_lightning.shards.stream import one_line
    from ddt_lightning.shards.texts import captions

    for url in expand([shards] if isinstance(shards, str) else shards, option):
        for record in read_shard(url, problems):
            try:
                texts = captions(record, Columns())[:1]
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
                continue
            for text in texts:
                yield from re.findall(r"\w+|[^\w\s]", text.lower())
                yield END


def windows(found: list[str], table: list[str], length: int, hop: int) -> Iterator[dict[str, Any]]:
    """Samples of `length` consecutive words as codes, the next one `hop` words on."""
    import numpy as np

    from ddt_lightning.shards.write import pack_ids

    code = {word: number for number, word in enumerate(table)}
    ids = np.array([code.get(word, 0) for word in found])
    for number, start in enumerate(range(0, len(ids) - length + 1, hop)):
        yield {"__key__": f"{number:08d}", "ids.npy": pack_ids(ids[start : start + length], len(table))}
