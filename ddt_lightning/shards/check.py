"""A look at every sample of some shards that says which ones encoding and training will leave out, and why.

Samples are read with the functions that `ddt encode` and training read them with, so the verdicts cannot differ.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddt_lightning.shards.read import Columns

FEWEST = 8  # training shards of each kind at least, so that lanes and processes have shards of their own


LISTED = 50  # problems that `check` names


@dataclass
class Facts:
    """Counts of what a scan of some shards found."""

    samples: int = 0
    silent: int = 0
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
        self.silent += other.silent
        for mine, theirs in ((self.members, other.members), (self.sizes, other.sizes), (self.ids, other.ids)):
            mine.update(theirs)  # type: ignore[arg-type]
        self.codes.update(other.codes)
        self.words.update(other.words)

    def say(self, texts: list[str]) -> None:
        """Count the texts of a sample."""
        self.texts += len(texts)
        self.silent += not texts
        for text in texts:
            self.words.update(text.lower().split())


def scan(shards: list[str], columns: dict[str, str] | None = None) -> Iterator[tuple[str, Facts, dict[str, str]]]:
    """Each shard with what is in it and its problems (sample or shard name -> reason).

    Args:
        shards: paths and patterns.
        columns: the fields of `Columns` for shards of another layout.
    """
    from tqdm import tqdm

    from ddt_lightning.shards.read import Columns, expand

    for url in tqdm(expand(shards, "shards"), desc="shards", disable=None):
        yield url, *scan_shard(url, Columns(**(columns or {})))


def scan_shard(url: str, columns: "Columns") -> tuple[Facts, dict[str, str]]:
    """Contents of one shard, and its problems.

    A sample of a text alone is one in a shard of texts; beside samples with pictures it lacks its picture.
    """
    from ddt_lightning.shards.members import UNREADABLE
    from ddt_lightning.shards.read import has_image, members, name, read_shard, several
    from ddt_lightning.shards.stream import one_line

    facts, taken = Facts(), set[str]()
    problems: dict[str, str] = {}
    texts: dict[str, str] = {}
    sizes: list[dict[str, Any] | None] = []
    for record in read_shard(url, problems):
        facts.samples += 1
        facts.members[tuple(sorted(members(record)))] += 1
        if "ids.npy" in record and not sizes:
            sizes.append(beside(url))
        try:
            if "ids.npy" in record:
                scan_tokens(record, columns, facts, sizes[0])
            elif has_image(record):
                scan_pictures(record, columns, facts, taken)
            else:
                texts[name(record)] = f"has no image; its members are {several(members(record))}"
                scan_text(record, columns, facts)
        except UNREADABLE as error:
            problems[name(record)] = one_line(error)
    if len(texts) < facts.samples:
        problems.update(texts)
    if not facts.samples:
        problems.setdefault(url, "no sample in it")
    return facts, problems


def beside(url: str) -> dict[str, Any] | None:
    """The `tokens.json` beside a shard of ids: of a file if there is one, of a URL always, of a command never.

    Raises:
        Unreachable: a URL has none, or it cannot be read.
    """
    from ddt_lightning.shards.remote import is_remote
    from ddt_lightning.shards.write import folder_of, read_tokens_json

    if url.startswith("pipe:"):
        return None
    folder = folder_of(url)
    return read_tokens_json(folder) if is_remote(url) or (Path(folder) / "tokens.json").is_file() else None


def scan_pictures(record: dict[str, Any], columns: "Columns", facts: Facts, taken: set[str]) -> None:
    """Read a sample with pictures as `ddt encode` reads it, and count what is in it.

    Raises:
        ValueError: encoding will leave it out; the reason says where training a tokenizer takes it.
    """
    from ddt_lightning.shards.chat import claim, to_turns, token_keys
    from ddt_lightning.shards.images import ImageDecoder, read_sample
    from ddt_lightning.shards.members import UNREADABLE
    from ddt_lightning.shards.stream import one_line

    try:
        sample = read_sample(record, columns)
        turns = to_turns(sample)
        claim(token_keys(sample.key, turns), taken)
    except UNREADABLE as error:
        reason = one_line(error)
        decoder = ImageDecoder(1, columns)
        try:
            decoder(record, "", 0)
        except UNREADABLE:
            raise ValueError(reason) from None
        raise ValueError(f"{reason} (`ddt-fit tokenizer` takes it)") from None
    for image in sample.images:
        facts.sizes[f"{image.shape[1]}x{image.shape[0]}"] += 1
    spoken = [part for talk in turns for turn in talk for part in turn["content"] if isinstance(part, str)]
    facts.say([*sample.texts, *spoken] if len(sample.images) == 1 else spoken)


def scan_tokens(record: dict[str, Any], columns: "Columns", facts: Facts, fields: dict[str, Any] | None) -> None:
    """Read a token sample as training reads it, and count what is in it.

    Raises:
        ValueError: its ids are no ids, or not those of `tokens.json`, or its texts, turns or plans are none.
    """
    import numpy as np

    from ddt_lightning.shards.chat import has_turns, plans_of_turns
    from ddt_lightning.shards.conversations import check_turns
    from ddt_lightning.shards.rows import check_ids, plans_of, read_ids, texts_of
    from ddt_lightning.shards.texts import captions, read_json

    ids = read_ids(record)
    if fields:
        check_ids(ids, fields["K"], fields["codebook_size"])
    data = read_json(record)
    if has_turns(record):
        turns: Any = data.get("turns") if isinstance(data, dict) else None
        check_turns(turns, len(ids))
        plans_of_turns(data, turns)
    else:
        plans_of(data, len(captions(record, columns, data)), "captions")
    facts.say(texts_of(record, columns))
    facts.ids[f"{len(ids)} x {ids.shape[1]} ids"] += 1
    codes, counts = np.unique(ids, return_counts=True)
    facts.codes.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))


def scan_text(record: dict[str, Any], columns: "Columns", facts: Facts) -> None:
    """Read a sample of text alone, a line or a conversation, as training reads it.

    Raises:
        ValueError: it has no text, or its turns are none.
    """
    from ddt_lightning.shards.chat import is_spoken
    from ddt_lightning.shards.conversations import check_turns
    from ddt_lightning.shards.rows import texts_of
    from ddt_lightning.shards.texts import captions, read_json

    texts = captions(record, columns)
    if is_spoken(record):
        data = read_json(record)
        check_turns(data.get("turns") if isinstance(data, dict) else None, 0)
        texts = texts_of(record, columns)
    if not texts:
        raise ValueError("has no image, no image ids and no text")
    facts.say(texts)


def listed(counts: Counter[str]) -> str:
    """The most frequent kinds of something, with a separator behind; nothing where there is none."""
    return "".join(f"{count} x {kind}; " for kind, count in counts.most_common(3))


def layout(facts: Facts) -> str:
    """The members of a shard's samples, with how many have one that not all have."""
    counts: Counter[str] = Counter()
    for members, number in facts.members.items():
        counts.update(dict.fromkeys(members, number))
    frequent = sorted(member for member, _ in counts.most_common(8))
    return " ".join(m if counts[m] == facts.samples else f"{m} ({counts[m]} of {facts.samples})" for m in frequent)
