"""Shard files: what is written can be read by webdataset, is the same bytes, and is all there or not at all."""

import json

import numpy as np
import pytest
import webdataset as wds

from ddt_lightning.shards.read import read_npy
from ddt_lightning.shards.write import common_fields, pack_ids, parts, read_tokens_json, write_shards, write_tokens_json

FIELDS = {"tokenizer": "a", "K": 4, "codebook_size": 8, "order": "fine_to_coarse", "transform": "", "source": "s"}


def samples(count):
    for i in range(count):
        ids = np.arange(4, dtype=np.uint16) + i
        yield {"__key__": f"{i:03d}", "ids.npy": ids, "txt": f"täxt {i}", "json": {"n": i}, "cls": str(i).encode()}


def test_webdataset_reads_what_is_written(tmp_path):
    written = write_shards(tmp_path, "a", samples(7), 3)
    assert [path.name for path in written] == [f"a-{i:06d}.tar" for i in range(3)]
    found = list(wds.WebDataset([str(path) for path in written], shardshuffle=False).decode())
    assert [one["__key__"] for one in found] == [f"{i:03d}" for i in range(7)]
    for i, one in enumerate(found):
        assert np.array_equal(one["ids.npy"], np.arange(4) + i) and one["ids.npy"].dtype == np.uint16
        assert (one["txt"], one["json"], one["cls"]) == (f"täxt {i}", {"n": i}, i)


def test_the_same_samples_give_the_same_bytes(tmp_path):
    one, two = (write_shards(tmp_path / name, "a", samples(5), 3) for name in ("x", "y"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_an_error_leaves_everything_as_it_was(tmp_path):
    before = {path.name: path.read_bytes() for path in write_shards(tmp_path, "a", samples(4), 2)}

    def broken():
        yield from samples(3)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_shards(tmp_path, "a", broken(), 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_older_shards_of_the_prefix_go(tmp_path):
    write_shards(tmp_path, "a-train", samples(6), 1)
    write_shards(tmp_path, "a", samples(6), 1)
    write_shards(tmp_path, "a", samples(2), 1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-000000.tar", "a-000001.tar", *(f"a-train-{i:06d}.tar" for i in range(6))]


@pytest.mark.parametrize(
    "bad",
    [
        {"__key__": "a.b", "txt": "x"},
        {"__key__": "000", "txt": "x"},
        {"__key__": "1", "txt": 3},
        {"__key__": "2", "pkl": object()},
        {"__key__": "3", "ids.npy": np.array([object()])},
    ],
)
def test_samples_that_cannot_be_written_are_refused(tmp_path, bad):
    with pytest.raises((ValueError, TypeError)):
        write_shards(tmp_path, "a", [*samples(1), bad], 10)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no samples"):
        write_shards(tmp_path, "a", [], 10)
    with pytest.raises(ValueError, match="per_shard"):
        write_shards(tmp_path, "a", samples(1), 0)


def test_tokens_json_round_trip_and_errors(tmp_path):
    write_tokens_json(tmp_path, **FIELDS)
    assert read_tokens_json(tmp_path) == {**FIELDS, "kind": "ddt"}
    (tmp_path / "b").mkdir()
    with pytest.raises(FileNotFoundError, match=r"b/tokens\.json"):
        common_fields([str(tmp_path / "b" / "x.tar")], "data.shards")
    (tmp_path / "b" / "tokens.json").write_text(json.dumps({"K": 4}))
    with pytest.raises(ValueError, match="lacks tokenizer, codebook_size"):
        read_tokens_json(tmp_path / "b")
    write_tokens_json(tmp_path / "b", **{**FIELDS, "K": 5, "source": "other"})
    with pytest.raises(ValueError, match=r"`data\.shards`: .*/b/tokens\.json has K=5, .*K=4"):
        common_fields([str(tmp_path / "x.tar"), str(tmp_path / "b" / "x.tar")], "data.shards")
    write_tokens_json(tmp_path / "b", **{**FIELDS, "source": "other"})
    assert common_fields([str(tmp_path / "x.tar"), str(tmp_path / "b" / "x.tar")], "data.shards")[0] == {
        **FIELDS,
        "kind": "ddt",
    }


def test_ids_take_the_smallest_type():
    assert pack_ids(np.array([65535]), 65536).dtype == np.uint16
    assert pack_ids(np.array([65536]), 65537).dtype == np.uint32


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.uint16), np.arange(6.0).reshape(2, 3).T, np.zeros((0, 4)), np.int64(3)]
)
def test_npy_members_are_read_as_numpy_reads_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = read_npy((tmp_path / "a.npy").read_bytes())
    assert np.array_equal(found, array) and found.dtype == array.dtype


def test_npy_members_never_hold_objects(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="never loaded"):
        read_npy((tmp_path / "a.npy").read_bytes())
    np.save(tmp_path / "b.npy", np.arange(100))
    with pytest.raises(ValueError):
        read_npy((tmp_path / "b.npy").read_bytes()[:-8])


def test_parts_cover_everything_evenly():
    assert [list(part) for part in parts(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert list(parts(0, 0)) == []
