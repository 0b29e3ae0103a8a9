"""Configurations of one large GPU: their sizes by arithmetic; and where there is one, steps, a stop, and the rest."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ddt_lightning import cli
from ddt_lightning.cost.budget import GIB, needed
from ddt_lightning.cost.settings import read_settings
from ddt_lightning.cost.trial import measure
from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.shards.write import pack_ids, write_shards, write_tokens_json
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.training.optim import OptimConfig

ROOT = Path(__file__).parents[2]
SETS = ("scenes128", "photos64")
NAMES = [f"{part}-{name}" for name in SETS for part in ("tok", "renderer", "pretrain")] + ["instruct-scenes128"]
STAGES = {"tok": "tokenizer"}
SMALLEST = 80  # GB of memory: an H100


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "stages" / "gpu" / f"{name}.yaml").read_text())


def stated(name: str) -> int:
    """Millions of parameters that the first lines of a configuration name."""
    text = (ROOT / "stages" / "gpu" / f"{name}.yaml").read_text()
    return int(re.search(r"(\d+) M parameters", text.split("run_dir")[0]).group(1))


def trained(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def on_meta(name: str) -> Tokenizer:
    with torch.device("meta"):
        return Tokenizer(TokenizerConfig.from_dict(settings(f"tok-{name}")["model"]["tokenizer"]))


@pytest.mark.parametrize("name", [pytest.param(SETS[0], marks=pytest.mark.slow), *SETS[1:]])
def test_tokenizers_and_renderers_have_the_stated_sizes_and_fit(name):
    tokenizer = on_meta(name)
    with torch.device("meta"):
        renderer = Renderer(RendererConfig(**settings(f"renderer-{name}")["model"]["renderer"]), tokenizer)
    assert stated(f"tok-{name}") == round(trained(tokenizer) / 1e6)
    assert stated(f"renderer-{name}") == round(trained(renderer) / 1e6)
    values = settings(f"tok-{name}")
    run = read_settings(values, 1)
    cost = measure(run, [run.items])[0]
    assert cost.parameters == trained(tokenizer)
    assert values["data"]["image_size"] == values["model"]["tokenizer"]["latent_size"]
    assert settings(f"renderer-{name}")["data"]["image_size"] == values["data"]["image_size"]
    assert 0.125 * SMALLEST * GIB < needed(cost.peak) < 0.75 * SMALLEST * 1e9


@pytest.mark.parametrize("name", ["pretrain-scenes128", "instruct-scenes128", "pretrain-photos64"])
def test_language_models_have_the_stated_sizes(name):
    values = settings(name)
    network, data = LlmConfig(**values["model"]["network"]), values["data"]
    with torch.device("meta"):
        model = build_llm(network, 100, 0, 1, 2)
    width, head = network.width, network.width // network.heads
    attention = 2 * width * width + 2 * width * network.kv_heads * head
    layers = network.depth * (attention + 3 * width * network.ffn_width + 2 * width) + width
    assert trained(model) == layers + 100 * width
    assert stated(name) == round(layers / 1e6)
    ids = settings("tok-" + name.partition("-")[2])["model"]["tokenizer"]["tokens"]
    images = 2 if name.startswith("instruct") else 1  # an edit has two
    assert network.max_length >= data["max_length"] >= images * (ids + 2) + 100
    assert data["row_length"] >= data["max_length"]


@pytest.mark.parametrize("name", NAMES)
def test_calls_of_ten_minutes_leave_a_checkpoint(name):
    values = settings(name)
    assert 8 <= values["call_minutes"] < 10
    assert values["checkpoint"]["every_n_train_steps"] <= values["trainer"]["max_steps"] / 4
    optim = OptimConfig(**values["model"]["optim"])
    assert optim.fused and optim.orthogonalise_in == "bfloat16" and values["trainer"]["precision"] == "bf16-mixed"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Photos of noise, and token shards of 128 random ids of 4,096 codes with captions, edits and questions."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)

    def png() -> bytes:
        data = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(data, "PNG")
        return data.getvalue()

    def ids(*shape: int) -> np.ndarray:
        return pack_ids(rng.integers(4096, size=shape), 4096)

    def talk(*answer: object) -> dict[str, Any]:
        asked = {"role": "user", "content": [{"image": 0}, "make it red"]}
        return {"turns": [asked, {"role": "assistant", "content": list(answer)}]}

    def write(name: str, count: int, make) -> None:
        write_shards(folder, name, [{"__key__": f"{n:06d}", **make(n)} for n in range(count)], count)

    write("photos", 64, lambda n: {"png": png()})
    write("images", 64, lambda n: {"ids.npy": ids(128), "txt": f"a photo of {n} circles"})
    write("edits", 32, lambda n: {"ids.npy": ids(2, 128), "json": talk({"image": 1})})
    write("questions", 32, lambda n: {"ids.npy": ids(1, 128), "json": talk("red")})
    fields = {"order": "fine_to_coarse", "transform": "none", "source": "test"}
    write_tokens_json(folder, tokenizer="t" * 16, K=128, codebook_size=4096, **fields)
    return folder


def few_steps(name: str, shards: Path, folder: Path, more: list[str]) -> None:
    """Four steps of a configuration; again with a stop after the first; the losses after it are the same.

    What the stage builds on is trained first, for as long.
    """
    part, _, photos = name.partition("-")
    if part in ("renderer", "instruct"):
        few_steps(f"{'tok' if part == 'renderer' else 'pretrain'}-{photos}", shards, folder, more)
    args = ["--config", f"stages/gpu/{name}.yaml", "--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    args += ["--trainer.log_every_n_steps=1", "--model.optim.total_steps=400", "--data.batch_size=16", *more]
    if part == "tok":
        args += ["--model.tokenizer.quantizer.warmup_steps=1"]
    if part in ("tok", "renderer") and photos == "photos64":
        args += [f"--data.shards=[{shards}/photos-*.tar]", "--data.val_shards=null"]
    if part == "renderer":
        args += ["--model.tokenizer", str(folder / f"tok-{photos}")]
    if part == "pretrain":
        args += [f"--data.shards=[{shards}/images-*.tar]", "--data.val_shards=null"]
        args += ["--data.text_shards=null", "--data.texts=null"]
    if part == "instruct":
        kinds = ("images", "edits", "questions")
        args += [f"--data.{kind}=[{shards}/{kind}-*.tar]" for kind in kinds]
        args += [f"--data.val_{kind}=null" for kind in kinds]
        before = folder / f"pretrain-{photos}"
        args += ["--init_from", str(before), "--data.vocab", str(before / "vocab")]
    stage = STAGES.get(part, part)
    whole, parts = folder / name, folder / f"{name}-parts"
    cli.fit(stage, [*args, "--run_dir", str(whole), "--call_minutes=null"])  # the clock is that of all tests
    with pytest.raises(SystemExit) as left:
        cli.fit(stage, [*args, "--run_dir", str(parts), "--call_minutes=1e-6"])
    assert left.value.code == 138
    cli.fit(stage, [*args, "--run_dir", str(parts), "--call_minutes=null"])
    first, second = losses(whole), losses(parts)
    assert sorted(first) == [0, 1, 2, 3] and sorted(second) == [1, 2, 3]
    # sums over a GPU's threads have no fixed order
    assert [second[step] for step in (1, 2, 3)] == pytest.approx([first[step] for step in (1, 2, 3)], rel=2e-3)
    assert (parts / "release").is_dir()


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.startswith("tok") and name != "pretrain-scenes128"]
)
def test_a_stopped_run_goes_on_as_an_uninterrupted_one(name, shards, tmp_path, monkeypatch):
    """Tokenizers and the pretrained model are trained on the way."""
    monkeypatch.chdir(ROOT)
    few_steps(name, shards, tmp_path, [])


@pytest.mark.gpu
@pytest.mark.parametrize("name", [f"tok-{name}" for name in SETS])
def test_a_full_batch_fits_and_compiles(name, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    more = [f"--data.shards=[{shards}/photos-*.tar]", "--data.val_shards=null"] if name == "tok-photos64" else []
    args = ["--config", f"stages/gpu/{name}.yaml", "--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
    args += ["--model.tokenizer.quantizer.warmup_steps=1", "--model.compile=true", "--call_minutes=null", *more]
    torch.cuda.reset_peak_memory_stats()
    trainer = cli.fit("tokenizer", [*args, "--run_dir", str(tmp_path)])
    assert trainer.global_step == 3
    assert torch.cuda.max_memory_allocated() < 0.9 * SMALLEST * 1e9
