"""Orders of ids: that they are permutations, the ones they say, and that a model's data follow them."""

import numpy as np
import pytest

from ddt_lightning.shards.documents import RowDecoder, in_order, load_vocab
from ddt_lightning.shards.permute import marked, permutation
from ddt_lightning.vocab import Vocab, train_text_tokenizer
from tests.inprocess import token_shards

NAMES = ["natural", "reversed", "stride-1", "stride-2", "stride-7", "random-0", "random-11"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_every_place_once(name, length):
    assert sorted(permutation(name, length).tolist()) == list(range(length))


def test_definitions():
    assert permutation("natural", 4).tolist() == [0, 1, 2, 3]
    assert permutation("reversed", 4).tolist() == [3, 2, 1, 0]
    # places from 1: the odd ones, then the even ones; every third in three passes
    assert (permutation("stride-1", 7) + 1).tolist() == [1, 3, 5, 7, 2, 4, 6]
    assert (permutation("stride-2", 8) + 1).tolist() == [1, 4, 7, 2, 5, 8, 3, 6]
    one, two = permutation("random-0", 32), permutation("random-1", 32)
    assert (permutation("random-0", 32) == one).all() and (one != two).sum() > 16


@pytest.mark.parametrize("name", ["backwards", "stride-0", "stride-", "random", "random--1", "natural-1", ""])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="`permute`"):
        permutation(name, 4)


@pytest.mark.parametrize("order", ["fine_to_coarse", "coarse_to_fine"])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_sees_the_natural_sequence_permuted(order, name):
    vocab = Vocab(train_text_tokenizer(["a b"], 300), 40, 7, order, "x")
    ids = np.array([3, 1, 4, 15, 9, 26, 5])
    natural = np.array(vocab.image_to_lm(ids))
    assert vocab.image_to_lm(in_order(ids, name, vocab)) == natural[permutation(name, 7)].tolist()
    record = {"ids.npy": npy(ids), "__key__": "0", "__url__": "x"}
    row = RowDecoder(vocab, 64, 0.0, None, 0, None, name)(record, "image_only", 0)
    assert row["ids"][2:9] == natural[permutation(name, 7)].tolist()


def npy(ids: np.ndarray) -> bytes:
    from ddt_lightning.shards.write import to_bytes

    return to_bytes("ids.npy", ids.astype(np.uint16))


def test_a_vocabulary_knows_its_order(tmp_path):
    """Ids seen in another order are another language: nothing mixes them up."""
    folder = token_shards(tmp_path / "tokens", np.arange(120).reshape(20, 6) % 24, codes=24)
    urls = [str(folder / "images-train-000000.tar")]
    for trained in ("natural", "stride-1"):
        Vocab(train_text_tokenizer(["a b"], 300), 24, 6, "fine_to_coarse", marked("abc123", trained)).save(
            tmp_path / "v"
        )
        assert load_vocab(tmp_path / "v", urls, "data.shards", trained).tokenizer == marked("abc123", trained)
        other = "natural" if trained != "natural" else "random-0"
        with pytest.raises(ValueError, match="tokenizer="):
            load_vocab(tmp_path / "v", urls, "data.shards", other)
