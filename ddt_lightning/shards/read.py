"""Shard files to raw samples: patterns in, records `{"__key__", "__url__", member: bytes}` out, in file order.

A shard is a WebDataset tar (`.tar`, `.tar.gz`, `.tgz`), read with webdataset's own tar iterators. Files of one sample
lie next to each other and share the part of their name before the first dot; what follows is the member, e.g. `txt` or
`source.jpg`. Nothing is decoded here. Members of other types than `TYPES` are never looked at, so no pickle is ever
loaded.

Damage is not fatal: what cannot be read is noted in `problems` (sample or shard name -> reason) and skipped.
"""

import glob
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import braceexpand
import numpy as np
from numpy.typing import NDArray
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys, tar_file_expander

Record = dict[str, Any]
Problems = dict[str, str]
Usable = Callable[[Record], bool]

TYPES = ("jpg", "jpeg", "png", "webp", "txt", "json", "cls", "npy")
IMAGE_TYPES = TYPES[:4]
END = 1024  # bytes of zeros at the end of every tar; without them tarfile says nothing about a missing rest
# What a damaged sample can raise while it is read or decoded (PIL reports a broken PNG as SyntaxError).
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, EOFError, zlib.error, tarfile.TarError)


@dataclass(frozen=True)
class Columns:
    """Where a sample's parts lie when its shard has another layout than `data/README.md`.

    A part is named by its member (`original.png`), a text also by a field of the json member (`json.instruction`).

    Args:
        image: the image.
        source: the image before an edit.
        target: the image after an edit.
        text: caption or instruction.
        questions: json field that holds a sample's list of questions; each becomes a sample of its own.
    """

    image: str | None = None
    source: str | None = None
    target: str | None = None
    text: str | None = None
    questions: str = "vqa"


def expand(patterns: Sequence[str], option: str) -> list[str]:
    """Shard paths behind brace and glob patterns, in a fixed order, each once.

    Args:
        patterns: paths with `{000..007}`, `*` and `${DDT_DATA}`; `pipe:` commands and URLs pass through.
        option: the option they come from, for errors.

    Raises:
        ValueError: no patterns, or an environment variable that is not set.
        FileNotFoundError: a pattern without a match, or a shard that does not exist.
    """
    if isinstance(patterns, str):
        raise ValueError(f"`{option}` ({patterns}) must be a list of patterns: write [{patterns}].")
    found: dict[str, None] = {}
    for pattern in patterns:
        path = os.path.expanduser(os.path.expandvars(pattern))
        unset = re.search(r"\$\{?(\w+)", path)
        if unset and not is_remote(path):
            raise ValueError(f"`{option}` ({pattern}) needs the environment variable {unset[1]}: export it.")
        for url in braceexpand.braceexpand(path):
            if is_remote(url):
                found[url] = None
            elif glob.has_magic(url):
                matches = sorted(name for name in glob.glob(url, recursive=True) if os.path.isfile(name))
                if not matches:
                    raise FileNotFoundError(f"`{option}` ({pattern}) matches no shard: check {os.path.abspath(url)}.")
                found.update(dict.fromkeys(matches))
            elif os.path.isfile(url):
                found[url] = None
            else:
                raise FileNotFoundError(f"`{option}` ({pattern}): there is no shard {os.path.abspath(url)}.")
    if not found:
        raise ValueError(f"`{option}` names no shards: give at least one path or pattern.")
    return list(found)


def is_remote(url: str) -> bool:
    """Whether webdataset opens `url` with a command or over the network."""
    return url.startswith("pipe:") or "://" in url


def read_shard(url: str, problems: Problems) -> Iterator[Record]:
    """Raw samples of one shard, in file order.

    Args:
        url: path, URL or `pipe:` command.
        problems: damage is added here.

    Raises:
        FileNotFoundError: a shard that was there before is gone.
    """

    def note(error: Exception) -> bool:
        first = str(error.args[0]) if error.args else type(error).__name__
        problems[url] = first.split(" @ ")[0]
        return True

    with open_shard(url) as stream:
        source = iter([{"url": url, "stream": stream}])
        members = tar_file_expander(source, handler=note, select_files=allowed, eof_value=None)
        yield from group_by_keys(members, handler=note)
        if url.endswith(".tar") and not is_remote(url):
            stream.seek(-min(END, os.path.getsize(url)), os.SEEK_END)
            if stream.read().strip(b"\0"):
                problems.setdefault(url, "is cut off: a tar ends with zeros")


def open_shard(url: str) -> AbstractContextManager[BinaryIO]:
    """A shard's byte stream, closed at the end of a `with` block."""
    return gopen(url, "rb") if is_remote(url) else open(url, "rb")


def allowed(name: str) -> bool:
    """Whether a tar member is of a type that is read."""
    return name.rpartition(".")[2].lower() in TYPES


