"""Sizes, start and growth of the language model, on random models and on folders that transformers saved."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from ddt_lightning.lm.llm import LlmConfig, build_llm

ROWS, VOCAB = 40, 60
SPECIAL = {"bos": 1, "eos": 2, "pad": 3}
SIZES = {
    "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
MAKERS = {
    "llama_untied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, query_pre_attn_scalar=8, sliding_window=4)),
    "gemma3_text": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, query_pre_attn_scalar=8, sliding_window=4)),
}


@pytest.fixture(params=MAKERS)
def folder(request, tmp_path):
    torch.manual_seed(0)
    MAKERS[request.param]().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(0)
    MAKERS["llama_untied"]().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_random_llama():
    config = LlmConfig(width=64, depth=3, heads=4, kv_heads=2, ffn_width=128, max_length=50, rope_theta=5000.0)
    model = build_llm(config, VOCAB, **SPECIAL)
    assert isinstance(model, LlamaForCausalLM)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (VOCAB, 64)
    assert model.config.max_position_embeddings == 50
    assert model.config.rope_parameters["rope_theta"] == 5000.0
    for ids in (model.config, model.generation_config):
        assert [ids.bos_token_id, ids.eos_token_id, ids.pad_token_id] == [1, 2, 3]
    layer = model.model.layers[1]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 320), rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(2 / (3 * 8), rel=0.05)
    logits = model(torch.randint(0, VOCAB, (4, 20))).logits
    assert logits.log_softmax(-1).std() < 1  # it starts near the uniform distribution
    assert not build_llm(LlmConfig(tie_embeddings=False), VOCAB, **SPECIAL).config.tie_word_embeddings


def test_llama_3_8b_has_its_parameters():
    config = LlmConfig(4096, 32, 32, 8, 14336, 8192, 500000.0, tie_embeddings=False)
    with torch.device("meta"):
        model = build_llm(config, 128256, **SPECIAL)
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248


def test_grown_folder(folder):
    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=folder).eval()
    assert type(model) is type(base)
    assert model.config.vocab_size == model.vocab_size == VOCAB
    ids = torch.randint(0, ROWS, (2, 9))
    logits = model(ids).logits
    assert logits.shape[-1] == VOCAB
    torch.testing.assert_close(logits[..., :ROWS], base(ids).logits)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == base.config.tie_word_embeddings
    for table, old in [
        (model.get_input_embeddings().weight, base.get_input_embeddings().weight),
        (model.get_output_embeddings().weight, base.get_output_embeddings().weight),
    ]:
        assert table[:ROWS].equal(old)
        new = table[ROWS:]
        assert new.unique(dim=0).shape[0] == VOCAB - ROWS
        assert new.std().item() == pytest.approx(old.std().item(), rel=0.3)
        assert (new.mean(0) - old.mean(0)).abs().mean() < 4 * old.std() / math.sqrt(VOCAB - ROWS)
    again = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=folder)
    assert again.get_input_embeddings().weight.equal(model.get_input_embeddings().weight)


def test_grown_folder_is_a_plain_folder(folder, tmp_path):
    model = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=folder).eval()
    model.save_pretrained(tmp_path / "grown")
    ids = torch.randint(0, VOCAB, (2, 9))
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "grown", local_files_only=True),
        build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=tmp_path / "grown", text_size=ROWS),
    ):
        torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits)
        assert loaded.config.pad_token_id == 3


def test_padding_rows_become_image_rows(llama):
    base = AutoModelForCausalLM.from_pretrained(llama)
    model = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama, text_size=ROWS - 3)
    old, new = base.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert new[: ROWS - 3].equal(old[: ROWS - 3])
    assert not new[ROWS - 3].equal(old[ROWS - 3])


def test_attention_fits_the_family(folder):
    model = build_llm(LlmConfig(dropout=0.1), VOCAB, **SPECIAL, folder=folder)
    expected = "eager" if model.config.model_type == "gemma2" else "sdpa"  # SDPA would drop Gemma 2's softcap
    assert model.config._attn_implementation == expected
    assert model.model.layers[0].self_attn.attention_dropout == 0.1


def test_folder_on_the_meta_device_reads_the_config_only(folder):
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with torch.device("meta"):
        model = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=folder)
    assert model.get_input_embeddings().weight.shape[0] == VOCAB
    assert all(p.is_meta for p in model.parameters())


def test_weights_come_in_the_default_dtype(llama):
    LlamaForCausalLM.from_pretrained(llama).bfloat16().save_pretrained(llama)
    assert build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama).dtype == torch.float32


def test_what_is_missing_is_named(llama, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.llm.*config\.json"):
        build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=tmp_path / "nothing")
    weights = llama / "model.safetensors"
    state = load_file(weights)
    dropped = {name: value for name, value in state.items() if "layers.1.mlp.up_proj" not in name}
    save_file(dropped, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.llm.*layers\.1\.mlp\.up_proj"):
        build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.llm.*safetensors"):
        build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama)


def test_what_does_not_fit_is_named(llama):
    for text_size in (ROWS + 1, ROWS // 2):
        with pytest.raises(ValueError, match=rf"model\.llm.*{ROWS} rows.*{text_size} pieces"):
            build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama, text_size=text_size)
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "gpt2"}
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.llm.*gpt2"):
        build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=llama)


@pytest.mark.parametrize(
    "wrong", [{"width": 161}, {"kv_heads": 3}, {"depth": 0}, {"dropout": 1.0}, {"heads": 4, "width": 36}]
)
def test_sizes_are_checked(wrong):
    with pytest.raises(ValueError, match=rf"model\.network\.{'width' if 'width' in wrong else next(iter(wrong))}"):
        LlmConfig(**wrong)


def test_one_batch_is_learnt():
    torch.manual_seed(0)
    model = build_llm(LlmConfig(width=32, depth=2, heads=2, kv_heads=2, ffn_width=64), VOCAB, **SPECIAL)
    ids = torch.randint(4, VOCAB, (4, 12))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
