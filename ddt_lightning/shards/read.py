"""Shard files to raw samples: patterns in, records `{"__key__", "__url__", member: bytes}` out, in file order.

A shard is a WebDataset tar (`.tar`, `.tar.gz`, `.tgz`). Files of one sample lie next to each other and share the part
of their name before the first dot; what follows is the member, e.g. `txt` or `source.jpg`. Nothing is decoded here.
Members of other types than `TYPES` are never looked at, so no pickle is ever loaded.

Damage is not fatal: what cannot be read is noted in `problems` (sample or shard name -> reason) and skipped.
"""

import glob
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import braceexpand
import numpy as np
from numpy.typing import NDArray

from ddt_lightning.shards.cache import cached
from ddt_lightning.shards.members import TYPES, Problems, Record, read_records, shard_name
from ddt_lightning.shards.remote import check_url, is_remote, open_remote

Usable = Callable[[Record], bool]

IMAGE_TYPES = TYPES[:4]
ROLES = ("image", "source", "target")
KNOWN = {*TYPES, "ids.npy", *(f"{role}.{ending}" for role in ROLES[1:] for ending in IMAGE_TYPES)}
SEVERAL = 5  # members that an error lists


@dataclass(frozen=True)
class Columns:
    """Places of a sample's parts in a shard of another layout than that of `data/README.md`.

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

    What exists under exactly the name that is given is taken as it is: `run[1]/x.tar`, `set{a,b}/x-*.tar`.

    Args:
        patterns: paths with `~`, `{000..007}`, `*` and `${DDT_DATA}`; `pipe:` commands and URLs pass through.
        option: the option they come from, for errors.

    Raises:
        ValueError: no patterns, an environment variable that is not set, or a URL that nothing opens.
        FileNotFoundError: a pattern without a match, or a shard that does not exist.
    """
    if isinstance(patterns, str):
        raise ValueError(f"`{option}` ({patterns}) must be a list of patterns: write [{patterns}].")
    found: dict[str, None] = {}
    for pattern in patterns:
        if is_remote(pattern) and not os.path.isfile(pattern):
            for url in braced(os.path.expandvars(pattern), pattern, option):
                check_url(url, option)
                found[url] = None
            continue
        folder, rest = literal_start(os.path.expanduser(pattern))
        unset = re.search(r"\$\{?(\w+)", rest)
        if unset:
            raise ValueError(f"`{option}` ({pattern}) needs the environment variable {unset[1]}: export it.")
        for part in braced(rest, pattern, option):
            start, name = literal_start(os.path.join(folder, part))
            path = os.path.join(start, name) if name else start
            if os.path.isfile(path):
                found[as_file(path)] = None
            elif glob.has_magic(name):
                names = glob.glob(os.path.join(glob.escape(start), name), recursive=True)
                matches = sorted(name for name in names if os.path.isfile(name))
                if not matches:
                    raise FileNotFoundError(f"`{option}` ({pattern}) matches no shard: check {os.path.abspath(path)}.")
                found.update(dict.fromkeys(map(as_file, matches)))
            else:
                raise FileNotFoundError(f"`{option}` ({pattern}): there is no shard {os.path.abspath(path)}.")
    if not found:
        raise ValueError(f"`{option}` names no shards: give at least one path or pattern.")
    return list(found)


def as_file(path: str) -> str:
    """The path of a file that is there, so that no name of a file, such as `pipe:rm x.tar`, is taken for a command."""
    return os.path.join(".", path) if path.startswith("pipe:") else path


def literal_start(path: str) -> tuple[str, str]:
    """The longest start of a path that exists under exactly this name, and the rest, its variables filled in.

    Variables are filled in only where the name does not exist as it is, and their values are names, not patterns.
    """
    start, rest = ("/", path.lstrip("/")) if path.startswith("/") else ("", path)
    while rest:
        name, _, later = rest.partition("/")
        if not os.path.exists(os.path.join(start, name)):
            filled = os.path.expandvars(name)
            if filled == name or not os.path.exists(os.path.join(start, filled)):
                return start, os.path.expandvars(rest)
            name = filled
        start, rest = os.path.join(start, name), later
    return start, ""


def braced(path: str, pattern: str, option: str) -> list[str]:
    """A path for each choice of its braces.

    Raises:
        ValueError: a brace that is not closed.
    """
    try:
        return list(braceexpand.braceexpand(path))
    except ValueError as error:
        raise ValueError(f"`{option}` ({pattern}): {error}.") from None