class Reader:
    """The usable samples of a list of shards; small shard sets stay in memory after their first reading.

    Args:
        urls: the shards.
        usable: whether a record has the members it needs; others are noted and skipped.
        memory: keep the raw samples if the files together have at most so many bytes.
    """

    def __init__(self, urls: list[str], usable: Usable, memory: int = 0) -> None:
        self.urls = urls
        self.usable = usable
        sizes = [os.path.getsize(url) if not is_remote(url) else memory + 1 for url in urls]
        self.keep = sum(sizes) <= memory
        self.kept: dict[int, list[Record]] = {}
        self.problems: Problems = {}

    def records(self, shard: int) -> Iterator[Record]:
        """Usable raw samples of shard number `shard`, the same at every reading."""
        if self.keep and shard not in self.kept:
            self.kept[shard] = list(self._read(shard))
        yield from (self.kept[shard] if self.keep else self._read(shard))

    def all(self) -> Iterator[Record]:
        """Usable raw samples of all shards, in order."""
        for shard in range(len(self.urls)):
            yield from self.records(shard)

    def _read(self, shard: int) -> Iterator[Record]:
        for record in read_shard(self.urls[shard], self.problems):
            if self.usable(record):
                yield record
            else:
                self.problems[name(record)] = f"has only the members {', '.join(members(record)) or 'none'}"


def check_shards(urls: list[str], usable: Usable, option: str, wanted: str, enough: int = 1) -> int:
    """Open every local shard and look for usable samples at its beginning.

    Args:
        urls: the shards.
        usable: whether a record has the members it needs.
        option: the option they come from, for errors.
        wanted: those members in words.
        enough: stop in each shard after so many.

    Returns:
        The number of usable samples, counting at most `enough` in each shard (and `enough` for a remote one).

    Raises:
        ValueError: a shard that is no tar, is empty, or has no usable sample.
    """

    def count(url: str) -> int:
        if is_remote(url):
            return enough
        problems: Problems = {}
        seen: set[str] = set()
        good = 0
        for record in read_shard(url, problems):
            seen.update(members(record))
            good += usable(record)
            if good >= enough:
                break
        if not good and seen:
            raise ValueError(f"`{option}`: no sample in shard {url} has {wanted}; they have {', '.join(sorted(seen))}.")
        if not good:
            reason = problems.get(url, f"no member ends in {', '.join(TYPES)}")
            raise ValueError(f"`{option}`: shard {url} is empty or no tar ({reason}): replace it or leave it out.")
        return good

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(count, urls))


def name(record: Record) -> str:
    """A sample's name in reports: `shard.tar:key`."""
    return f"{os.path.basename(record['__url__'])}:{record['__key__']}"


def members(record: Record) -> list[str]:
    """Names of a sample's members."""
    return [member for member in record if not member.startswith("__")]


def image_member(record: Record, columns: Columns, role: str = "image") -> str | None:
    """The member that holds an image, or None.

    Args:
        record: a raw sample.
        columns: the layout.
        role: `image`, `source` or `target`.
    """
    named = getattr(columns, role)
    prefix = "" if role == "image" else f"{role}."
    candidates = [named] if named else [f"{prefix}{ending}" for ending in IMAGE_TYPES]
    return next((member for member in candidates if member in record), None)


def read_json(record: Record) -> Any:  # noqa: ANN401 - json holds anything
    """The json member, or None."""
    return json.loads(record["json"]) if "json" in record else None


def captions(record: Record, columns: Columns, data: object = None) -> list[str]:
    """The texts that describe a sample, the first one the best: `txt`, then `caption` and `captions` of the json.

    Args:
        record: a raw sample.
        columns: the layout.
        data: the sample's json, where it is known already.
    """
    if columns.text and not columns.text.startswith("json."):
        return [record[columns.text].decode().strip()]
    data = read_json(record) if data is None else data
    fields = data if isinstance(data, dict) else {}
    if columns.text:
        found = fields[columns.text.removeprefix("json.")]
        return [found] if isinstance(found, str) else list(found)
    texts = [record["txt"].decode().strip()] if "txt" in record else []
    texts += [fields["caption"]] if isinstance(fields.get("caption"), str) else []
    texts += fields.get("captions") or []
    return [text for text in dict.fromkeys(texts) if text]


def questions(data: object, columns: Columns) -> list[dict[str, Any]]:
    """Questions of a sample's json: itself, a list, or the list in its `columns.questions` field; answers as a list."""
    if isinstance(data, dict):
        data = data.get(columns.questions, [data] if "question" in data else [])
    entries = data if isinstance(data, list) else []
    return [
        {**entry, "answers": entry.get("answers") or [entry["answer"]]}
        for entry in entries
        if isinstance(entry, dict) and "question" in entry
    ]


def read_npy(data: bytes) -> NDArray[Any]:
    """A `.npy` member as a read-only array; object arrays are refused.

    Raises:
        ValueError: not an array of numbers, or cut off.
    """
    dtype, shape, fortran, start = _npy_header(data[: 10 + int.from_bytes(data[8:10], "little")])
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=64)
def _npy_header(head: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Type, shape, order and length of a version 1 header; parsing one takes longer than reading its few numbers."""
    stream = io.BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("is an .npy file of another version than 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("is an .npy file of python objects, which are never loaded")
    return dtype, shape, fortran, len(head)
