"""Adapters against peft's own merge, their start, and frozen text rows over steps of a real run."""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from ddt_lightning.lm.lora import LoraConfig, add_lora, base_name, merged, reader
from ddt_lightning.vocab import Vocab
from tests.lm.test_llm import MAKERS
from tests.stages.test_stages import arguments, cli, csv_rows, pretrained, weights, world  # noqa: F401 - fixtures

IDS = torch.arange(4, 40)[None]


@pytest.fixture(params=["llama_untied", "gemma2"])
def model(request):
    torch.manual_seed(0)
    return MAKERS[request.param]().eval()


def test_a_new_adapter_changes_nothing_and_a_merge_is_peft_s(model):
    config = LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "down_proj"))
    plain_names, before = set(model.state_dict()), model(IDS).logits
    add_lora(model, config)
    torch.testing.assert_close(model(IDS).logits, before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2 and all(base_name(name) is None for name in trained)
    for name, parameter in model.named_parameters():
        if name in trained:
            torch.nn.init.normal_(parameter, std=0.1)
    state = merged(model.state_dict(), config)
    assert set(state) == plain_names
    adapted = model(IDS).logits
    assert not adapted.allclose(before)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module.merge()
            torch.testing.assert_close(state[f"{name}.weight"], module.base_layer.weight)
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(IDS).logits, adapted, rtol=1e-4, atol=1e-4)


def test_the_reader_gives_what_a_whole_model_starts_with(model):
    base = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, LoraConfig(rank=4, tables=True))
    assert model.get_input_embeddings().weight.requires_grad
    read = reader(model, lambda name, start, end: base[name][start:end])
    for name, parameter in model.named_parameters():
        assert read(name, 1, 3).equal(parameter[1:3]), name


def test_settings_are_checked(model):
    with pytest.raises(ValueError, match=r"model\.lora\.targets.*c_attn"):
        add_lora(model, LoraConfig(targets=("c_attn",)))
    with pytest.raises(ValueError, match=r"model\.lora\.rank` \(0\)"):
        LoraConfig(rank=0)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def test_adapters_train_resume_and_are_released_merged(tmp_path, world, pretrained):  # noqa: F811
    lora = ["--model.lora.rank=4", "--model.optim.lr=1e-2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cli.fit("instruct", [*arguments("instruct", whole, world, pretrained), *lora])
    cli.fit("instruct", [*arguments("instruct", parts, world, pretrained), *lora, "--trainer.max_steps=2"])
    cli.fit("instruct", [*arguments("instruct", parts, world, pretrained), *lora])
    before, after, same = weights(pretrained, "pretrain"), weights(whole, "instruct"), weights(parts, "instruct")
    assert before.keys() == after.keys() == same.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    assert all(after[name].equal(same[name]) for name in after)


def test_frozen_text_rows_stay_and_others_learn(tmp_path, world, pretrained):  # noqa: F811
    frozen = ["--model.freeze_text_embeddings=true", "--model.optim.weight_decay=0.5", "--model.optim.lr=1e-2"]
    cli.fit("instruct", [*arguments("instruct", tmp_path / "run", world, pretrained), *frozen])
    text_size = Vocab.load(pretrained / "vocab").text_size
    name = "model.embed_tokens.weight"  # tied: the head is the same matrix
    before, after = weights(pretrained, "pretrain"), weights(tmp_path / "run", "instruct")
    assert "lm_head.weight" not in before
    assert after[name][:text_size].equal(before[name][:text_size])
    assert not after[name][text_size:].allclose(before[name][text_size:])
    assert load_file(tmp_path / "run" / "release" / "lm" / "model.safetensors").keys() == before.keys()
    assert len(csv_rows(tmp_path / "run" / "metrics.csv"))
