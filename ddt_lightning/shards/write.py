"""Samples to shard files: dicts in, tar files out, all of them or none, and `tokens.json` beside token shards.

The same samples give the same bytes: members carry no time, owner or mode of their own.
"""

import glob
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ddt_lightning.atomic import staged, write_json
from ddt_lightning.shards.members import split
from ddt_lightning.shards.remote import fetch, is_remote
from ddt_lightning.texts import to_json

TOKEN_FIELDS = ("tokenizer", "K", "codebook_size", "order", "transform", "source")


def write_shards(folder: str | Path, prefix: str, samples: Iterable[Mapping[str, Any]], per_shard: int) -> list[Path]:
    """Write `PREFIX-000000.tar`, `PREFIX-000001.tar`, ... and remove older shards of that prefix.

    Shards appear under their names when all are written; after an error nothing has changed.

    Args:
        folder: made if missing.
        prefix: beginning of the shard names.
        samples: `{"__key__": name, member: value}`; a value is bytes, a text, a numpy array (`.npy`) or json data.
        per_shard: samples in each shard.

    Returns:
        The shards written.

    Raises:
        ValueError: `per_shard` is below 1, there are no samples, or a sample cannot be written.
    """
    if per_shard < 1:
        raise ValueError(f"`per_shard` ({per_shard}) must be at least 1.")
    folder, rest = Path(folder), iter(samples)
    shards: list[Path] = []
    with staged(folder) as stage:
        for first in rest:
            shards.append(folder / f"{prefix}-{len(shards):06d}.tar")
            write_tar(stage / shards[-1].name, chain([first], islice(rest, per_shard - 1)))
        if not shards:
            raise ValueError(f"there are no samples to write to {folder / prefix}-*.tar.")
    for old in folder.glob(f"{glob.escape(prefix)}-*.tar"):
        if old not in shards and re.fullmatch(r"-\d{6}\.tar", old.name.removeprefix(prefix)):
            old.unlink()
    return shards


def write_tar(path: Path, samples: Iterable[Mapping[str, Any]]) -> int:
    """Write one shard and return its number of samples; see `write_shards`."""
    count = 0
    keys = set()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            key = sample["__key__"]
            if split(f"{key}.txt") != (key, "txt") or key in keys:
                raise ValueError(f"key {key!r} in {path.name} must be unique and hold no dot behind its last slash.")
            keys.add(key)
            for member, value in sample.items():
                if member.startswith("__"):
                    continue
                data = to_bytes(member, value)
                info = tarfile.TarInfo(f"{key}.{member}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            count += 1
    return count


def to_bytes(member: str, value: Any) -> bytes:  # noqa: ANN401 - json holds anything
    """Bytes of a member's file.

    Raises:
        ValueError: the value does not suit the member's ending.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and not member.endswith("json"):
        return value.encode()
    if isinstance(value, np.ndarray) and member.endswith("npy"):
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=False)
        return stream.getvalue()
    if member.endswith("json"):
        return to_json(value).encode()
    raise ValueError(f"member {member} cannot hold a {type(value).__name__}: give bytes, or a .json, .npy or .txt.")


def pack_ids(ids: np.ndarray, codebook_size: int) -> np.ndarray:
    """Image ids in the smallest unsigned type that the codebook allows: uint16 or uint32."""
    return ids.astype(np.uint16 if codebook_size <= 2**16 else np.uint32)


def write_tokens_json(
    folder: str | Path,
    *,
    tokenizer: str,
    K: int,
    codebook_size: int,
    order: str,
    transform: str,
    source: str,
    kind: str = "ddt",
) -> None:
    """Write `tokens.json`, which says what made the token shards of a folder.

    Args:
        folder: where the shards lie.
        tokenizer: the tokenizer's fingerprint.
        K: ids per image.
        codebook_size: number of image codes.
        order: order of the ids in a language model (`fine_to_coarse`, `coarse_to_fine`, or `raster` for a grid's); the
            files keep codebook order.
        transform: what was done to the images, e.g. `64 px, centre`.
        source: the image shards.
        kind: of the tokenizer: `ddt`, or the name of another one, e.g. `vqgan`.

    Raises:
        ValueError: `raster` for the ids of a DDT tokenizer, which lie on no grid.
    """
    if kind == "ddt" and order == "raster":
        raise ValueError(f"`order` ({order}) is of a grid's ids: use fine_to_coarse or coarse_to_fine for kind=ddt.")
    values = (tokenizer, K, codebook_size, order, transform, source)
    fields = {**dict(zip(TOKEN_FIELDS, values, strict=True)), "kind": kind}
    write_json(Path(folder) / "tokens.json", fields)


def read_tokens_json(folder: str | Path) -> dict[str, Any]:
    """Fields of a folder's `tokens.json`.

    Raises:
        FileNotFoundError: there is none.
        Unreachable: it lies elsewhere and cannot be read.
        ValueError: it lacks a field.
    """
    path = f"{folder}/tokens.json"
    if not is_remote(path) and not Path(path).is_file():
        raise FileNotFoundError(f"there is no {path}: token shards come with one, make them with `ddt encode`.")
    fields = json.loads(fetch(path) if is_remote(path) else Path(path).read_text())
    missing = [field for field in TOKEN_FIELDS if field not in fields]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: make the token shards again with `ddt encode`.")
    return {"kind": "ddt", **fields}


def common_fields(urls: Iterable[str], option: str) -> tuple[dict[str, Any], str]:
    """The fields that the `tokens.json` files beside some shards agree on, and the folder they were read from.

    Args:
        urls: token shards.
        option: the option they come from, for errors.

    Raises:
        ValueError: two folders were made by different tokenizers, or with different K, codebook size or order; or a
            shard is what a command prints.
    """
    folders = dict.fromkeys(folder_of(url) for url in urls)
    found = {folder: read_tokens_json(folder) for folder in folders}
    (first, fields), *others = found.items()
    for folder, other in others:
        for field in ("kind", *TOKEN_FIELDS[:4]):
            if other[field] != fields[field]:
                raise ValueError(
                    f"`{option}`: {folder}/tokens.json has {field}={other[field]}, {first}/tokens.json "
                    f"{field}={fields[field]}: encode both with one tokenizer."
                )
    return fields, first


def folder_of(shard: str) -> str:
    """Path or URL of the folder in which a shard lies.

    Raises:
        ValueError: the shard is what a command prints, and has no folder.
    """
    if shard.startswith("pipe:"):
        raise ValueError(
            f"{shard} has no tokens.json beside it: give the shard as a URL (s3://, https://, ...) or a file."
        )
    return shard.partition("?")[0].rpartition("/")[0] if is_remote(shard) else str(Path(shard).parent)


def parts(count: int, shards: int) -> Iterator[range]:
    """The numbers 0 .. count-1 cut into `shards` ranges that differ by at most one in length."""
    for shard in range(shards):
        yield range(count * shard // shards, count * (shard + 1) // shards)
