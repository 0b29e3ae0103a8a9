"""Shards over the network and from commands: what fails now and then is read whole, what is gone is named."""

import gzip
import json
import multiprocessing
import shutil
import subprocess
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torch.utils.data import DataLoader

from ddt_lightning.cli import main
from ddt_lightning.commands.encode import world_of
from ddt_lightning.images import to_png
from ddt_lightning.shards import remote
from ddt_lightning.shards.cache import cached, file_name, is_whole, record_of
from ddt_lightning.shards.images import ImageShards
from ddt_lightning.shards.order import Mixture, Order, Slot
from ddt_lightning.shards.read import Reader, check_shards, expand, read_shard
from ddt_lightning.shards.remote import Unreachable, open_remote
from ddt_lightning.shards.stream import TrainBatches
from ddt_lightning.shards.write import common_fields, write_shards, write_tokens_json
from tests.foreign import pairs, tar_bytes
from tests.shards.test_stream import Texts, usable
from tests.tiny import tiny_tokenizer

DATA = bytes(range(256)) * 40_000  # 10 MB, more than what the sockets hold


class Server(ThreadingHTTPServer):
    """Serves `files` on 127.0.0.1. Each path may have a list of troubles, which its requests meet one after the other:
    a number is an answer of that code, `cut N` N bytes and then the end of the connection."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.troubles, self.ranges, self.asked = {}, {}, True, Counter()
        self.said = []

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD with ranges."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        self.server.said.append(self.headers)
        troubles = self.server.troubles.get(name, [])
        trouble = troubles.pop(0) if troubles else None
        data = self.server.files.get(name)
        code = 404 if data is None else trouble if isinstance(trouble, int) else 200
        if code >= 400:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        begin, end = 0, len(data) - 1
        if "Range" in self.headers and self.server.ranges:
            begin = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            code = 206
        self.send_response(code)
        self.send_header("Content-Length", str(end + 1 - begin))
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        if code == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        if isinstance(trouble, str):
            self.wfile.write(data[begin : begin + int(trouble.split()[1])])
            self.close_connection = True
            return None
        self.wfile.write(data[begin:])
        return None

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            pass  # a reader that has seen enough leaves

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "WAIT", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(url):
    with open_remote(url) as stream:
        return stream.read()


def shard(count, prefix=""):
    members = [(f"{n:04d}.txt", f"{prefix}{n}".encode() * 200) for n in range(count)]
    return tar_bytes(members)


# -------------------------------------------------------------------------------------------------------- over the net


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_connection_that_breaks_goes_on_where_it_broke(server, ranges):
    server.files["a"], server.ranges = DATA, ranges
    server.troubles["a"] = [503, "cut 0", "cut 100000", 500, "cut 3000000", 429]
    assert read(server.url("a")) == DATA
    assert server.asked["a"] == 7
    begins = [int(said["Range"].split("=")[1][:-1]) for said in server.said if said["Range"]]
    assert begins[0] == 100_000 and begins == sorted(begins) and begins[-1] > 2_000_000


def test_what_does_not_come_back_is_named_after_the_last_try(server, caplog):
    server.files["a.tar"] = shard(3)
    server.troubles["a.tar"] = [503] * 100
    with pytest.raises(
        Unreachable, match=rf"{server.url('a.tar')} cannot be read after 8 tries: the server answers 503"
    ):
        read(server.url("a.tar"))
    assert server.asked["a.tar"] == remote.TRIES
    waits = [float(record.message.split("again in ")[1].split()[0]) for record in caplog.records]
    assert waits == [pytest.approx(0.001 * 2**n) for n in range(remote.TRIES - 1)]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_no_try_can_change_is_not_tried_again(server, code):
    server.files["a.tar"] = shard(3)
    server.troubles["a.tar"] = [code]
    with pytest.raises(Unreachable, match=f"cannot be read: the server answers {code}"):
        read(server.url("a.tar"))
    assert server.asked["a.tar"] == 1


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(remote, "WAIT", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(
        Unreachable, match=r"http://127\.0\.0\.1:9/a\.tar cannot be read after 8 tries: there is no conn"
    ):
        read("http://127.0.0.1:9/a.tar")


def test_a_shard_that_changes_while_it_is_read_is_named(server):
    server.files["a"] = DATA
    server.troubles["a"] = ["cut 2000000"]
    with open_remote(server.url("a")) as stream:
        assert stream.read(1000) == DATA[:1000]
        server.files["a"] = DATA[::-1]
        with pytest.raises(Unreachable, match="it changed while it was read"):
            stream.read()


def test_users_and_passwords_are_sent_and_not_passed_on_as_part_of_the_address(server):
    server.files["a"] = b"x" * 100
    assert read(server.url("a").replace("//", "//me:pass%20word@")) == b"x" * 100
    assert server.said[0]["Authorization"] == "Basic bWU6cGFzcyB3b3Jk" and "@" not in server.said[0]["Host"]


def test_samples_over_the_net_are_those_on_the_disk(server, tmp_path):
    plain = shard(50)
    (tmp_path / "a.tar").write_bytes(plain)
    server.files |= {"a.tar": plain, "a.tgz": gzip.compress(plain)}
    expected = [record["txt"] for record in read_shard(str(tmp_path / "a.tar"), {})]
    for name in ("a.tar", "a.tgz"):
        server.troubles[name] = ["cut 700", 503, "cut 900"]
        problems = {}
        assert [record["txt"] for record in read_shard(server.url(name), problems)] == expected
        assert not problems


def test_a_shard_that_is_really_cut_off_is_damaged_and_not_unreachable(server):
    server.files["a.tar"] = shard(50)[:-20_000]
    problems = {}
    assert 10 < len(list(read_shard(server.url("a.tar"), problems))) < 50
    assert list(problems) == [server.url("a.tar")] and server.asked["a.tar"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_training_over_a_bad_net_is_training_from_the_disk(server, tmp_path, workers):
    urls = []
    for n in range(4):
        data = shard(6, f"{n}-")
        (tmp_path / f"{n}.tar").write_bytes(data)
        server.files[f"{n}.tar"], server.troubles[f"{n}.tar"] = data, ["cut 3000", 503]
        urls.append(server.url(f"{n}.tar"))
    texts = []
    for given in (urls, [str(tmp_path / f"{n}.tar") for n in range(4)]):
        dataset = TrainBatches([Reader(given, usable)], Mixture([Slot(0, 1)], 0), Texts(), Order(0, 6, 2, 5))
        loader = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
        texts.append([next(loader)["text"] for _ in range(6)])
    assert texts[0] == texts[1]


def test_a_training_ends_with_one_line_where_a_shard_is_gone(server):
    server.files["0.tar"] = tar_bytes(pairs(4))
    data = ImageShards([server.url("{0..3}.tar")], image_size=8, batch_size=4, lanes=4, workers=1)
    data.setup("fit")
    with pytest.raises(Unreachable) as error:
        list(data.train_dataloader())
    assert str(error.value).startswith(f"shard {server.url('')}") and "404" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_remote_shard_is_looked_at_before_a_run(server):
    server.files |= {"good.tar": shard(3), "empty.tar": tar_bytes([]), "other.tar": tar_bytes([("0.cls", b"1")])}
    good, empty, other, gone = (server.url(f"{name}.tar") for name in ("good", "empty", "other", "gone"))
    assert check_shards([good, gone], usable, "data.shards", "a text", enough=2) == 4
    for first, message in ((empty, "is empty or no tar"), (other, "has a text; they have cls"), (gone, "answers 404")):
        with pytest.raises((ValueError, Unreachable), match=message):
            check_shards([first, good], usable, "data.shards", "a text")


def test_tokens_json_is_read_beside_remote_shards(server, tmp_path):
    write_tokens_json(tmp_path, tokenizer="t", K=4, codebook_size=8, order="fine_to_coarse", transform="", source="")
    server.files["x/tokens.json"] = (tmp_path / "tokens.json").read_bytes()
    fields, place = common_fields([server.url("x/a.tar"), server.url("x/b.tar?signature=1/2")], "data.shards")
    assert fields["K"] == 4 and place == server.url("x")
    with pytest.raises(Unreachable, match=r"y/tokens\.json cannot be read: the server answers 404"):
        common_fields([server.url("y/a.tar")], "data.shards")
    with pytest.raises(ValueError, match=r"pipe:cat a\.tar has no tokens\.json beside it"):
        common_fields(["pipe:cat a.tar"], "data.shards")


def test_what_lies_beside_remote_shards_is_used_by_encode_decode_and_check(server, tmp_path, capsys):
    tiny_tokenizer(16).save_pretrained(tmp_path / "tokenizer")
    picture = to_png(np.zeros((16, 16, 3), np.uint8))
    world = {"kinds": 6, "held_out": "mirror", "pairs_shown": 0.8}
    server.files |= {
        "a/0.tar": tar_bytes([("x.png", picture), ("x.txt", b"t")]),
        "b/1.tar": tar_bytes([("y.png", picture)]),
    }
    server.files["a/world.json"] = json.dumps(world).encode()
    common = ["--tokenizer", str(tmp_path / "tokenizer"), "--processes", "1"]
    urls = [server.url("a/0.tar"), server.url("b/1.tar")]
    main(["encode", *common, "--shards", *urls, "--out", str(tmp_path / "tokens")])
    assert json.loads((tmp_path / "tokens" / "tokens.json").read_text())["world"] == world
    server.files["b/world.json"] = json.dumps({**world, "kinds": 12}).encode()
    with pytest.raises(
        ValueError, match=r"`--shards`: http.*/a/world\.json has kinds=6, http.*/b/world\.json kinds=12"
    ):
        world_of(urls)
    server.troubles["b/world.json"] = [403]
    with pytest.raises(Unreachable, match=r"b/world\.json cannot be read: the server answers 403"):
        world_of(urls)
    for name in ("0.tar", "tokens.json"):
        server.files[f"t/{name}"] = (tmp_path / "tokens" / name).read_bytes()
    main(["data", "check", server.url("t/0.tar")])
    main(["decode", *common, "--shards", server.url("t/0.tar"), "--out", str(tmp_path / "images"), "--steps", "1"])
    assert (tmp_path / "images" / "0.tar").is_file()
    server.files["t/tokens.json"] = server.files["t/tokens.json"].replace(b'"K": 6', b'"K": 5')
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["data", "check", server.url("t/0.tar")])
    assert "K" in (error := capsys.readouterr().err) and "0.tar:x" in error, error


def test_urls_that_nothing_opens_are_refused_with_their_option():
    with pytest.raises(ValueError, match=r"`data\.shards` \(s4://b/0\.tar\): nothing opens s4://.*s3.*pipe:COMMAND"):
        expand(["s4://b/{0..3}.tar"], "data.shards")
    with pytest.raises(ValueError, match=r"`data\.shards` \(https://h/\*\.tar\): a URL takes braces"):
        expand(["https://h/*.tar"], "data.shards")
    assert expand(["s3://b/{0..1}.tar", "pipe:cat *.tar"], "o") == ["s3://b/0.tar", "s3://b/1.tar", "pipe:cat *.tar"]


@pytest.mark.skipif(not shutil.which("aws"), reason="the command aws is not installed")
def test_s3_is_read_with_the_command_aws(server, monkeypatch):
    if subprocess.run(["aws", "--version"], capture_output=True).returncode:
        pytest.skip("the command aws does not run")
    for name, value in {
        "AWS_ENDPOINT_URL": server.url("").rstrip("/"), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    server.files["bucket/a.tar"] = shard(5)
    assert len(list(read_shard("s3://bucket/a.tar", {}))) == 5


def test_a_command_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for url, message in (("s3://b/a.tar", "there is no aws here"), ("gs://b/a.tar", "there is no gsutil here")):
        with pytest.raises(Unreachable, match=rf"{url} cannot be read: {message}"):
            read(url)


# ------------------------------------------------------------------------------------------------------------ commands


def test_a_command_that_fails_runs_again_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAIT", 0.001)
    whole, count = tmp_path / "data", tmp_path / "count"
    whole.write_bytes(DATA)
    script = f"echo >> {count}; if [ $(wc -l < {count}) -lt 4 ]; then head -c 3000000 {whole}; exit 3; fi; cat {whole}"
    assert read(f"pipe:{script}") == DATA
    assert count.read_text().count("\n") == 4
    with pytest.raises(Unreachable, match=r"pipe:exit 3 cannot be read after 8 tries: .* exit code 3"):
        read("pipe:exit 3")
    with pytest.raises(Unreachable, match=r"pipe:no-such-command x cannot be read: .* exit code 127"):
        read("pipe:no-such-command x")


def test_a_command_whose_output_is_not_wanted_is_ended():
    with open_remote("pipe:while true; do echo yes; done") as stream:
        assert stream.read(4) == b"yes\n"


# --------------------------------------------------------------------------------------------------------------- cache


def test_a_cache_reads_each_shard_once_and_gives_the_same_samples(server, tmp_path):
    server.files["a.tar"], server.troubles["a.tar"] = shard(20), ["cut 5000"]
    url, cache = server.url("a.tar"), str(tmp_path / "cache")
    expected = [record["txt"] for record in read_shard(url, {})]
    before = server.asked["a.tar"]
    for _ in range(3):
        found = list(read_shard(url, {}, cache))
        assert [record["txt"] for record in found] == expected and {record["__url__"] for record in found} == {url}
    assert server.asked["a.tar"] == before + 1


def test_a_file_of_another_size_or_without_a_record_is_fetched_again(server, tmp_path):
    server.files["a.tar"] = data = shard(20)
    url = server.url("a.tar")
    target = cached(url, tmp_path)
    for spoil in (
        lambda: target.write_bytes(data[:-1]),
        lambda: record_of(target).unlink(),
        lambda: record_of(target).write_text("{"),
        lambda: target.unlink(),
    ):
        spoil()
        assert not is_whole(target)
        assert cached(url, tmp_path).read_bytes() == data and is_whole(target)
    assert server.asked["a.tar"] == 5


def test_a_fetch_that_fails_leaves_nothing_to_use(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 2)
    server.files["a.tar"], server.troubles["a.tar"] = shard(20), ["cut 5000", 503, 503]
    with pytest.raises(Unreachable):
        cached(server.url("a.tar"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{file_name(server.url('a.tar'))}.lock"]
    assert cached(server.url("a.tar"), tmp_path).read_bytes() == shard(20)


def test_workers_at_once_fetch_a_shard_once(server, tmp_path):
    server.files["a.tar"] = data = shard(2000)
    url = server.url("a.tar")
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(cached, [url] * 6, [str(tmp_path)] * 6))
    assert {path.read_bytes() == data for path in found} == {True}
    assert server.asked["a.tar"] == 1


def test_training_with_a_cache_is_training_without(server, tmp_path):
    for n in range(2):
        server.files[f"{n}.tar"] = tar_bytes(pairs(6, prefix=f"{n}-"))
    found = []
    for cache in (None, str(tmp_path / "cache")):
        data = ImageShards([server.url("{0..1}.tar")], image_size=8, batch_size=4, workers=2, cache=cache, seed=3)
        data.setup("fit")
        batches = iter(data.train_dataloader())
        found.append([next(batches)["image"].sum().item() for _ in range(8)])
    assert found[0] == found[1]
    asked = dict(server.asked)
    assert all(is_whole(cached(server.url(f"{n}.tar"), tmp_path / "cache")) for n in range(2))
    assert server.asked == asked


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    server.files["a.tar"] = shard(3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"`data\.cache` \({tmp_path}/file\) cannot keep {server.url('a.tar')}"):
        cached(server.url("a.tar"), tmp_path / "file")


def test_names_in_a_cache_differ_where_urls_do(tmp_path):
    write_shards(tmp_path, "a", [{"__key__": "0", "txt": "x"}], 1)
    names = {file_name(url) for url in ("http://h/x/a.tar", "http://h/y/a.tar", "pipe:cat a.tar", "http://h/a.tar?v=2")}
    assert len(names) == 4 and all("/" not in name and name.isascii() for name in names)
