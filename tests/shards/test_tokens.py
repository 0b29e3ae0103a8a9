"""Rows for pretraining: formats and shares, captions, the vocabulary of a run, padding, mismatches."""

from collections import Counter
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from ddt_lightning.shards import tokens
from ddt_lightning.shards.documents import RowDecoder
from ddt_lightning.shards.read import Columns
from ddt_lightning.shards.rows import PLAIN, ROUND, pad_rows, texts_of, with_wordings, word
from ddt_lightning.shards.tokens import TokenShards
from ddt_lightning.shards.write import to_bytes, write_shards, write_tokens_json
from ddt_lightning.vocab import IGNORE, Vocab, train_text_tokenizer
from tests.reading import read_image

K, CODES = 6, 40
FIELDS = {"tokenizer": "abc123", "K": K, "codebook_size": CODES, "order": "fine_to_coarse"}


def image(number):
    return (np.arange(K) * 7 + number) % CODES


def make(folder, counts=(30, 30), **fields):
    number = 0
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            texts = [f"picture {number}", f"a photo with the number {number}"]
            ids = image(number).astype(np.uint16)
            samples.append({"__key__": f"{number:03d}", "ids.npy": ids, "txt": texts[0], "json": {"captions": texts}})
            number += 1
        write_shards(folder, f"t{shard}", samples, 1000)
    write_tokens_json(folder, **{**FIELDS, **fields}, transform="none", source="here")
    return [str(folder / "t*.tar")]


@pytest.fixture
def vocab(tmp_path):
    texts = [f"a photo with the number {i} picture line of text" for i in range(200)]
    made = Vocab(train_text_tokenizer(texts, 320), CODES, K, "fine_to_coarse", "abc123")
    made.save(tmp_path / "vocab")
    return made


def shards(tmp_path, **options):
    settings = {"vocab": str(tmp_path / "vocab"), "batch_size": 20, "buffer": 10, "workers": 0, "max_length": 40}
    data = TokenShards(make(tmp_path / "tokens"), **{**settings, **options})
    data.setup("fit")
    return data


def rows(batches):
    """Every row without its padding, by sample number."""
    found = {}
    for batch in batches:
        for n, ids, labels in zip(batch["sample"].tolist(), batch["ids"], batch["labels"], strict=True):
            end = max(i for i, label in enumerate(labels.tolist()) if label != IGNORE) + 1
            found[n] = (ids[:end].tolist(), labels[:end].tolist())
    return found


def kind(vocab, ids):
    if vocab.bov not in ids:
        return "text_only"
    if len(ids) == K + 3:  # its EOS is not scored
        return "image_only"
    return "i2t" if ids[1] == vocab.bov else "t2i"


def test_formats_come_in_exact_shares_and_captions_are_dropped(tmp_path, vocab):
    text = [{"__key__": str(i), "txt": f"line {i}"} for i in range(50)]
    write_shards(tmp_path / "text", "x", text, 10)
    data = shards(
        tmp_path,
        text_shards=[str(tmp_path / "text" / "*.tar")],
        t2i=0.5,
        i2t=0.2,
        image_only=0.1,
        text_only=0.2,
        caption_drop=0.2,
        lanes=2,
    )
    found = rows(islice(data.train_dataloader(), 100))
    kinds = Counter(kind(vocab, ids) for ids, _ in found.values())
    assert kinds["text_only"] == 400 and kinds["i2t"] == 400
    assert kinds["t2i"] + kinds["image_only"] == 1200
    assert 150 < kinds["image_only"] - 200 < 250
    for ids, labels in found.values():
        assert labels == [IGNORE, *ids[1:]]
        if kind(vocab, ids) == "text_only":
            assert vocab.decode_text(ids).startswith(" line")
            continue
        begin = ids.index(vocab.bov) + 1
        codes = read_image(vocab, ids[begin : begin + K])
        assert np.array_equal(codes, image(codes[0]))
        texts = [i for i in ids if i < vocab.text_size]
        if kind(vocab, ids) != "image_only":
            number = int(vocab.read_text(texts).split()[-1])
            assert number % CODES == codes[0]


def test_every_caption_of_an_image_is_used(tmp_path, vocab):
    data = shards(tmp_path, t2i=1.0, i2t=0.0, text_only=0.0, caption_drop=0.0)
    found = rows(islice(data.train_dataloader(), 30))
    texts = Counter(vocab.read_text([i for i in ids if i < vocab.text_size]) for ids, _ in found.values())
    assert len(texts) == 120 and sum(count for text, count in texts.items() if text.startswith("picture")) > 200


