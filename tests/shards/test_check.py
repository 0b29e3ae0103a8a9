"""`ddt data check` says beforehand what `ddt encode` and `ddt-fit` will leave out, of every shard that others make."""

from itertools import islice

import numpy as np
import pytest

from ddt_lightning.cli import main
from ddt_lightning.encoding import encode_shard
from ddt_lightning.inputs import Coding
from ddt_lightning.shards.chat import ChatDecoder
from ddt_lightning.shards.check import scan
from ddt_lightning.shards.documents import RowDecoder, has_text
from ddt_lightning.shards.images import ImageShards
from ddt_lightning.shards.members import UNREADABLE
from ddt_lightning.shards.read import Columns, Reader, name, read_shard
from ddt_lightning.shards.rows import every_text
from ddt_lightning.shards.write import write_shards, write_tokens_json
from ddt_lightning.vocab import Vocab, train_text_tokenizer
from tests.foreign import SHARDS, write
from tests.tiny import TEXTS, tiny_tokenizer

TAKEN = "(`ddt-fit tokenizer` takes it)"
NO_SAMPLES = ("empty", "no_tar")
# what is left out of each shard: key, or "" for what follows a damage, and a word of the reason
LEFT_OUT = {
    "exif": {}, "alpha": {},
    "dots_in_names": {"model": "first dot"}, "version_numbers": {"photo_1": "first dot"},
    "apart": {f"{n:04d}#2": "lies apart" for n in range(4)},
    "twice_apart": {"0000#2": "was there before"}, "twice_together": {"0000#2": "before", "0003#2": "before"},
    "links": {"0009.png": "is a link", "8.png": "is a link", "0009": "has no image"},
    "cut_off": {"": "cut off"}, "no_end": {"": "cut off"}, "bad_header": {"": "damaged at byte"},
    "cut_pictures": {"0001": "png is not a readable image"}, "huge": {"9": "png is too large"},
    "captions_wrong": {f"{n:04d}": "json caption is" for n in range(2)},
    "json_broken": {"0003": "json is not JSON"}, "json_deep": {"0003": "nested too deeply"},
    "some_json": {}, "text_latin1": {"x": "txt is not UTF-8"}, "half_emoji": {"x": "half a character"},
    "answers_none": {f"{n:04d}": "has no answer" for n in range(2)}, "answers_wrong": {"0000": "json answer is true"},
    "colliding_keys": {f"{n:04d}-{m}": "key of another" for n in range(2) for m in range(2)},
    "half_edit": {"e": "a source without a target"}, "mute_edit": {"e": "without an instruction"},
    "wrong_turns": {"c": "turns must be"}, "no_pictures": {"b": "no text", "c": "half a character"},
    "empty": {"": "no sample"}, "no_tar": {"": "is no tar"},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(16).save_pretrained(folder)
    return folder


def fitted(url):
    """What training a tokenizer skips, over at least one epoch."""
    data = ImageShards([url], image_size=8, batch_size=1, lanes=1, buffer=1, workers=0)
    data.setup("fit")
    count = sum(1 for _ in read_shard(url, {}))
    list(islice(data.train_dataloader(), count + 1))
    return set(data.skipped)


def texts_refused(url):
    """What training a language model on texts skips."""
    vocab = Vocab(train_text_tokenizer(TEXTS, 300), 24, 6)
    decoder, reader, refused = RowDecoder(vocab, 32, 0.0, Columns(), 0), Reader([url], has_text), set()
    for record in reader.all():
        try:
            decoder(record, "text_only", 0)
        except UNREADABLE:
            refused.add(name(record))
    return refused | set(reader.problems)


@pytest.mark.parametrize("shard", SHARDS)
def test_check_encode_and_training_agree(shard, tokenizer, tmp_path):
    url = str(write(tmp_path, shard))
    ((_, facts, problems),) = scan([url])
    expected = LEFT_OUT.get(shard, {})
    named = {key.rpartition(":")[2] if ":" in key else "": reason for key, reason in problems.items()}
    assert named.keys() == expected.keys()
    assert all(word in named[key] for key, word in expected.items()), named
    if shard == "no_pictures":
        assert texts_refused(url) == set(problems) and facts.texts == 2
        return
    count, left_out = encode_shard(str(tokenizer), Coding(), url, str(tmp_path / "out.tar"), {}, 1)
    plain = {key: reason.removesuffix(f" {TAKEN}") for key, reason in problems.items()}
    if shard in NO_SAMPLES or not facts.sizes:
        assert count == 0 and problems and not (tmp_path / "out.tar").exists()
        with pytest.raises(ValueError, match=r"data\.shards"):
            fitted(url)
        return
    assert left_out == plain
    written = list(read_shard(str(tmp_path / "out.tar"), {}))
    assert len(written) == count > 0 and len({record["__key__"] for record in written}) == count
    assert fitted(url) == {key for key, reason in problems.items() if not reason.endswith(TAKEN)}


def test_one_bad_sample_never_ends_a_call(tokenizer, tmp_path, capsys):
    """All of them in one call of each command: what can be read is read, the rest is counted and named."""
    (tmp_path / "in").mkdir()
    for shard in SHARDS:
        if shard not in (*NO_SAMPLES, "no_pictures", "dots_in_names", "version_numbers"):
            write(tmp_path / "in", shard)
    pattern = f"{tmp_path}/in/*"
    with pytest.raises(SystemExit):
        main(["data", "check", pattern])
    shown = capsys.readouterr()
    bad = int(shown.out.splitlines()[-1].split()[-2])
    assert f"{bad} samples or shards cannot be used" in shown.err and bad == sum(
        len(LEFT_OUT.get(path.name.split(".")[0], {})) for path in (tmp_path / "in").iterdir()
    )
    call = ["encode", "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out"), "--processes", "1"]
    main([*call, "--shards", pattern])
    shown = capsys.readouterr()
    assert f"{bad} samples were left out: " in shown.err and (tmp_path / "out" / "tokens.json").is_file()


