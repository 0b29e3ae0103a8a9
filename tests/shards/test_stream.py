"""Raw samples to batches: the order, whatever the ranks and workers; resume; damage."""

import random
import tarfile
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ddt_lightning.seeding import key_bits
from ddt_lightning.shards.order import Mixture, Order, Slot
from ddt_lightning.shards.read import Reader, check_shards, expand, name, read_shard
from ddt_lightning.shards.stream import TrainBatches, ValBatches, endless
from ddt_lightning.shards.write import write_shards


class Texts:
    """Decodes `KEY.txt`; `bad...` cannot be read."""

    def __call__(self, record, label, sample):
        text = record["txt"].decode()
        if text.startswith("bad"):
            raise ValueError("is bad")
        return {"text": text, "label": label}

    def collate(self, examples):
        return {key: [example[key] for example in examples] for key in ("text", "label")}


def usable(record):
    return "txt" in record


def make(folder, prefix, counts, bad=()):
    """Shards of the given sizes with texts `PREFIX0, PREFIX1, ...` over all of them."""
    number = 0
    urls = []
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            text = f"bad{prefix}{number}" if number in bad else f"{prefix}{number}"
            samples.append({"__key__": f"{number:04d}", "txt": text})
            number += 1
        (url,) = write_shards(folder, f"{prefix}{shard}", samples, 10**6)
        urls.append(str(url))
    return urls


def batches(sources, slots=None, *, start=0, workers=0, memory=0, count=10, seed=0, **order):
    slots = slots or [Slot(i, 1) for i in range(len(sources))]
    order = {"batch": 12, "lanes": 4, "buffer": 5, **order}
    readers = [Reader(urls, usable, memory) for urls in sources]
    dataset = TrainBatches(readers, Mixture(slots, seed), Texts(), Order(seed=seed, **order), start)
    return list(islice(DataLoader(dataset, batch_size=None, num_workers=workers), count))


def texts(found):
    return {n: text for batch in found for n, text in zip(batch["sample"].tolist(), batch["text"], strict=True)}


FEW = (5, 7)  # fewer shards than lanes: one common sequence
MANY = (6,) * 8  # two shards for each lane


