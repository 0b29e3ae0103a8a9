"""Parts of rows of ids: padding, the image ids of a raw sample, and the wordings of a request.

In: lists of ids and labels, raw samples, captions. Out: `{"ids": int64 [B,T], "labels": int64 [B,T]}`, ids `[n,K]`,
texts.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.members import UNREADABLE, Problems, Record
from ddt_lightning.shards.read import Columns, name, read_npy, read_shard
from ddt_lightning.shards.stream import Example, one_line
from ddt_lightning.shards.texts import captions, questions, read_json
from ddt_lightning.vocab import IGNORE

ROUND = 8  # rows are padded to a multiple of this: fewer shapes, and a size that GPUs like

# How a user asks for an image of, or about an image; the first wording is the one that `pipeline.py` uses.
DRAW = (
    "{}",
    "Draw {}.",
    "Generate an image of {}.",
    "Create a picture: {}",
    "Please draw this: {}",
    "I would like an image of {}.",
    "Show me {}.",
    "Can you paint {}?",
)
DESCRIBE = (
    "Describe this image.",
    "What is in this image?",
    "Write a caption for this picture.",
    "What do you see?",
    "Please describe the picture.",
    "Tell me what the image shows.",
    "Caption this image.",
)
PLAIN = 0.5  # how often the first wording is chosen
EVERY = 8  # texts for each request wording in the training texts of the text tokenizer


def pad_rows(examples: Sequence[Example], pad: int) -> Example:
    """Rows of one batch, right-padded to the longest of them, rounded up to a multiple of `ROUND`.

    Args:
        examples: `{"ids": list, "labels": list}`.
        pad: id of the padding; its label is `IGNORE`.
    """
    longest = max(len(example["ids"]) for example in examples)
    length = -(-longest // ROUND) * ROUND
    padding = {"ids": pad, "labels": IGNORE}
    return {name: to_rows([example[name] for example in examples], length, filler) for name, filler in padding.items()}


def to_rows(lists: Sequence[Sequence[int]], length: int, filler: int) -> Tensor:
    """Lists of at most `length` numbers as int64 `[B, length]`, filled up with `filler`.

    One array of all numbers is many times faster than a small tensor for each list.
    """
    return torch.from_numpy(np.array([[*row, *[filler] * (length - len(row))] for row in lists], np.int64))


def read_ids(record: Record) -> NDArray[np.int64]:
    """Image ids of a token sample, `[n, K]`: n images of a conversation, or n views of a captioned image, mostly 1.

    Raises:
        ValueError: the array has another shape, or holds something else than whole numbers.
    """
    try:
        ids = read_npy(record["ids.npy"])
    except ValueError as error:
        raise ValueError(f"ids.npy {error}") from None
    if ids.ndim not in (1, 2) or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"ids.npy must be whole numbers [K] or [n, K], not {ids.dtype} {list(ids.shape)}")
    return ids.astype(np.int64).reshape(-1, ids.shape[-1])


def check_ids(ids: NDArray[np.int64], K: int, codebook_size: int) -> None:
    """Refuses ids `[n, K]` that are not a tokenizer's.

    Raises:
        ValueError: another number of ids for an image, or an id that is no code.
    """
    if ids.shape[-1] != K:
        raise ValueError(f"ids.npy has {ids.shape[-1]} ids for an image, tokens.json says K={K}")
    if ids.min() < 0 or ids.max() >= codebook_size:
        raise ValueError(f"ids.npy has ids {ids.min()}..{ids.max()}, tokens.json says codebook_size={codebook_size}")


def pick_view(ids: NDArray[np.int64], seed: int, sample: int) -> NDArray[np.int64]:
    """The ids `[K]` of one of an image's views `[n, K]`, drawn for the sample with this number."""
    return ids[int(numpy_rng("view", seed, sample).integers(len(ids))) if len(ids) > 1 else 0]


def word(rng: np.random.Generator, wordings: Sequence[str], text: str = "") -> str:
    """A request in one of the wordings, the first one being the most frequent."""
    number = 0 if rng.random() < PLAIN else int(rng.integers(len(wordings)))
    return wordings[number].format(text.rstrip(". ") if number else text)


def plans_of(data: object, number: int, what: str) -> list[str]:
    """The plans in a sample's json, one for each of `number` things: `"plan"` is a text for all, or a list of texts.

    Args:
        data: the json member as it is, or None.
        number: how many there must be.
        what: the things in words, for the error.

    Returns:
        The plans; none where the sample has none.

    Raises:
        ValueError: a plan that is no text, or another number of them.
    """
    plan = data.get("plan") if isinstance(data, dict) else None
    if plan is None:
        return []
    plans = [plan] * number if isinstance(plan, str) else plan
    if not isinstance(plans, list) or len(plans) != number or not all(isinstance(one, str) for one in plans):
        raise ValueError(f'"plan" must be a text or a list of {number} texts, one for each of its {what}, not {plan!r}')
    return plans


def every_text(urls: Iterable[str], columns: Columns, problems: Problems, cache: str | None = None) -> Iterator[str]:
    """Every text of some shards, in file order; samples that cannot be read are added to `problems`."""
    for url in urls:
        for record in read_shard(url, problems, cache):
            try:
                texts = texts_of(record, columns)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
            else:
                yield from texts


def texts_of(record: Record, columns: Columns) -> list[str]:
    """Every text of a raw sample, for the text tokenizer: captions, instructions, questions, answers, turns, plans."""
    data = read_json(record)
    texts = captions(record, columns, data)
    for asked in questions(data, columns):
        texts += [asked["question"], *asked["answers"][:1]]
    for turn in data.get("turns", []) if isinstance(data, dict) else []:
        texts += [part for part in turn["content"] if isinstance(part, str)]
    plan = data.get("plan", []) if isinstance(data, dict) else []
    return [*texts, *([plan] if isinstance(plan, str) else plan)]


def with_wordings(texts: Iterable[str]) -> Iterator[str]:
    """Insert a request wording after every `EVERY` texts, so that the text tokenizer learns the words of requests."""
    wordings = [wording.format("").strip() for wording in (*DRAW[1:], *DESCRIBE)]
    for number, text in enumerate(texts):
        yield text
        if number % EVERY == 0:
            yield wordings[number // EVERY % len(wordings)]