@pytest.mark.parametrize("label", ["t2i", "i2t"])
def test_a_plan_follows_its_caption(vocab, label):
    data = {"captions": ["a photo", "a line of text"], "plan": ["photo |", "line |"]}
    record = {"ids.npy": to_bytes("ids.npy", image(0)), "json": to_bytes("json", data)}
    whole = {"a photo: photo |", "a line of text: line |"}

    def texts(plans, text=None, label=label):
        decoder = RowDecoder(vocab, 60, 0.0, Columns(text=text), 0, plans=plans)
        rows = [decoder(record, label, n)["ids"] for n in range(60)]
        return Counter(vocab.read_text([i for i in row if i < vocab.text_size]).strip() for row in rows)

    assert set(texts(1.0)) == whole and set(texts(0.0)) == set(data["captions"])
    assert 15 < sum(texts(0.5)[text] for text in whole) < 45
    assert set(texts(1.0, label="text_only")) == set(data["captions"])
    assert set(texts(1.0, text="json.captions")) == set(data["captions"])


def test_rows_do_not_depend_on_ranks_and_workers(tmp_path, vocab, monkeypatch):
    data = shards(tmp_path)
    whole = rows(islice(data.train_dataloader(), 10))
    data.workers = 1
    assert rows(islice(data.train_dataloader(), 10)) == whole
    parts = {}
    for rank in range(2):
        monkeypatch.setattr(data, "ranks", lambda rank=rank: (rank, 2))
        parts |= rows(islice(data.train_dataloader(), 10))
    assert parts == whole


def test_rows_are_padded_to_the_longest_rounded_up():
    rows = [{"ids": [1, 2, 3], "labels": [IGNORE, 2, 3]}, {"ids": list(range(9)), "labels": [7] * 9}]
    batch = pad_rows(rows, pad=99)
    assert batch["ids"].shape == batch["labels"].shape == (2, 16) and 16 % ROUND == 0
    assert batch["ids"][0].tolist() == [1, 2, 3] + [99] * 13
    assert batch["labels"][0].tolist() == [IGNORE, 2, 3] + [IGNORE] * 13
    assert batch["ids"].dtype == batch["labels"].dtype == torch.int64
    assert pad_rows(rows[:1], 0)["ids"].shape == (1, 8)


def test_long_texts_are_cut_and_images_are_not(tmp_path, vocab):
    data = shards(tmp_path, max_length=K + 5, text_only=0.0, caption_drop=0.0)
    found = rows(islice(data.train_dataloader(), 5))
    assert {len(ids) for ids, _ in found.values()} == {K + 5}
    assert all(sum(vocab.image_start <= i < vocab.image_end for i in ids) == K for ids, _ in found.values())
    with pytest.raises(ValueError, match=rf"`data\.max_length` \({K + 3}\) must be at least {K + 4}"):
        shards(tmp_path, max_length=K + 3)


def test_validation_is_in_the_same_shares_with_every_caption(tmp_path, vocab):
    make(tmp_path / "val", (40,))
    settings = {"val_shards": [str(tmp_path / "val" / "*.tar")], "caption_drop": 1.0}
    data = shards(tmp_path, **settings, t2i=0.5, i2t=0.5, text_only=0.0)
    found = rows(data.val_dataloader())
    assert len(found) == 40 and rows(data.val_dataloader()) == found
    assert set(kind(vocab, ids) for ids, _ in found.values()) == {"t2i", "i2t"}


class Counts(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.samples = []

    def training_step(self, batch, _):
        self.samples += batch["sample"].tolist()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, data):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=2,
        default_root_dir=folder,
        accelerator="cpu",
        enable_model_summary=False,
        limit_val_batches=0,
        **quiet,
    )
    trainer.fit(Counts(), data)


def test_a_run_makes_its_vocabulary_once(tmp_path):
    (tmp_path / "extra").mkdir()
    turns = [{"role": "user", "content": [{"image": 0}, "zebra zebra zebra"]}, {"role": "assistant", "content": ["ok"]}]
    for number in range(3):
        extra = [{"__key__": str(i), "txt": "zebra", "json": {"turns": turns}} for i in range(20)]
        write_shards(tmp_path / "extra", f"e{number}", extra, 100)
    options = {"texts": [str(tmp_path / "extra" / "*.tar")], "text_vocab_size": 400, "workers": 0, "max_length": 60}
    urls = make(tmp_path / "tokens")
    data = TokenShards(urls, **options)
    fit(tmp_path / "run", data)
    saved = Vocab.load(tmp_path / "run" / "vocab")
    assert (saved.image_tokens, saved.codebook_size, saved.tokenizer) == (K, CODES, "abc123")
    assert saved.size == data.vocab.size and len(saved.encode_text(" zebra")) == 1
    assert saved.unknown_words("a zebra star") == ["star"]  # texts of all sources
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["vocab"]
    stamp = (tmp_path / "run" / "vocab" / "vocab.json").stat().st_mtime_ns
    fit(tmp_path / "run", TokenShards(urls, **options))
    assert (tmp_path / "run" / "vocab" / "vocab.json").stat().st_mtime_ns == stamp
    fit(tmp_path / "other", TokenShards(urls, **options))
    one, two = (Path(tmp_path / run / "vocab" / "text" / "tokenizer.json").read_text() for run in ("run", "other"))
    assert one == two