def test_a_shard_without_any_sample_is_named_and_the_others_are_encoded(tokenizer, tmp_path, capsys):
    for shard in ("plain", "no_pictures", "gzip"):
        write(tmp_path, shard)
    call = ["encode", "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out"), "--processes", "1"]
    with pytest.raises(SystemExit):
        main([*call, "--shards", f"{tmp_path}/*.tar*"])
    error = capsys.readouterr().err
    assert "no_pictures.tar can be encoded, no_pictures.tar:a: has no image" in error and "Leave out 1 such" in error
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["gzip.tar", "plain.tar"]
    assert not (tmp_path / "out" / "tokens.json").exists()
    main([*call, "--shards", f"{tmp_path}/{{plain,gzip}}.tar*"])
    assert "2 shards were there already" in capsys.readouterr().out and (tmp_path / "out" / "tokens.json").is_file()


def damaged_tokens():
    """Token samples: a good one of each kind, and the others with the reason why training refuses them."""
    ids = np.arange(6, dtype=np.uint16)
    talk = [{"role": "user", "content": ["draw"]}, {"role": "assistant", "content": [{"image": 0}]}]
    wrong = [talk[0], {"role": "assistant", "content": [{"image": 1}]}]
    objects = b"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }".ljust(70)
    good = [{"ids.npy": ids, "txt": "one"}, {"ids.npy": ids[None], "json": {"turns": talk, "plan": "a plan |"}}]
    bad = {
        "K=6": {"ids.npy": ids[:5], "txt": "one"},
        "codebook_size=24": {"ids.npy": ids + 20, "txt": "one"},
        "ids.npy is no .npy file": {"ids.npy": b"x", "txt": "one"},
        "whole numbers": {"ids.npy": ids / 2, "txt": "one"},
        "python objects": {"ids.npy": b"\x93NUMPY\x01\0\x46\0" + objects},
        "turn 0 must be": {"ids.npy": ids[None], "json": {"turns": talk[::-1]}},
        "neither a text nor one of 1 images": {"ids.npy": ids[None], "json": {"turns": wrong}},
        "list of 1 texts": {"ids.npy": ids[None], "json": {"turns": talk, "plan": ["a |", "b |"]}},
        "half a character": {"ids.npy": ids, "json": {"captions": ["\ud83d"]}},
    }  # fmt: skip
    return good, bad


def test_tokens_that_training_refuses_are_named(tmp_path):
    good, bad = damaged_tokens()
    samples = [{"__key__": f"{n:02d}", **sample} for n, sample in enumerate([*good, *bad.values()])]
    (url,) = write_shards(tmp_path, "x", samples, 99)
    fields = {"tokenizer": "t", "K": 6, "codebook_size": 24, "order": "fine_to_coarse"}
    write_tokens_json(tmp_path, **fields, transform="", source="")
    ((_, _, problems),) = scan([str(url)])
    assert list(problems) == [f"{url.name}:{n:02d}" for n in range(len(good), len(samples))]
    for (reason, sample), found in zip(bad.items(), problems.values(), strict=True):
        assert reason in found, (sample, found)
    vocab = Vocab(train_text_tokenizer(TEXTS, 300), 24, 6, tokenizer="t")
    refused = set()
    rows, chats = RowDecoder(vocab, 64, 0.0, Columns(), 0), ChatDecoder(vocab, 64, 0.0, 0)
    for record in read_shard(str(url), {}):
        try:
            _ = chats(record, "edit", 0) if b'"turns"' in record.get("json", b"") else rows(record, "t2i", 0)
        except UNREADABLE:
            refused.add(name(record))
    assert refused == set(problems)


def test_texts_for_a_text_tokenizer_are_read_around_damage(tmp_path, capsys):
    url, problems = str(write(tmp_path, "no_pictures")), {}
    assert list(every_text([url], Columns(), problems)) == ["one", "two"]
    assert problems == {"no_pictures.tar:c": "json caption holds half a character (\\ud83d): repair the text"}
    call = ["data", "words", "--out", str(tmp_path / "out"), "--shards", url, "--val_shards", url]
    main([*call, "--length", "2", "--codes", "4", "--hop", "1"])
    assert "no_pictures.tar:c: json caption holds half a character" in capsys.readouterr().err
