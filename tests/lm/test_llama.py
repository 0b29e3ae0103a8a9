"""The Llama that reads and writes against transformers' model of the same files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from ddt_lightning.lm.generate import text_ids
from ddt_lightning.lm.llama import Llama, is_plain
from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.lm.load import load_language_model
from ddt_lightning.tokens.base import weights_hash
from tests.tiny import image_ids

ROWS = 60


@pytest.fixture(scope="module", params=["tied", "untied", "shared keys"])
def folder(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("lm")
    config = LlmConfig(
        width=32, depth=3, heads=4, kv_heads=2 if request.param == "shared keys" else 4, ffn_width=48, max_length=64,
        rope_theta=500.0, tie_embeddings=request.param == "tied",
    )  # fmt: skip
    build_llm(config, ROWS, bos=0, eos=1, pad=2).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Llama, LlamaForCausalLM]:
    ours = load_language_model(folder)
    assert isinstance(ours, Llama) and not ours.training
    return ours, AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def test_weights_have_the_names_and_the_hash(pair):
    ours, theirs = pair
    state, expected = ours.state_dict(), theirs.state_dict()
    assert set(state) == set(expected) and all(torch.equal(state[name], expected[name]) for name in state)
    assert weights_hash(ours) == weights_hash(theirs)
    tied = theirs.config.tie_word_embeddings
    assert (ours.lm_head.weight is ours.get_input_embeddings().weight) == tied


@torch.no_grad()
def test_logits_keys_and_values_are_those_of_transformers(pair):
    ours, theirs = pair
    ids = torch.randint(ROWS, (3, 17), generator=torch.Generator().manual_seed(1))
    padding, index = torch.tensor([0, 5, 9]), torch.arange(17)
    allowed = (index <= index[:, None]) & (index >= padding[:, None, None, None]) | (index == index[:, None])
    positions = (index - padding[:, None]).clamp(min=0)
    logits, cache = ours.read(ids, allowed, positions)
    expected = DynamicCache()
    wanted = theirs(input_ids=ids, attention_mask=allowed, position_ids=positions, past_key_values=expected).logits
    assert torch.allclose(logits, wanted[:, -1], atol=1e-5)
    assert cache.get_seq_length() == expected.get_seq_length() == 17
    for found, other in zip(cache.layers, expected.layers, strict=True):
        assert torch.allclose(found.keys, other.keys, atol=1e-5)
        assert torch.allclose(found.values, other.values, atol=1e-5)


def test_drawing_and_writing_are_the_same(pair):
    prompts = [[0, 5, 6, 58], [0, 7, 58], [0, 58]]
    drawn = [
        image_ids(model, prompts, unconditional=[[0, 58]] * 3, start=20, codebook_size=30, length=12, guidance=2.0,
                  seeds=[1, 2, 3], pad=2)
        for model in pair
    ]  # fmt: skip
    assert torch.equal(*drawn)
    written = [text_ids(model, prompts, text_size=20, eos=1, pad=2, max_new_tokens=9) for model in pair]
    assert written[0] == written[1]


def test_weights_in_half_precision_are_read_in_the_dtype_of_the_config(folder, tmp_path):
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path / "half")
    assert load_language_model(tmp_path / "half").dtype == torch.bfloat16
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    (tmp_path / "half" / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    wide = load_language_model(tmp_path / "half")
    assert wide.dtype == torch.float32 and torch.equal(wide.lm_head.weight.bfloat16(), theirs.lm_head.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gemma2"},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0}},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_variants_are_left_to_transformers(folder, change):
    config = json.loads((folder / "config.json").read_text())
    assert is_plain(config) and not is_plain({**config, **change})


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"(?s)do not fit .*layers\.3"):
        load_language_model(tmp_path / "lm")