def read_shard(url: str, problems: Problems, cache: str | None = None) -> Iterator[Record]:
    """Raw samples of one shard, in file order.

    Args:
        url: path, URL or `pipe:` command.
        problems: damage is added here.
        cache: folder that keeps remote shards.

    Raises:
        FileNotFoundError: a shard that was there before is gone.
        Unreachable: a remote shard cannot be read to its end.
    """
    with open_shard(url, cache) as stream:
        yield from read_records(stream, url, problems)


def open_shard(url: str, cache: str | None = None) -> AbstractContextManager[BinaryIO]:
    """A shard's byte stream, closed at the end of a `with` block."""
    if not is_remote(url):
        return open(url, "rb")
    return open_remote(url) if cache is None else open(cached(url, cache), "rb")


class Reader:
    """The usable samples of a list of shards; small shard sets stay in memory after their first reading.

    Args:
        urls: the shards.
        usable: whether a record has the members it needs; others are noted and skipped.
        memory: keep the raw samples if the files together have at most so many bytes.
        cache: folder that keeps remote shards.
    """

    def __init__(self, urls: list[str], usable: Usable, memory: int = 0, cache: str | None = None) -> None:
        self.urls, self.usable, self.cache = urls, usable, cache
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
        for record in read_shard(self.urls[shard], self.problems, self.cache):
            if self.usable(record):
                yield record
            else:
                self.problems[name(record)] = f"has only the members {several(members(record))}"


def check_shards(
    urls: list[str], usable: Usable, option: str, wanted: str, enough: int = 1, cache: str | None = None
) -> int:
    """Open every local shard and the first remote one, and look for usable samples at its beginning.

    Args:
        urls: the shards.
        usable: whether a record has the members it needs.
        option: the option they come from, for errors.
        wanted: those members in words.
        enough: stop in each shard after so many.
        cache: folder that keeps remote shards.

    Returns:
        The number of usable samples, counting at most `enough` in each shard (and `enough` for an unopened one).

    Raises:
        ValueError: a shard that is no tar, is empty, or has no usable sample.
        Unreachable: the first remote shard cannot be read.
    """
    opened = next(filter(is_remote, urls), None)  # to open thousands over the network would take too long

    def count(url: str) -> int:
        if is_remote(url) and url != opened:
            return enough
        problems: Problems = {}
        seen: set[str] = set()
        good = 0
        for record in read_shard(url, problems, cache):
            seen.update(members(record))
            good += usable(record)
            if good >= enough:
                break
        if not good and seen:
            raise ValueError(f"`{option}`: no sample in shard {url} has {wanted}; they have {several(sorted(seen))}.")
        if not good:
            reason = problems.get(url, f"no member ends in {', '.join(TYPES)}")
            raise ValueError(f"`{option}`: shard {url} is empty or no tar ({reason}): replace it or leave it out.")
        return good

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(count, urls))


def name(record: Record) -> str:
    """A sample's name in reports: `shard.tar:key`."""
    return f"{shard_name(record['__url__'])}:{record['__key__']}"


def members(record: Record) -> list[str]:
    """Names of a sample's members."""
    return [member for member in record if not member.startswith("__")]


def several(names: Sequence[str]) -> str:
    """Names of members, the first ones of many, and what is wrong with names that hold dots of their own."""
    listed = ", ".join(names[:SEVERAL]) + (f" and {len(names) - SEVERAL} more" if len(names) > SEVERAL else "")
    if not any("." in member and member not in KNOWN for member in names):
        return listed or "none"
    return (
        f"{listed}; a name is cut at its first dot, so files such as a.b_0.png are all members of `a`: "
        "rename them without that dot, or name such members with `columns`"
    )


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


def has_image(record: Record) -> bool:
    """Whether a sample has a member of an image type, whatever its name."""
    return any(member.rpartition(".")[2] in IMAGE_TYPES for member in members(record))


def read_npy(data: bytes) -> NDArray[Any]:
    """A `.npy` member as a read-only array; object arrays are refused.

    Raises:
        ValueError: not an array of numbers, or cut off.
    """
    if not data.startswith(b"\x93NUMPY"):
        raise ValueError("is no .npy file")
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