def test_words_are_not_known_where_texts_were_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "MOST_TEXTS", 2)
    fit(tmp_path / "run", TokenShards(make(tmp_path / "tokens"), text_vocab_size=300, workers=0, max_length=60))
    assert Vocab.load(tmp_path / "run" / "vocab").words is None


def test_a_given_text_tokenizer_is_used(tmp_path, vocab):
    data = TokenShards(make(tmp_path / "tokens"), text_tokenizer=str(tmp_path / "vocab" / "text"), workers=0)
    fit(tmp_path / "run", data)
    assert data.vocab.text_size == vocab.text_size and data.vocab.words is None


def test_mismatches_name_both_hashes(tmp_path, vocab):
    urls = make(tmp_path / "tokens")
    other = make(tmp_path / "other", tokenizer="def456")
    with pytest.raises(ValueError, match=r"`data\.shards`.*tokenizer=def456.*tokenizer=abc123"):
        TokenShards([*urls, *other], vocab=str(tmp_path / "vocab")).setup("fit")
    with pytest.raises(ValueError, match=r"tokenizer=def456.*abc123"):
        TokenShards(other, vocab=str(tmp_path / "vocab")).setup("fit")
    with pytest.raises(ValueError, match=r"tokenizer=def456.*abc123"):
        TokenShards(urls, other, vocab=str(tmp_path / "vocab")).setup("fit")
    with pytest.raises(ValueError, match=r"order=coarse_to_fine.*fine_to_coarse"):
        TokenShards(make(tmp_path / "c", order="coarse_to_fine"), vocab=str(tmp_path / "vocab")).setup("fit")


def test_what_is_missing_is_named(tmp_path, vocab):
    folder = str(tmp_path / "vocab")
    urls = make(tmp_path / "tokens")
    with pytest.raises(FileNotFoundError, match=r"`data\.text_shards`.*no\*"):
        TokenShards(urls, text_shards=[str(tmp_path / "no*.tar")], vocab=folder).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"none.*vocab"):
        TokenShards(urls, vocab=str(tmp_path / "none")).setup("fit")
    with pytest.raises(ValueError, match=r"`data\.vocab`"):
        TokenShards(urls).setup("fit")
    (tmp_path / "tokens" / "tokens.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokens\.json"):
        TokenShards(urls, vocab=folder).setup("fit")
    write_shards(tmp_path / "bare", "b", [{"__key__": str(i), "ids.npy": image(i)} for i in range(9)], 100)
    write_tokens_json(tmp_path / "bare", **FIELDS, transform="", source="")
    bare = [str(tmp_path / "bare" / "*.tar")]
    with pytest.raises(ValueError, match=r"no sample in shard .*b-000000\.tar has image ids .* and a text"):
        TokenShards(bare, vocab=folder).setup("fit")
    data = TokenShards(bare, vocab=folder, t2i=0, i2t=0, image_only=1, text_only=0, workers=0, batch_size=8)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["ids"].shape == (8, 16)


@pytest.mark.parametrize("options", [{"caption_drop": 1.5}, {"t2i": -0.1}, {"t2i": 0, "i2t": 0, "text_only": 0}])
def test_impossible_options_are_named(options):
    with pytest.raises(ValueError, match=r"`data\.(caption_drop|t2i)`"):
        TokenShards(["x.tar"], **options)


def test_wordings_are_varied_and_the_first_is_the_usual_one():
    found = Counter(word(np.random.default_rng(i), ("{}", "Draw {}.", "Paint {}."), "a dog.") for i in range(600))
    assert set(found) == {"a dog.", "Draw a dog.", "Paint a dog."}
    assert abs(found["a dog."] / 600 - (PLAIN + (1 - PLAIN) / 3)) < 0.06


def test_all_texts_of_a_sample_reach_the_text_tokenizer():
    record = {
        "__key__": "0",
        "txt": b"one",
        "json": b'{"captions": ["one", "two"], "question": "q?", "answers": ["a", "b"]}',
    }
    from ddt_lightning.shards.read import Columns

    assert texts_of(record, Columns()) == ["one", "two", "q?", "a"]
    mixed = list(with_wordings(str(i) for i in range(100)))
    assert [text for text in mixed if text.isdigit()] == [str(i) for i in range(100)] and len(mixed) > 110


