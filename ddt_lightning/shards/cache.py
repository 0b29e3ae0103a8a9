"""A local folder that keeps remote shards after their first reading, for all workers and processes of a machine.

A shard is there when its record `NAME.json` says so and the file has the size that the record names. It is fetched by
one worker while the others wait, is written under another name, and gets its own when it is whole.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddt_lightning.atomic import whole_file, write_json
from ddt_lightning.shards.remote import BLOCK, Unreachable, open_remote


def cached(url: str, folder: str | Path) -> Path:
    """The file that a folder keeps of a remote shard, fetched where it has none.

    Raises:
        Unreachable: the shard cannot be read.
        ValueError: it cannot be written, or the folder cannot be locked.
    """
    target = Path(folder).expanduser() / file_name(url)
    if is_whole(target):
        return target
    try:
        with locked(target):
            if not is_whole(target):  # another worker may have fetched it meanwhile
                keep(url, target)
    except Unreachable:
        raise
    except OSError as error:
        raise ValueError(
            f"`data.cache` ({folder}) cannot keep {url}: {error}. Name a folder on a local disk."
        ) from None
    return target


def file_name(url: str) -> str:
    """A shard's file name in the folder: a hash of the URL or command, then the end of it, for people to read."""
    words = re.sub(r"[^\w.-]+", "-", url.rpartition("/")[2])[-80:].strip("-")
    return f"{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}-{words}"


def record_of(target: Path) -> Path:
    """The record beside a file."""
    return target.with_name(f"{target.name}.json")


def is_whole(target: Path) -> bool:
    """Whether a shard is there in the size that its record names."""
    try:
        size: int = json.loads(record_of(target).read_text())["bytes"]
        return target.stat().st_size == size
    except (OSError, ValueError, KeyError, TypeError):  # no record, or one that is no record
        return False


def keep(url: str, target: Path) -> None:
    """Write a shard and then its record."""
    record_of(target).unlink(missing_ok=True)
    with whole_file(target) as partial, partial.open("wb") as file, open_remote(url) as stream:
        size = 0
        while block := stream.read(BLOCK):
            size += file.write(block)
        file.flush()
        os.fsync(file.fileno())  # the record must not outlive the bytes when the machine stops
    write_json(record_of(target), {"url": url, "bytes": size})


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """The right to write a file, which the system takes back from a process that dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
