"""Thousands of damaged shards: no error leaves the readers, none hangs, and every sample is read or named."""

import random
import signal
import time

import numpy as np
import pytest

from ddt_lightning.shards.check import scan_shard
from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.members import split
from ddt_lightning.shards.read import Columns, has_image, name, read_shard
from ddt_lightning.shards.write import to_bytes
from tests.foreign import encoded, js, pairs, picture, tar_bytes

MOST_SECONDS = 20  # of one shard: a hang, not a slow machine
TALK = {"turns": [{"role": "user", "content": ["what?", {"image": 0}]}, {"role": "assistant", "content": ["it"]}]}
PNG, JPEG = encoded(picture(1, 6, 6)), encoded(picture(2, 6, 6), "JPEG")
MEMBERS = [
    *pairs(1),
    ("c.0.jpg", JPEG),
    ("c.json", js(TALK)),
    ("e.source.png", PNG),
    ("e.target.jpg", JPEG),
    ("e.txt", b"turn it"),
    ("q.png", PNG),
    ("q.json", js([{"question": "how many?", "answers": [2, {"answer": "two"}]}])),
    ("t.ids.npy", to_bytes("ids.npy", np.arange(6, dtype=np.uint16))),
    ("t.json", js({"captions": ["one", "two"]})),
]
NAMES = [
    "0000.png",
    "./x/0000.json",
    "q.PNG",
    "e.txt",
    "a.b.png",
    "._q.png",
    "../c.json",
    "t.txt",
    "/q.json",
    "c",
    "é.txt",
]


class Hang(BaseException):
    """Raised where a shard takes too long; no reader takes it for damage."""


def hang(*_):
    raise Hang


def damaged(rng):
    """A shard with some damage, and the members that it still holds where its headers are whole."""
    members = list(MEMBERS)
    for _ in range(rng.randint(0, 3)):
        place, other = rng.randrange(len(members)), rng.randrange(len(members))
        name, data = members[place]
        match rng.randrange(8):
            case 0:
                members[place] = (rng.choice(NAMES), data)
            case 1:
                members.insert(other, members.pop(place))
            case 2:
                members.insert(other, members[place])
            case 3:
                members[place] = (name, b"")
            case 4:
                members[place] = (name, data[: rng.randrange(len(data) + 1)])
            case 5:
                members[place] = (name, flipped(rng, data))
            case 6:
                members[place] = (name, members[other][1])
            case 7 if len(members) > 2:
                del members[place]
    data = tar_bytes(members)
    match rng.randrange(4):
        case 0:
            return flipped(rng, data), None
        case 1:
            return data[: rng.randrange(len(data))], None
    return data, members


def flipped(rng, data):
    """The same bytes but for a few, mostly at the beginning, where the headers are."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 12) if data else 0):
        found[rng.randrange(rng.choice((len(found), min(len(found), 700))))] = rng.randrange(256)
    return bytes(found)


def groups(members):
    """The number of samples that members in this order are: each ends where the key changes or a member comes again."""
    count, key, seen = 0, None, set()
    for path, _ in members:
        owner, member = split(path)
        if not member:
            continue
        if owner != key or member in seen:
            count, key, seen = count + 1, owner, set()
        seen.add(member)
    return count


def look(path, members):
    """Read one shard in every way and count."""
    refused, problems = {}, {}
    records = list(read_shard(str(path), refused))
    read = list(read_images([str(path)], problems=problems))
    skipped = problems.keys() - refused.keys()
    assert refused.items() <= problems.items()
    assert len(read) + len(skipped) == len(records)
    if members is not None:
        assert len(records) + len(refused) == groups(members)
    facts, bad = scan_shard(str(path), Columns())
    assert facts.samples == len(records) and all(bad.values())
    if any(map(has_image, records)):  # what check says is what encoding leaves out, but for samples of ids
        tokens = {name(record) for record in records if "ids.npy" in record}
        assert bad.keys() - tokens == problems.keys() - tokens


def survive(tmp_path, count, seed):
    before = signal.signal(signal.SIGALRM, hang)
    try:
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            data, members = damaged(rng)
            (tmp_path / "x.tar").write_bytes(data)
            signal.alarm(MOST_SECONDS)
            try:
                look(tmp_path / "x.tar", members)
            except (Exception, Hang) as error:
                raise AssertionError(f"shard {number} of seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_damaged_shards(tmp_path):
    survive(tmp_path, 2_000, seed=0)


@pytest.mark.slow
def test_very_many_damaged_shards(tmp_path):
    start = time.monotonic()
    survive(tmp_path, 20_000, seed=1)
    assert time.monotonic() - start < 3_600
