"""Documents of different lengths in few rows: `{"ids", "labels", "positions"}`, int64 `[R, T]`.

In: the documents of one batch, lists of ids and labels. A row holds several documents, one after the other; positions
restart at 0 with each, which is how attention knows that a document sees nothing before it (`lm/llm.py`). A batch is
packed by itself: a step stays a function of (seed, step), whatever the processes and workers, and no document is cut.
"""

import heapq
from collections.abc import Sequence

from ddt_lightning.shards.rows import ROUND, pad_rows, to_rows
from ddt_lightning.shards.stream import Example
from ddt_lightning.vocab import IGNORE

ATTENTION = 2048
"""Row length at which attention costs as much as all other products: six times the width, here of a small model."""


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
    """Documents in rows as level as `level_rows` makes them, as long as the longest of them, rounded up to `ROUND`.

    The first label of a document is `IGNORE`: nothing before it is its own. The padding of a row is a document of its
    own that is not scored.
    """
    lengths = [len(example["ids"]) for example in examples]
    rows = level_rows(lengths, row_length)
    longest = max(sum(lengths[i] for i in row) for row in rows)
    length = min(-(-longest // ROUND) * ROUND, row_length)
    ids = [[i for n in row for i in examples[n]["ids"]] for row in rows]
    labels = [[i for n in row for i in (IGNORE, *examples[n]["labels"][1:])] for row in rows]
    positions = [[i for n in row for i in range(lengths[n])] for row in rows]
    for places in positions:
        places.extend(range(length - len(places)))
    return {
        "ids": to_rows(ids, length, pad),
        "labels": to_rows(labels, length, IGNORE),
        "positions": to_rows(positions, length, 0),
    }


def level_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Numbers of the documents of each row, for rows that are about equally long: little is padded.

    Few long rows have little padding but much attention; many short rows the other way round. So 1, 2, 3, ... documents
    a row on average are tried, and the cheapest by `cost` is taken.

    Raises:
        ValueError: a document is longer than a row.
    """
    if max(lengths) > row_length:
        raise ValueError(f"a document of {max(lengths)} ids does not fit `data.row_length` ({row_length}).")
    counts = sorted({-(-len(lengths) // each) for each in range(1, len(lengths) + 1)}, reverse=True)
    tried = []
    for count in counts:
        rows, longest = shortest_first(lengths, count)
        if longest > row_length:
            break
        tried.append((cost(count, longest), rows))
    return min(tried, key=lambda pair: pair[0])[1]


def cost(rows: int, longest: int) -> float:
    """Estimated cost of a batch of padded rows, in ids; the attention of an id grows with the length of its row."""
    length = -(-longest // ROUND) * ROUND
    return rows * length * (1 + length / ATTENTION)


def shortest_first(lengths: Sequence[int], count: int) -> tuple[list[list[int]], int]:
    """Documents dealt out to `count` rows, the longest first, each to the row that is the shortest so far.

    The longest row is at most 4/3 of the shortest possible (Graham 1969).

    Returns:
        The rows, and the length of the longest.
    """
    rows: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, row) for row in range(count)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        held, row = heap[0]
        heapq.heapreplace(heap, (held + lengths[i], row))
        rows[row].append(i)
    return rows, max(held for held, _ in heap)