@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("memory", [0, 10**9], ids=["disk", "memory"])
def test_every_epoch_is_a_permutation_of_its_own(tmp_path, sizes, memory):
    urls = make(tmp_path, "a", sizes)
    size = sum(sizes)
    found = texts(batches([urls], memory=memory, count=4 * size // 12))
    epochs = [[found[n] for n in range(e * size, (e + 1) * size)] for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"a{i}" for i in range(size))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_uneven_shards_over_lanes_are_dealt_evenly(tmp_path):
    urls = make(tmp_path, "a", (3, 9, 2, 4, 6))  # five shards, four lanes
    found = texts(batches([urls], count=8))
    assert Counter(found.values()) == Counter({f"a{i}": 4 for i in range(24)})


@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_reads_the_same_global_batches(tmp_path, sizes, world):
    sources = [make(tmp_path, "a", sizes), make(tmp_path, "b", (4, 5, 6))]
    slots = [Slot(0, 0.6, "x"), Slot(1, 0.4, "y")]
    alone = batches(sources, slots)
    ranks = [batches(sources, slots, rank=rank, world=world) for rank in range(world)]
    for number, batch in enumerate(alone):
        parts = [rank[number] for rank in ranks]
        assert [len(part["text"]) for part in parts] == [12 // world] * world
        together = {}
        for part in parts:
            together |= texts([part])
        assert together == texts([batch])


def test_more_workers_and_ranks_than_shards_read_the_same_global_batches(tmp_path):
    sources = [make(tmp_path, "a", (9,)), make(tmp_path, "b", (8,))]
    alone = texts(batches(sources, count=6))
    together = {}
    for rank in range(4):
        together |= texts(batches(sources, rank=rank, world=4, workers=3, count=6))
    assert together == alone


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(tmp_path, workers):
    sources = [make(tmp_path, "a", MANY, bad=(3, 17)), make(tmp_path, "b", FEW)]
    one, other = batches(sources), batches(sources, workers=workers)
    assert [batch["text"] for batch in one] == [batch["text"] for batch in other]
    assert all(torch.equal(a["sample"], b["sample"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("step", [1, 7, 19])
def test_a_resumed_stream_equals_an_uninterrupted_one(tmp_path, sizes, resample, step):
    sources = [make(tmp_path, "a", sizes, bad=(2,)), make(tmp_path, "b", (4, 5, 6))]
    slots = [Slot(0, 0.7), Slot(1, 0.3)]
    for rank in range(2):
        order = {"rank": rank, "world": 2, "resample": resample}
        whole = batches(sources, slots, count=24, **order)
        rest = batches(sources, slots, start=step * 12, count=24 - step, workers=rank, **order)
        assert texts(rest) == texts(whole[step:])


def test_order_depends_on_the_seed_and_on_nothing_else(tmp_path):
    urls = make(tmp_path, "a", MANY)
    first, again, other = (texts(batches([urls], seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_resampling_draws_shards_with_replacement(tmp_path):
    urls = make(tmp_path, "a", (6,) * 3)
    found = Counter(texts(batches([urls], resample=True, count=30)).values())
    assert set(found) == {f"a{i}" for i in range(18)}
    assert len(set(found.values())) > 1


def test_samples_of_resampled_shards_are_counted_exactly(tmp_path):
    """Sample n is number n of a sequence of epochs, each all samples of shards that are drawn with replacement."""
    sizes, names = (3, 1, 5, 2, 4), {}
    for shard, url in enumerate(urls := make(tmp_path, "a", sizes)):
        names |= {record["txt"].decode(): shard for record in read_shard(url, {})}
    found = texts(batches([urls], resample=True, lanes=2, batch=10, count=100))
    assert sorted(found) == list(range(1000))  # samples seen: steps times batch, each number once
    sequence, epochs, drawn = [found[n] for n in range(1000)], 0, Counter()
    while len(sequence) >= max(sizes) * len(sizes):
        chosen = random.Random(key_bits("order", 0, 0, epochs)).choices(range(len(sizes)), k=len(sizes))
        size = sum(sizes[shard] for shard in chosen)
        epoch, sequence = Counter(sequence[:size]), sequence[size:]
        assert epoch == Counter(text for shard in chosen for text, its in names.items() if its == shard)
        epochs, drawn = epochs + 1, drawn + Counter(chosen)
    assert epochs > 50 and all(0.7 < drawn[shard] / epochs < 1.3 for shard in range(len(sizes)))


@pytest.mark.parametrize("resample", [False, True])
def test_a_late_resume_reads_each_shard_once_and_then_its_epoch(tmp_path, monkeypatch, resample):
    urls, opened = make(tmp_path, "a", (6,) * 8), Counter()
    order = Order(seed=0, batch=12, lanes=4, buffer=5, resample=resample)
    read = Reader.records

    def records(self, shard):
        opened[shard] += 1
        return read(self, shard)

    expected = [record["txt"] for record in islice(endless(Reader(urls, usable), range(8), ("k",), order, 0), 4810)]
    monkeypatch.setattr(Reader, "records", records)
    resumed = [record["txt"] for record in islice(endless(Reader(urls, usable), range(8), ("k",), order, 4803), 7)]
    assert resumed == expected[4803:]
    assert sum(opened.values()) <= 8 + 8 + 8  # the first epoch, shards that it lacks, the last epoch


def test_sources_keep_exact_shares_and_each_is_read_evenly(tmp_path):
    sources = [make(tmp_path, "a", (20,) * 4), make(tmp_path, "b", (10, 10))]
    found = batches(sources, [Slot(0, 0.75, "x"), Slot(1, 0.25, "y")], count=100)
    assert Counter(label for batch in found for label in batch["label"]) == {"x": 900, "y": 300}
    counts = Counter(texts(found).values())
    assert {counts[f"b{i}"] for i in range(20)} == {15}
    assert {counts[f"a{i}"] for i in range(80)} <= {11, 12}


def test_a_corrupt_sample_is_replaced_and_counted_by_name(tmp_path):
    urls = make(tmp_path, "a", (8, 8), bad=(3, 9, 10))
    found = batches([urls], count=4)
    assert all(len(batch["text"]) == 12 for batch in found)
    assert not any(text.startswith("bad") for text in texts(found).values())
    skipped = {key: reason for batch in found for key, reason in batch["skipped"].items()}
    assert skipped == dict.fromkeys(["a0-000000.tar:0003", "a1-000000.tar:0009", "a1-000000.tar:0010"], "is bad")


def test_a_corrupt_sample_moves_no_other_sample(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    whole = texts(batches([make(good, "a", MANY)]))
    broken = texts(batches([make(bad, "a", MANY, bad=(7, 30))]))
    assert {n for n in whole if whole[n] != broken[n]} == {n for n in whole if whole[n] in ("a7", "a30")}


def test_data_that_is_all_corrupt_is_an_error(tmp_path):
    urls = make(tmp_path, "a", (8,), bad=range(8))
    with pytest.raises(ValueError, match=r"100 samples in a row cannot be used.*is bad"):
        batches([urls], count=1)


def test_a_cut_off_shard_gives_what_is_whole(tmp_path):
    (url,) = make(tmp_path, "a", (40,))
    data = open(url, "rb").read()
    open(url, "wb").write(data[: len(data) // 2])
    problems = {}
    found = list(read_shard(url, problems))
    assert 10 < len(found) < 40
    assert list(problems) == [url]


def test_samples_without_the_needed_members_are_named(tmp_path):
    samples = [{"__key__": f"{i}", ("txt" if i else "cls"): b"1"} for i in range(3)]
    (url,) = write_shards(tmp_path, "a", samples, 10)
    reader = Reader([str(url)], usable)
    assert [record["__key__"] for record in reader.all()] == ["1", "2"]
    assert reader.problems == {"a-000000.tar:0": "has only the members cls"}


def test_a_validation_batch_of_one_corrupt_sample_ends_nothing(tmp_path, caplog):
    urls = make(tmp_path, "a", (5,), bad=(4,))
    found = list(ValBatches([Reader(urls, usable)], Mixture([Slot(0, 1)], 0), Texts(), 2, 100, 0, 1))
    assert [batch["text"] for batch in found] == [["a0", "a1"], ["a2", "a3"]]
    assert "a0-000000.tar:0004': 'is bad'" in caplog.text


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_is_equal_per_rank_and_without_duplicates(tmp_path, world, workers):
    urls = make(tmp_path, "a", (10, 13))
    ranks = []
    for rank in range(world):
        dataset = ValBatches([Reader(urls, usable)], Mixture([Slot(0, 1)], 0), Texts(), 4, 1000, rank, world)
        ranks.append(list(DataLoader(dataset, batch_size=None, num_workers=workers)))
    assert len({tuple(len(batch["text"]) for batch in found) for found in ranks}) == 1
    together = [text for found in ranks for batch in found for text in batch["text"]]
    assert sorted(together) == sorted(f"a{i}" for i in range(23 // world * world))
    for rank, found in enumerate(ranks):
        assert texts(found) == {n: f"a{n}" for n in range(rank, 23 // world * world, world)}


def test_validation_takes_every_source_and_stops_at_its_limit(tmp_path):
    sources = [make(tmp_path, "a", (10,)), make(tmp_path, "b", (2,))]
    readers = [Reader(urls, usable) for urls in sources]
    mixture = Mixture([Slot(0, 1), Slot(1, 1)], 0)
    found = texts(ValBatches(readers, mixture, Texts(), 5, 100, 0, 1))
    assert sorted(found.values()) == sorted([f"a{i}" for i in range(10)] + ["b0", "b1"])
    assert len(texts(ValBatches(readers, mixture, Texts(), 5, 7, 0, 2))) == 3


def test_a_corrupt_validation_sample_leaves_the_number_of_batches(tmp_path):
    urls = make(tmp_path, "a", (12,), bad=(1,))
    found = list(ValBatches([Reader(urls, usable)], Mixture([Slot(0, 1)], 0), Texts(), 4, 100, 0, 1))
    assert [len(batch["text"]) for batch in found] == [3, 4, 4]
    assert found[0]["sample"].tolist() == [0, 2, 3]


def test_patterns(tmp_path, monkeypatch):
    urls = make(tmp_path, "a", (1, 1, 1))
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    assert expand(["${DDT_DATA}/a{0..2}-000000.tar"], "data.shards") == urls
    assert expand([str(tmp_path / "*.tar"), urls[1]], "data.shards") == urls
    assert expand(["pipe:cat $X/a.tar", "https://host/{0..1}.tar"], "o")[1:] == [
        "https://host/0.tar",
        "https://host/1.tar",
    ]


def test_pattern_errors_name_option_and_file(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(FileNotFoundError, match=r"`data\.shards`.*matches no shard.*none"):
        expand([str(tmp_path / "none-*.tar")], "data.shards")
    with pytest.raises(FileNotFoundError, match=r"`data\.val_shards`.*no shard .*gone\.tar"):
        expand([str(tmp_path / "gone.tar")], "data.val_shards")
    with pytest.raises(ValueError, match=r"`data\.shards`.*NO_SUCH_VARIABLE"):
        expand(["${NO_SUCH_VARIABLE}/a.tar"], "data.shards")
    with pytest.raises(ValueError, match=r"`data\.shards` names no shards"):
        expand([], "data.shards")


def test_shards_are_checked_by_name(tmp_path):
    (good,) = make(tmp_path, "a", (3,))
    empty, broken = (str(tmp_path / f"{kind}.tar") for kind in ("empty", "broken"))
    tarfile.open(empty, "w").close()
    open(broken, "wb").write(b"no tar" * 500)
    write_shards(tmp_path, "pickles", [{"__key__": "0", "pkl": b"x"}], 1)
    (cls,) = write_shards(tmp_path, "cls", [{"__key__": "0", "cls": b"1"}], 1)
    assert check_shards([good], usable, "data.shards", "a text", enough=2) == 2
    for url in (empty, broken, str(tmp_path / "pickles-000000.tar")):
        with pytest.raises(ValueError, match=rf"`data\.shards`: shard {url} is empty or no tar") as error:
            check_shards([good, url], usable, "data.shards", "a text")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"no sample in shard {cls} has a text; they have cls"):
        check_shards([good, str(cls)], usable, "data.shards", "a text")


def test_pipes_and_gzip_are_read(tmp_path):
    import gzip

    (url,) = make(tmp_path, "a", (4,))
    zipped = tmp_path / "a.tgz"
    zipped.write_bytes(gzip.compress(open(url, "rb").read()))
    for source in (str(zipped), f"pipe:cat {url}"):
        assert [record["txt"] for record in read_shard(source, {})] == [f"a{i}".encode() for i in range(4)]


def test_names_are_short_and_unambiguous(tmp_path):
    urls = make(tmp_path, "a", (2, 2))
    names = [name(record) for url in urls for record in read_shard(url, {})]
    assert len(set(names)) == 4
    assert names[0] == "a0-000000.tar:0000"


def test_random_shapes_of_data_never_break_the_order(tmp_path):
    rng = random.Random(0)
    for case in range(8):
        sizes = [rng.randint(1, 9) for _ in range(rng.randint(1, 9))]
        if sum(sizes) < 4:
            continue
        urls = make(tmp_path / str(case), "a", sizes)
        start = 12 * rng.randint(0, 6)
        whole = texts(batches([urls], count=12))
        parts = {}
        for rank in range(2):
            parts |= texts(batches([urls], start=start, count=5, rank=rank, world=2, workers=rng.randint(0, 1)))
        assert parts == {n: whole[n] for n in range(start, start + 60)}


def test_batches_hold_plain_arrays(tmp_path):
    urls = make(tmp_path, "a", FEW)
    (batch,) = batches([urls], count=1)
    assert batch["sample"].dtype == torch.int64
    assert np.array_equal(batch["sample"], np.arange(12))
