"""`ddt eval tokens` and `ddt data words`: losses by place against transformers' own, windows against the text."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.shards.permute import permutation
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.rows import read_ids
from ddt_lightning.shards.write import write_shards
from ddt_lightning.vocab import Vocab
from tests.inprocess import token_shards
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize("name", ["natural", "stride-1"])
def test_losses_by_place(model, tmp_path, name):
    vocab = Vocab.load(model / "vocab")
    ids = np.random.default_rng(0).integers(0, 24, (40, 6))
    folder = token_shards(tmp_path / "tokens", ids, codes=24, tokenizer=vocab.tokenizer)
    source = model
    if name != "natural":  # a model that was trained in this order
        source = tmp_path / "permuted"
        AutoModelForCausalLM.from_pretrained(model / "lm").save_pretrained(source / "lm")
        Vocab(vocab.text, 24, 6, vocab.order, f"{vocab.tokenizer}:{name}").save(source / "vocab")
    call = ["eval", "tokens", "--model", str(source), "--shards", f"{folder}/images-val-*.tar", "--batch", "5"]
    main([*call, "--out", str(tmp_path / "out"), "--permute", name])
    cards = read_cards(tmp_path / "out")
    by_place = json.loads((tmp_path / "out" / "positions.json").read_text())
    assert cards["tokens/nats_per_image"]["n"] == 16
    assert sum(by_place["loss"]) == pytest.approx(cards["tokens/nats_per_image"]["value"], rel=1e-9)
    assert cards["tokens/nats_per_id"]["value"] == pytest.approx(cards["tokens/nats_per_image"]["value"] / 6)
    assert cards["tokens/capacity"]["value"] == pytest.approx(6 * np.log(24))
    # transformers' own loss, one place at a time: labels elsewhere are not scored
    llm = AutoModelForCausalLM.from_pretrained(model / "lm").eval()
    rows = torch.tensor([vocab.image_only(one[permutation(name, 6)])[0] for one in ids[-16:]])
    logits = llm(input_ids=rows).logits
    for place in range(6):
        labels = torch.full_like(rows, -100)
        labels[:, 2 + place] = rows[:, 2 + place]
        assert by_place["loss"][place] == pytest.approx(llm(input_ids=rows, labels=labels).loss.item(), rel=1e-5)
        entropy = torch.distributions.Categorical(logits=logits[:, 1 + place]).entropy().mean()
        assert by_place["entropy"][place] == pytest.approx(float(entropy), rel=1e-5)


def test_ids_of_another_order_or_tokenizer_are_refused(model, tmp_path, capsys):
    folder = token_shards(tmp_path / "tokens", np.zeros((20, 6), int), codes=24, tokenizer="another")
    for more in ([], ["--permute", "reversed"]):
        call = ["eval", "tokens", "--model", str(model), "--shards", f"{folder}/*.tar", "--out", str(tmp_path / "o")]
        with pytest.raises(SystemExit):
            main([*call, *more])
        assert "has tokenizer=another" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_words(tmp_path, capsys):
    train = ["A red ring, below.", "a red cross", "a ring"] * 4
    held_out = ["A red zebra", "a cross , red", "ring below a red cross", "a"]
    for name, texts in (("train", train), ("val", held_out)):
        write_shards(tmp_path / "text", name, [{"__key__": f"{n:04d}", "txt": one} for n, one in enumerate(texts)], 100)
    call = ["data", "words", "--shards", f"{tmp_path}/text/train-*.tar", "--val_shards", f"{tmp_path}/text/val-*.tar"]
    main([*call, "--out", str(tmp_path / "out"), "--length", "4", "--codes", "7", "--hop", "2"])
    table = json.loads((tmp_path / "out" / "words.json").read_text())
    assert table[0] == "<other>" and set(table[1:5]) == {"\n", "a", "red", "ring"} and len(table) == 7

    def windows(name):
        return [read_ids(one)[0] for one in read_shard(str(tmp_path / "out" / f"words-{name}-000000.tar"), {})]

    words = [word for text in held_out for word in [*text.lower().split(), "\n"]]
    said = [table[code] for one in windows("val") for code in one]
    known = [word if word in table else "<other>" for word in words]
    assert said == known[: len(known) // 4 * 4] and "<other>" in said  # one after the other, nothing twice
    found = windows("train")
    assert all((one[2:] == after[:2]).all() for one, after in itertools.pairwise(found))
    fields = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert (fields["K"], fields["codebook_size"], fields["kind"]) == (4, 7, "words")
    with pytest.raises(SystemExit):
        main([*call, "--out", str(tmp_path / "no"), "--length", "400"])
    assert "fewer than `--length` (400)" in capsys.readouterr().err