def test_views_are_all_used_and_belong_to_the_sample(tmp_path, vocab):
    views = np.stack([image(0), image(11), image(23)])
    samples = [{"__key__": f"{n:03d}", "ids.npy": views.astype(np.uint16), "txt": "picture 0"} for n in range(20)]
    write_shards(tmp_path / "views", "t", samples, 10)
    write_tokens_json(tmp_path / "views", **FIELDS, transform="none", source="here")

    def firsts(**options):
        data = TokenShards(
            [str(tmp_path / "views" / "*.tar")], vocab=str(tmp_path / "vocab"), workers=0, batch_size=20, **options
        )
        data.setup("fit")
        found = rows(islice(data.train_dataloader(), 15))
        return {n: read_image(vocab, ids[ids.index(vocab.bov) + 1 :][:K])[0] for n, (ids, _) in found.items()}

    settings = {"t2i": 0.5, "i2t": 0.5, "text_only": 0.0}
    first = firsts(**settings)
    assert all(60 < count < 140 for count in Counter(first.values()).values())
    assert set(first.values()) == {0, 11, 23}
    assert firsts(**settings) == first != firsts(**settings, seed=1)


@pytest.fixture
def mixed(tmp_path, vocab):
    """Two sources whose images and lines tell where they come from: codes below 20 and from 20 on."""

    def sources(weights, **options):
        for name, first, count in (("small", 0, 13), ("large", 20, 60)):
            ids = [(np.arange(K) + first + n % 10).astype(np.uint16) for n in range(count)]
            samples = [{"__key__": f"{n:03d}", "ids.npy": ids[n], "txt": name} for n in range(count)]
            write_shards(tmp_path / name, "t", samples, 5)
            write_shards(tmp_path / name, "line", [{"__key__": f"{n}", "txt": f"line {name}"} for n in range(8)], 4)
            write_tokens_json(tmp_path / name, **FIELDS, transform="none", source="here")
        folders = [tmp_path / "small", tmp_path / "large"]
        data = TokenShards(
            [str(folder / "t-*.tar") for folder in folders],
            text_shards=[str(folder / "line-*.tar") for folder in folders],
            vocab=str(tmp_path / "vocab"),
            weights=weights,
            caption_drop=0.0,
            **{"workers": 0, "batch_size": 20, "lanes": 4, **options},
        )
        data.setup("fit")
        return data

    return sources


def origin(vocab, ids):
    text = vocab.read_text([i for i in ids if i < vocab.text_size])
    if vocab.bov in ids:
        code = read_image(vocab, ids[ids.index(vocab.bov) + 1 :][:K])[0]
        assert text == ("small" if code < 20 else "large")
        return text
    return text


def test_weighted_sources_come_in_exact_shares_in_every_format(vocab, mixed):
    data = mixed({"shards": [0.3, 0.7], "text_shards": [3, 1]}, t2i=0.5, i2t=0.3, text_only=0.2)
    found = rows(islice(data.train_dataloader(), 100))
    kinds = Counter((kind(vocab, ids), origin(vocab, ids)) for ids, _ in found.values())
    assert kinds == {
        ("t2i", "small"): 300, ("t2i", "large"): 700, ("i2t", "small"): 180, ("i2t", "large"): 420,
        ("text_only", "line small"): 300, ("text_only", "line large"): 100,
    }  # fmt: skip
    for begin in (0, 7, 33):  # not in the long run alone
        part = Counter(origin(vocab, found[n][0]) for n in range(20 * begin, 20 * begin + 200))
        assert abs(part["small"] - 48) <= 8 and abs(part["line small"] - 30) <= 8


def test_weighted_sources_resume_and_do_not_depend_on_the_ranks(mixed, monkeypatch):
    data = mixed({"shards": [1, 2]})
    whole = rows(islice(data.train_dataloader(), 12))
    parts = {}
    for rank in range(2):
        monkeypatch.setattr(data, "ranks", lambda rank=rank: (rank, 2))
        parts |= rows(islice(data.train_dataloader(), 12))
    assert parts == whole
    monkeypatch.undo()
    monkeypatch.setattr(data, "start", lambda: 5 * 20)
    assert rows(islice(data.train_dataloader(), 7)) == {n: row for n, row in whole.items() if n >= 100}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"shards": [1]}, "must be 2 weights"),
        ({"shards": [1, -1]}, "must not be negative"),
        ({"shards": [0, 0]}, "nor all be 0"),
        ({"images": [1]}, "must name one of shards, text_shards"),
    ],
)
def test_impossible_weights_are_refused(mixed, weights, message):
    with pytest.raises(ValueError, match=rf"data\.weights.*{message}"):
        mixed(weights)


def test_a_pattern_of_weight_0_is_left_out(vocab, mixed):
    found = rows(islice(mixed({"shards": [0, 1]}, text_only=0.0).train_dataloader(), 5))
    assert {origin(vocab, ids) for ids, _ in found.values()} == {"large"}
