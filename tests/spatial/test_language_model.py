"""The comparison model: the language model learns the raster ids of another tokenizer by config alone, and is exported.

The other tokenizer is a plain one: an image is a grid of patches, each the nearest of the k-means centres of patches.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy.cluster.vq import kmeans2, vq
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddt_lightning import cli
from ddt_lightning.commands.model import export, import_lm
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import train_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.write import pack_ids, read_tokens_json, write_shards, write_tokens_json
from ddt_lightning.vocab import Vocab

ROOT = Path(__file__).parents[2]
GRID, PATCH, CODES = 4, 8, 12
K = GRID * GRID
STEPS = 60


def patches(image: np.ndarray) -> np.ndarray:
    """`[K, PATCH * PATCH * 3]`, row by row."""
    cut = image.reshape(GRID, PATCH, GRID, PATCH, 3).swapaxes(1, 2)
    return cut.reshape(K, -1) / 255.0


@pytest.fixture(scope="module")
def raster(tmp_path_factory) -> Path:
    """Token shards of 48 scenes as raster ids of a k-means codebook."""
    folder = tmp_path_factory.mktemp("raster")
    images = [render(train_scene(numpy_rng("raster", n)), GRID * PATCH) for n in range(48)]
    cut = np.stack([patches(image) for image in images])
    centres, _ = kmeans2(cut.reshape(-1, cut.shape[-1]), CODES, minit="++", seed=0)
    ids = vq(cut.reshape(-1, cut.shape[-1]), centres)[0].reshape(48, K)
    samples = [{"__key__": f"{n:03d}", "ids.npy": pack_ids(ids[n], CODES), "txt": f"scene {n % 4}"} for n in range(48)]
    write_shards(folder, "images", samples, 12)
    write_tokens_json(
        folder, tokenizer="k" * 16, K=K, codebook_size=CODES, order="raster", transform="32 px", source="scenes",
        kind="vqgan",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(raster, tmp_path_factory) -> Path:
    """A pretrain run: the stage's YAML, the smoke sizes, and the shards."""
    folder = tmp_path_factory.mktemp("run") / "run"
    base = yaml.safe_load((ROOT / "stages" / "pretrain.yaml").read_text())
    smoke = yaml.safe_load((ROOT / "tests" / "smoke" / "language.yaml").read_text())
    assert "order" not in str(base) and "order" not in str(smoke)
    args = ["--config", str(ROOT / "stages/pretrain.yaml"), "--config", str(ROOT / "tests/smoke/language.yaml")]
    args += [f"--data.shards=[{raster}/*.tar]", f"--data.val_shards=[{raster}/*.tar]", "--run_dir", str(folder)]
    args += [f"--trainer.max_steps={STEPS}", "--checkpoint.every_n_train_steps=15", "--trainer.val_check_interval=15"]
    cli.fit("pretrain", [*args, f"--model.optim.total_steps={STEPS}", "--model.optim.lr=0.01"])
    return folder


def test_raster_ids_train_by_config_alone(run):
    vocab = Vocab.load(run / "release" / "vocab")
    assert (vocab.order, vocab.image_tokens, vocab.codebook_size, vocab.tokenizer) == ("raster", K, CODES, "k" * 16)
    with open(run / "metrics.csv") as file:
        losses = [float(row["val/image_loss"]) for row in csv.DictReader(file) if row.get("val/image_loss")]
    assert losses[-1] < 0.8 * np.log(CODES) and losses[-1] < losses[0]


def test_its_ids_are_exported_and_come_back(run, tmp_path):
    export(str(run), str(tmp_path / "plain"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    tok = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert model.config.ddt["order"] == "raster" and len(tok) == model.config.vocab_size
    codes = [code % CODES for code in range(K)]
    ids = torch.tensor([Vocab.load(run / "release" / "vocab").t2i("scene 1", codes)[0]])
    live = AutoModelForCausalLM.from_pretrained(run / "release" / "lm").eval()
    assert torch.equal(model(ids).logits, live(ids).logits)
    import_lm(str(tmp_path / "plain"), str(tmp_path / "back"))
    assert Vocab.load(tmp_path / "back" / "vocab").order == "raster"


def test_an_exported_folder_starts_a_run(run, raster, tmp_path):
    """`init_from` a plain folder: with next to no learning rate its weights come out again; other ids are refused."""
    export(str(run), str(tmp_path / "plain"))
    args = ["--config", str(ROOT / "stages/pretrain.yaml"), "--config", str(ROOT / "tests/smoke/language.yaml")]
    args += [f"--data.shards=[{raster}/*.tar]", "--init_from", str(tmp_path / "plain"), "--trainer.max_steps=1"]
    args += ["--model.optim.lr=1e-30", "--model.optim.matrix_lr=1e-30", f"--data.vocab={run}/vocab"]
    cli.fit("pretrain", [*args, "--run_dir", str(tmp_path / "next")])
    first = load_file(run / "release" / "lm" / "model.safetensors")
    second = load_file(tmp_path / "next" / "release" / "lm" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-20) for name in first)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    config["ddt"]["tokenizer"] = "0" * 16
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="tokenizer=0000"):
        cli.fit("pretrain", [*args, "--run_dir", str(tmp_path / "other")])


def test_order_and_kind_are_checked(raster, tmp_path):
    fields = {"tokenizer": "a", "K": K, "codebook_size": CODES, "transform": "", "source": ""}
    with pytest.raises(ValueError, match=r"`order` \(raster\).*kind=ddt"):
        write_tokens_json(tmp_path, **fields, order="raster")
    assert read_tokens_json(raster)["kind"] == "vqgan"
    write_tokens_json(tmp_path, **fields, order="fine_to_coarse")
    old = json.loads((tmp_path / "tokens.json").read_text())
    del old["kind"]  # as written before there were kinds
    (tmp_path / "tokens.json").write_text(json.dumps(old))
    assert read_tokens_json(tmp_path)["kind"] == "ddt"
