"""Paper-scale configurations: built without memory, their parameters counted; and the packing of ImageNet."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.training.optim import OptimConfig, build_optimizer

ROOT = Path(__file__).parents[2]


def model_of(name: str) -> tuple[Tokenizer, OptimConfig]:
    """The tokenizer of a configuration, on the meta device, and its optimiser's settings."""
    model = yaml.safe_load((ROOT / "stages" / "paper" / f"{name}.yaml").read_text())["model"]
    with torch.device("meta"):
        tokenizer = Tokenizer(TokenizerConfig.from_dict(model["tokenizer"]))
    return tokenizer, OptimConfig(**model["optim"])


def count(*parts: torch.nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


@pytest.mark.parametrize(("name", "tokens"), [("tok-selftok512", 512), ("tok-selftok1024", 1024), ("tok-ddt", 480)])
def test_sizes(name, tokens):
    tokenizer, _ = model_of(name)
    config = tokenizer.config
    assert config.tokens == tokens
    # the published counts for 512 tokens; the query tokens are all that grows with their number
    encoder = count(tokenizer.encoder, tokenizer.quantizer, tokenizer.token_norm)
    assert encoder == 84_063_344 + (tokens - 512) * config.encoder.query_width
    assert count(tokenizer.decoder) == 2_079_931_456
    assert tokenizer.quantizer.codebook.shape == (65536 if name == "tok-ddt" else 32768, 16)


def test_pretrained_parts_learn_slowly():
    tokenizer, optim = model_of("tok-selftok512")
    assert set(optim.lrs.values()) == {1e-5}
    groups = build_optimizer(tokenizer, optim, 100)["optimizer"].param_groups
    sizes = {}
    for group in groups:
        sizes[group["initial_lr"]] = sizes.get(group["initial_lr"], 0) + sum(p.numel() for p in group["params"])
    # 24 blocks of the image stream and the patch embedding: attention, MLP, modulation
    width = 1536
    attention, mlp, modulation = 4 * (width**2 + width), 8 * width**2 + 5 * width, 6 * width**2 + 6 * width
    assert sizes[1e-5] == 24 * (attention + mlp + modulation) + 64 * width + width
    assert set(sizes) == {1e-5, 5e-5}


@pytest.mark.parametrize(("llm", "parameters"), [("llama3-8b", 8_030_261_248), ("gemma2-2b", 2_614_341_888)])
def test_language_models(llm, parameters):
    folder = ROOT / "stages" / "paper" / llm
    config = json.loads((folder / "config.json").read_text())
    text, codes, tokens = config["vocab_size"], 65536, 480
    for vocab_size in (text, text + codes + 2):
        with torch.device("meta"):
            model = build_llm(LlmConfig(), vocab_size, 1, 2, 3, folder=folder, text_size=text)
        tables = 1 if config["tie_word_embeddings"] else 2
        assert count(model) == parameters + tables * (vocab_size - text) * config["hidden_size"]
    for stage in ("pretrain", "instruct"):
        settings = yaml.safe_load((ROOT / "stages" / "paper" / f"{stage}-{llm}.yaml").read_text())
        data, choice = settings["data"], OptimConfig(**settings["model"]["optim"])
        assert sum(len(g["params"]) for g in build_optimizer(model, choice, 10)["optimizer"].param_groups) == len(
            list(model.parameters())
        )
        assert data["row_length"] >= data["max_length"] >= tokens + 4
        if stage == "pretrain":
            assert data["text_only"] == pytest.approx(0.1 * (data["t2i"] + data["i2t"] + data["text_only"]))


def test_imagenet_is_packed_by_class(tmp_path):
    for number, name in enumerate(("n2", "n1")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (100 * number, 10 * i, 0)).save(tmp_path / "in" / name / f"{i}.JPEG", "JPEG")
    (tmp_path / "classes.json").write_text(json.dumps({"n1": "tench"}))
    command = [sys.executable, str(ROOT / "data" / "imagenet.py"), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    command += ["--classes", str(tmp_path / "classes.json"), "--per_shard", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "6 images of 2 classes in 2 shards" in done.stdout
    members = {}
    for shard in sorted((tmp_path / "out").glob("imagenet-train-*.tar")):
        with tarfile.open(shard) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    texts = [members[name].decode() for name in sorted(members) if name.endswith(".txt")]
    labels = [int(members[name]) for name in sorted(members) if name.endswith(".cls")]
    assert sorted(texts) == ["n2"] * 3 + ["tench"] * 3
    assert [text == "tench" for text in texts] == [label == 0 for label in labels]
    original = (tmp_path / "in" / "n1" / "0.JPEG").read_bytes()
    assert original in [value for name, value in members.items() if name.endswith(".jpg")]
    empty = subprocess.run(
        [*command[:2], str(tmp_path), "--out", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert empty.returncode == 2 and "no subfolders with images" in empty.stderr
