"""Reads every sample of a shard and says what cannot be used."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FEWEST = 8  # training shards of each kind at least, so that lanes and processes have shards of their own


LISTED = 50  # problems that `check` names


@dataclass
class Facts:
    """What a scan of some shards found."""

    samples: int = 0
    members: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Facts") -> None:
        """Count what `other` counted, too."""
        self.samples += other.samples
        self.texts += other.texts
        for mine, theirs in ((self.members, other.members), (self.sizes, other.sizes), (self.ids, other.ids)):
            mine.update(theirs)  # type: ignore[arg-type]
        self.codes.update(other.codes)
        self.words.update(other.words)


def scan(shards: list[str]) -> Iterator[tuple[str, Facts, dict[str, str]]]:
    """Each shard with what is in it and its problems (sample or shard name -> reason)."""
    from tqdm import tqdm

    from ddt_lightning.shards.read import UNREADABLE, expand, members, name, read_shard
    from ddt_lightning.shards.stream import one_line

    for url in tqdm(expand(shards, "shards"), desc="shards", disable=None):
        facts = Facts()
        problems: dict[str, str] = {}
        layouts: dict[str, tuple[str, ...]] = {}
        for record in read_shard(url, problems):
            facts.samples += 1
            if name(record) in layouts:
                problems[name(record)] = "its key is there twice"
            layouts[name(record)] = tuple(sorted(members(record)))
            try:
                scan_sample(record, facts)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
        facts.members.update(layouts.values())
        if not facts.samples:
            problems.setdefault(url, "no sample in it")
        usual = facts.members.most_common(1)[0][0] if facts.members else ()
        for sample, found in layouts.items():
            missing = sorted(set(usual) - set(found))
            if missing:
                problems.setdefault(sample, f"lacks {', '.join(missing)}, which most samples have")
        yield url, facts, problems


def scan_sample(record: dict[str, Any], facts: Facts) -> None:
    """Decode one sample completely and count what is in it.

    Raises:
        ValueError: it holds neither an image nor image ids nor a text, or turns that point to images it lacks.
    """
    import numpy as np

    from ddt_lightning.shards.conversations import check_turns
    from ddt_lightning.shards.images import decode_image, numbered
    from ddt_lightning.shards.read import Columns, image_member, read_json
    from ddt_lightning.shards.rows import read_ids, texts_of

    columns = Columns()
    found = [image_member(record, columns, role) for role in ("image", "source", "target")]
    shots = numbered(record)
    if shots:
        check_turns((read_json(record) or {}).get("turns"), len(shots))
    for member in filter(None, [*found, *shots]):
        height, width = decode_image(record[member]).shape[:2]
        facts.sizes[f"{width}x{height}"] += 1
    if (found[1] is None) != (found[2] is None):
        raise ValueError("has a source without a target, or a target without a source")
    texts = texts_of(record, columns)
    facts.texts += len(texts)
    for text in texts:
        facts.words.update(text.lower().split())
    if "ids.npy" in record:
        ids = read_ids(record)
        facts.ids[f"{len(ids)} x {ids.shape[1]} ids"] += 1
        codes, counts = np.unique(ids, return_counts=True)
        facts.codes.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        data = read_json(record)
        shown = [
            part["image"]
            for turn in (data.get("turns", []) if isinstance(data, dict) else [])
            for part in turn["content"]
            if not isinstance(part, str)
        ]
        if shown and max(shown) >= len(ids):
            raise ValueError(f"shows image {max(shown)} of {len(ids)}")
    elif not any(found) and not texts:
        raise ValueError("has no image, no image ids and no text")


def listed(counts: Counter[str]) -> str:
    """The most frequent kinds of something, with a separator behind; nothing where there is none."""
    return "".join(f"{count} x {kind}; " for kind, count in counts.most_common(3))


def layout(facts: Facts) -> str:
    """The usual members of a shard's samples."""
    return " ".join(facts.members.most_common(1)[0][0]) if facts.members else ""
