"""Sentence vectors against the network called by hand; real weights tell captions of one photo from others."""

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from ddt_lightning.metrics.sentences import Sentences


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "runs", "sleeps"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    return str(tmp_path)


def test_vectors_are_means_over_words(folder):
    judge = Sentences(folder)
    texts = ["a dog runs", "a cat"]
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    known = torch.stack([one / one.norm() for one in alone])
    assert torch.allclose(judge(texts), known, atol=1e-5)
    assert judge.similarity(["a dog runs"], [["a dog runs", "a cat"]]) == [
        pytest.approx((1 + float(known[0] @ known[1])) / 2, abs=1e-5)
    ]


def test_real_weights_know_paraphrases(ddt_judges):
    if not (ddt_judges / "minilm").is_dir():
        pytest.skip("DDT_JUDGES has no minilm; `make judges` fetches it")
    judge = Sentences(str(ddt_judges / "minilm"))
    same, other = judge.similarity(["A dog runs over grass"] * 2, [["A puppy is running on the lawn"], ["Two boats"]])
    assert same > 0.6 > 0.3 > other
