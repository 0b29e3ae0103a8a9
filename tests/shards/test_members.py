"""Tars of other people to samples: names, grouping, damage, and the shards behind patterns."""

import io
import random
import tarfile

import pytest

from ddt_lightning.shards.members import Archive, split
from ddt_lightning.shards.read import check_shards, expand, read_shard
from ddt_lightning.shards.write import write_shards
from tests.foreign import PAIRS, SHARDS, pairs, tar_bytes, write

FOUR = [f"picture {n}".encode() for n in range(4)]


def read(folder, name):
    problems = {}
    return list(read_shard(str(write(folder, name)), problems)), problems


@pytest.mark.parametrize(
    "name",
    ["plain", "dot_slash", "dot_folder", "absolute", "climbing", "upper_case", "mac", "mac_zip", "hidden", "gzip",
     "joined", "joined_gzip", "pax"],
)  # fmt: skip
def test_four_whole_samples(name, tmp_path):
    found, problems = read(tmp_path, name)
    assert problems == {} and [record["txt"] for record in found] == FOUR
    assert all(record[{"upper_case": "jpg"}.get(name, "png")] for record in found)


@pytest.mark.parametrize(
    ("name", "key", "member"),
    [
        ("0000.png", "0000", "png"),
        ("./0000.source.PNG", "0000", "source.png"),
        ("/data//set.v1/./0000.txt", "data/set.v1/0000", "txt"),
        ("../../up.json", "up", "json"),
        ("a/0000.ids.npy", "a/0000", "ids.npy"),
        ("model.v2_1.png", "model", "v2_1.png"),
        ("._0000.png", "", ""),
        ("a/.hidden.txt", "", ""),
        ("__MACOSX/a/0000.png", "", ""),
        ("0000.pkl", "0000", ""),
        ("0000", "0000", ""),
        ("", "", ""),
    ],
)
def test_names_of_members(name, key, member):
    assert split(name)[1] == member and (not member or split(name)[0] == key)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_those_of_tarfile(form):
    names = ["a.txt", "b/" * 40 + "c.txt", "d" * 95 + ".png", "e" * 60 + "/" + "f" * 90 + ".json", "b\u00e4r.txt"]
    rng = random.Random(0)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = rng.randrange(2000), rng.randrange(2**31), rng.randrange(2**20)
            info.mode, info.uname = rng.choice([0o644, 0o7777]), "me" * number
            tar.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.size, info.offset_data, info.type) for info in tar]
    with Archive.open(fileobj=io.BytesIO(data), mode="r|") as archive:
        found = [(info.name, info.size, info.offset_data, info.type) for info in archive]
    assert found == expected and [name for name, *_ in found] == names
    for place in (0, 99, 124, 130, 148, 156, 300, 510):  # any changed byte of a header ends the archive
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(tarfile.ReadError), Archive.open(fileobj=io.BytesIO(bytes(broken)), mode="r|") as archive:
            archive.next()


def test_files_that_do_not_lie_together_are_named(tmp_path):
    found, problems = read(tmp_path, "apart")
    assert ["txt" in record for record in found] == [False] * 4
    reason = "its txt lies apart from its png, which is used alone: pack a sample's files side by side"
    assert problems == {f"apart.tar:{n:04d}#2": reason for n in range(4)}


@pytest.mark.parametrize(("name", "copies"), [("twice_apart", ["0000#2"]), ("twice_together", ["0000#2", "0003#2"])])
def test_of_equal_keys_the_first_counts(name, copies, tmp_path):
    found, problems = read(tmp_path, name)
    assert [record["txt"] for record in found] == FOUR
    assert list(problems) == [f"{name}.tar:{copy}" for copy in copies]
    assert set(problems.values()) == {"its key was there before: the first sample is used"}


def test_a_third_copy_has_a_name_of_its_own(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes(PAIRS[:2] * 3))
    problems = {}
    assert len(list(read_shard(str(tmp_path / "x.tar"), problems))) == 1
    assert list(problems) == ["x.tar:0000#2", "x.tar:0000#3"]


def test_links_are_never_followed(tmp_path):
    found, problems = read(tmp_path, "links")
    assert [record["__key__"] for record in found] == ["0000", "0001", "0002", "0003", "0009"]
    assert "png" not in found[-1] and problems.keys() == {"links.tar:0009.png", "links.tar:8.png"}
    assert all("is a link" in reason for reason in problems.values())


