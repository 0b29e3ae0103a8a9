"""Records of finished shards: what each was made from, its samples, and size and hash of its bytes.

The record of `OUT/NAME.tar` is `OUT/encoded/NAME.json`, written when the shard is whole. Processes and machines that
write shards of one folder share no other file, so that none can lose what another has finished. A shard without its
record, or with other bytes than its record says, is not finished.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import write_json

FOLDER = "encoded"


def record_of(shard: Path) -> Path:
    """The file of a shard's record."""
    return shard.parent / FOLDER / f"{shard.stem}.json"


def file_hash(path: str | Path) -> str:
    """Sixteen hex digits of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def write_record(shard: Path, made_from: dict[str, Any], samples: int, left_out: int) -> None:
    """Say that a shard is finished.

    Args:
        shard: the file, whole.
        made_from: whatever its bytes depend on, as json data.
        samples: in it.
        left_out: samples of its source that are not in it.
    """
    found = {"samples": samples, "left_out": left_out, "bytes": shard.stat().st_size, "hash": file_hash(shard)}
    write_json(record_of(shard), {"made_from": made_from, **found})


def read_record(shard: Path) -> dict[str, Any]:
    """The record of a shard; empty where there is none that can be read."""
    try:
        found = json.loads(record_of(shard).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("made_from"), dict) else {}


def fault(shard: Path, made_from: dict[str, Any], content: bool) -> str | None:
    """Why a shard is not finished, in words; None where it is.

    Args:
        shard: the file.
        made_from: what it must be made from; what the record says beyond this is not looked at.
        content: read the file and compare its hash, not its size alone.
    """
    record = read_record(shard)
    if not shard.is_file():
        return "is missing"
    if not record:
        return "has no record: it was not finished"
    for name, value in made_from.items():
        if record["made_from"].get(name) != value:
            return f"was made from {name} {record['made_from'].get(name)}, and not {value}"
    if shard.stat().st_size != record.get("bytes"):
        return f"has {shard.stat().st_size} bytes, its record says {record.get('bytes')}"
    if content and (found := file_hash(shard)) != record.get("hash"):
        return f"has other bytes than its record says (hash {found}, {record.get('hash')})"
    return None
