"""Log-probabilities of images and words against the plain forward of transformers' model."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ddt_lightning.lm.likelihood import likelihoods, word_likelihoods
from ddt_lightning.lm.llama import Llama
from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.lm.load import load_language_model

START, SIZE, TEXT = 40, 16, 30
PROMPTS = [[0, 5, 7, 38], [0, 9, 38], [0, 11, 12, 13, 14, 15, 38]]
IMAGE = [44, 41, 55, 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlmConfig(width=32, depth=2, heads=4, kv_heads=2, ffn_width=48, max_length=32)
    build_llm(config, 60, bos=0, eos=1, pad=2).save_pretrained(tmp_path_factory.mktemp("lm"))
    return tmp_path_factory.getbasetemp() / "lm0"


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(params=["ours", "transformers"])
def model(request, folder, theirs):
    ours = load_language_model(folder)
    assert isinstance(ours, Llama)
    return ours if request.param == "ours" else theirs


@torch.no_grad()
def test_image_behind_each_prompt_is_judged_as_if_alone(model, theirs):
    found = likelihoods(model, PROMPTS, [IMAGE] * 3, start=START, size=SIZE, pad=2)
    for prompt, value in zip(PROMPTS, found, strict=True):
        logits = theirs(input_ids=torch.tensor([prompt + IMAGE])).logits[0, len(prompt) - 1 : -1]
        logs = logits[:, START : START + SIZE].log_softmax(-1)
        wanted = sum(logs[place, i - START] for place, i in enumerate(IMAGE))
        assert value == pytest.approx(float(wanted), abs=1e-4)


def test_texts_of_different_lengths_are_judged_by_the_words_before_each(model):
    texts = [[7, 8, 9], [3], [4, 5]]
    found = likelihoods(model, PROMPTS, texts, start=0, size=TEXT, pad=2)
    for prompt, text, value in zip(PROMPTS, texts, found, strict=True):
        logs = word_likelihoods(model, prompt, text, text_size=TEXT)
        assert value == pytest.approx(float(logs[torch.arange(len(text)), text].sum()), abs=1e-4)


def test_images_possible_behind_a_prompt_have_a_total_probability_of_one(model):
    pairs = [[a, b] for a in range(START, START + SIZE) for b in range(START, START + SIZE)]
    logs = likelihoods(model, PROMPTS[:1] * len(pairs), pairs, start=START, size=SIZE, pad=2)
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_many_prompts_are_read_in_parts(model, monkeypatch):
    measure = partial(likelihoods, model, PROMPTS, [IMAGE, IMAGE[::-1], IMAGE], start=START, size=SIZE, pad=2)
    whole = measure()
    monkeypatch.setattr("ddt_lightning.lm.likelihood.ROWS", 2)
    assert torch.allclose(measure(), whole, atol=1e-4)


@torch.no_grad()
def test_each_word_is_predicted_from_those_before_it(model, theirs):
    prompt, words = [0, 5, 38, 44, 41], [7, 8, 9]
    found = word_likelihoods(model, prompt, words, text_size=TEXT)
    wanted = theirs(input_ids=torch.tensor([prompt + words])).logits[0, len(prompt) - 1 : -1, :TEXT].log_softmax(-1)
    assert found.shape == (3, TEXT) and torch.allclose(found, wanted, atol=1e-4)