@pytest.mark.parametrize(
    ("name", "whole", "message"),
    [
        ("cut_off", 1, "cut off: unexpected end of data; 0001 and"),
        ("no_end", 3, "is cut off: a tar ends with zeros; 0003 and what follows"),
        ("bad_header", 1, "damaged at byte 4096"),
        ("no_tar", 0, "is no tar, or damaged at byte 0"),
    ],
)
def test_damage_is_told_from_an_end(name, whole, message, tmp_path):
    found, problems = read(tmp_path, name)
    (place, reason) = next(iter(problems.items()))
    assert len(found) == whole and len(problems) == 1 and place.endswith(f"{name}.tar") and message in reason


def test_damaged_compression_gives_what_is_whole(tmp_path):
    data = SHARDS["joined_gzip"]()
    (tmp_path / "x.tar.gz").write_bytes(data[:-40])
    problems = {}
    found = list(read_shard(str(tmp_path / "x.tar.gz"), problems))
    assert len(found) == 3 and list(problems) == [str(tmp_path / "x.tar.gz")]


def test_a_pipe_is_read_like_a_file(tmp_path):
    for name in ("joined", "joined_gzip"):
        path = write(tmp_path, name)
        assert [record["txt"] for record in read_shard(f"pipe:cat {path}", {})] == FOUR


@pytest.mark.parametrize("name", ["dots_in_names", "version_numbers"])
def test_names_with_dots_are_explained_in_a_short_line(name, tmp_path):
    write_bytes = tar_bytes(pairs(60, name="model.v2_{:04d}"))
    url = write(tmp_path, name)
    if name == "dots_in_names":
        url.write_bytes(write_bytes)
    with pytest.raises(ValueError, match=r"a name is cut at its first dot.*rename them") as error:
        check_shards([str(url)], lambda record: "png" in record, "data.shards", "an image")
    assert len(str(error.value)) < 500


def test_keys_are_written_as_they_are_read(tmp_path):
    (path,) = write_shards(tmp_path, "x", [{"__key__": "train.v1/0000", "txt": "one"}], 1)
    assert [record["__key__"] for record in read_shard(str(path), {})] == ["train.v1/0000"]
    for key in ("a.b", "/a", "./a", "a/../b", "", "._a", "__MACOSX/a"):
        with pytest.raises(ValueError, match="must be unique and hold no dot"):
            write_shards(tmp_path, "y", [{"__key__": key, "txt": "one"}], 1)


@pytest.mark.parametrize(
    "folder", ["run[1]", "set{a,b}", "set{1}", "co$t", "my data", "набор ü", "a*b", "plus+#%,;", "~x"]
)
def test_paths_that_exist_are_taken_as_they_are(folder, tmp_path, monkeypatch):
    place = tmp_path / folder / "in [2]"
    place.mkdir(parents=True)
    for n in range(2):
        (place / f"x-{n:06d}.tar").write_bytes(SHARDS["plain"]())
    expected = [str(place / f"x-{n:06d}.tar") for n in range(2)]
    assert expand([expected[0]], "data.shards") == expected[:1]
    for pattern in ("x-*.tar", "x-{000000..000001}.tar", "x-00000?.tar", "*"):
        assert expand([f"{place}/{pattern}"], "data.shards") == expected
    assert expand([f"{tmp_path}/{folder}/*/x-*.tar"], "data.shards") == expected
    monkeypatch.setenv("DDT_DATA", str(tmp_path / folder))
    monkeypatch.setenv("HOME", str(tmp_path / folder))
    assert expand(["${DDT_DATA}/in [2]/x-*.tar"], "data.shards") == expected
    assert expand(["~/in [2]/x-*.tar", "$DDT_DATA/in [2]/x-000000.tar"], "data.shards") == expected
    monkeypatch.chdir(tmp_path / folder)
    assert expand(["in [2]/x-*.tar"], "data.shards") == [f"in [2]/x-{n:06d}.tar" for n in range(2)]


def test_braces_hold_folders_and_an_open_brace_is_named(tmp_path):
    for name in ("a[1]", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_bytes(SHARDS["plain"]())
    assert expand([f"{tmp_path}/{{a[1],b}}/*.tar"], "o") == [f"{tmp_path}/a[1]/x.tar", f"{tmp_path}/b/x.tar"]
    with pytest.raises(ValueError, match=r"`o` .*\{a,b"):
        expand([f"{tmp_path}/{{a,b/x.tar"], "o")
    with pytest.raises(FileNotFoundError, match=r"`o` .*there is no shard"):
        expand([f"{tmp_path}/c[0]/x.tar".replace("[0]", "")], "o")


def test_pax_and_gnu_names_are_whole(tmp_path):
    long = "folder/" * 20 + "0000"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (tmp_path / "x.tar").write_bytes(tar_bytes([(f"{long}.txt", b"one")], form))
        assert [record["__key__"] for record in read_shard(str(tmp_path / "x.tar"), {})] == [long]
