"""Documents of different lengths in few rows: `{"ids", "labels", "positions"}`, int64 `[R, T]`.

In: the documents of one batch, lists of ids and labels. A row holds several documents, one after the other; positions
restart at 0 with each, which is how attention knows that a document sees nothing before it (`lm/llm.py`). A batch is
packed by itself: a step stays a function of (seed, step), whatever the processes and workers, and no document is cut.
"""

from collections.abc import Sequence

import torch

from ddt_lightning.shards.rows import ROUND, pad_rows
from ddt_lightning.shards.stream import Example
from ddt_lightning.vocab import IGNORE


def check_row_length(row_length: int, max_length: int) -> None:
    """Refuse rows that cannot hold the longest document.

    Raises:
        ValueError: `row_length` is smaller than `max_length`.
    """
    if row_length < max_length:
        raise ValueError(
            f"`data.row_length` ({row_length}) must be at least `data.max_length` ({max_length}): no document is cut."
        )


def make_rows(examples: Sequence[Example], pad: int, row_length: int | None) -> Example:
    """Rows of one batch: packed to at most `row_length` ids, or one document a row where that is None.

    Args:
        examples: `{"ids": list, "labels": list}`.
        pad: id of the padding.
        row_length: longest row, at least as long as every document.
    """
    return pad_rows(examples, pad) if row_length is None else pack_rows(examples, pad, row_length)


def pack_rows(examples: Sequence[Example], pad: int, row_length: int) -> Example:
    """Documents packed first-fit decreasing; rows are as long as the longest of them, rounded up to `ROUND`.

    The first label of a document is `IGNORE`: nothing before it is its own. The padding of a row is a document of its
    own that is not scored.
    """
    lengths = [len(example["ids"]) for example in examples]
    rows = first_fit(lengths, row_length)
    longest = max(sum(lengths[i] for i in row) for row in rows)
    shape = len(rows), min(-(-longest // ROUND) * ROUND, row_length)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORE)
    positions = torch.zeros(shape, dtype=torch.int64)
    for number, row in enumerate(rows):
        start = 0
        for i in row:
            end = start + lengths[i]
            ids[number, start:end] = torch.tensor(examples[i]["ids"])
            labels[number, start + 1 : end] = torch.tensor(examples[i]["labels"][1:])
            positions[number, start:end] = torch.arange(lengths[i])
            start = end
        positions[number, start:] = torch.arange(shape[1] - start)
    return {"ids": ids, "labels": labels, "positions": positions}


def first_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Numbers of the documents of each row: the longest first, each in the first row with room.

    At most 11/9 of the fewest rows possible, plus one (Johnson 1973).

    Raises:
        ValueError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[i] > row_length:
            raise ValueError(f"a document of {lengths[i]} ids does not fit `data.row_length` ({row_length}).")
        row = next((row for row, left in enumerate(room) if left >= lengths[i]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(row_length)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows
