"""VQGAN and VAR by configuration alone: trained, continued, reconstructed, encoded, learned by a language model."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ddt_lightning import cli
from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import flat
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.write import read_tokens_json
from ddt_lightning.spatial.var import VarConfig
from ddt_lightning.spatial.vqgan import VqganConfig
from ddt_lightning.vocab import Vocab
from tests.stages.test_stages import BASE, arguments, csv_rows, failure, parse

ROOT = Path(__file__).parents[2]
KINDS = ["vqgan", "var"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def options(kind: str, run: Path) -> list[str]:
    return ["--config", f"stages/{kind}.yaml", "--config", f"tests/smoke/{kind}.yaml", "--run_dir", str(run)]


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory) -> Path:
    """A finished tiny run, in a folder named after its kind."""
    folder = tmp_path_factory.mktemp("spatial") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        cli.fit("tokenizer", options(request.param, folder))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    main(["data", "scenes", "--out", str(folder), "--images", "8", "--edits", "2", "--questions", "2", "--text", "4",
          "--side", "32", "--val", "2", "--workers", "1"])  # fmt: skip
    return folder


def test_a_stopped_run_goes_on_to_equal_weights(run, tmp_path):
    parts = tmp_path / "parts"
    cli.fit("tokenizer", [*options(run.name, parts), "--trainer.max_steps=2"])
    cli.fit("tokenizer", options(run.name, parts))
    whole, resumed = (load_file(folder / "release" / "tokenizer" / "model.safetensors") for folder in (run, parts))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    rows = csv_rows(run / "metrics.csv")
    assert all(any(row.get(f"val/{name}") for row in rows) for name in ("loss", "pixel", "psnr", "codebook_usage"))
    pictures = sorted((run / "samples").glob("*.png"))
    assert len(pictures) == 2 and Image.open(pictures[-1]).size == (5 * 16, 8 * 16)
    if run.name == "vqgan":  # whose smoke test has a discriminator
        states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["adversary"] for f in (run, parts)]
        assert states[0]["steps"] == states[1]["steps"] == 3
        assert all(torch.equal(v, states[1]["net"][name]) for name, v in states[0]["net"].items())
        assert [row["train/generator"] != "" for row in rows if row["train/loss"]] == [False, True, True, True]


def test_the_released_folder_makes_a_pipeline(run):
    pipeline = Pipeline.from_pretrained(run / "release")
    assert pipeline.tokenizer.kind == run.name and pipeline.image_size == 16
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ids = pipeline.encode(images)
    total = pipeline.tokenizer.config.tokens
    assert torch.equal(pipeline.reconstruct(images), pipeline.decode(ids, seed=9, steps=2))
    assert torch.equal(pipeline.reconstruct(images, total - 2), pipeline.decode(ids[:, :-2]))
    assert pipeline.reconstruct(images, 0).shape == images.shape
    settings = json.loads((run / "release" / "tokenizer" / "config.json").read_text())
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert settings.pop("kind") == run.name and settings == model[run.name]


def test_eval_reconstruction_writes_what_any_tokenizer_has(run, tmp_path):
    main(["eval", "reconstruction", "--model", str(run / "release"), "--out", str(tmp_path / "eval"), "--images", "4",
          "--tokens", "[2]", "--processes", "1"])  # fmt: skip
    scores = flat(tmp_path / "eval")
    total = {"vqgan": 8, "var": 6}[run.name]
    names = ("psnr", "psnr@2", f"psnr@{total}", "ssim", "codebook_usage", "codebook_perplexity")
    assert set(scores) >= {f"tokenizer/{name}" for name in names}
    assert not [name for name in scores if "noise" in name]  # of diffusion only
    model = json.loads((tmp_path / "eval" / "reconstruction.json").read_text())["tokenizer/psnr"]["settings"]
    assert model["kind"] == run.name and model["bits"] == total * 5 and model["tokens"] == total


def test_a_language_model_learns_its_ids_and_draws(run, shards, tmp_path):
    tokens = tmp_path / "tokens"
    main(["encode", "--tokenizer", str(run), "--shards", f"{shards}/images-*.tar", "--out", str(tokens),
          "--processes", "1"])  # fmt: skip
    pipeline = Pipeline.from_pretrained(run / "release")
    facts = read_tokens_json(tokens)
    assert (facts["kind"], facts["order"], facts["tokenizer"]) == (run.name, "raster", pipeline.tokenizer.fingerprint())
    records = [record for path in sorted(tokens.glob("*.tar")) for record in read_shard(str(path), {})]
    ids = np.stack([np.load(io.BytesIO(record["ids.npy"])) for record in records])
    assert ids.shape == (len(records), facts["K"]) and ids.max() < facts["codebook_size"] == 32

    lm = tmp_path / "lm"
    smoke = ["--config", BASE["pretrain"], "--config", "tests/smoke/language.yaml", "--run_dir", str(lm)]
    cli.fit("pretrain", [*smoke, f"--data.shards=[{tokens}/*.tar]", f"--data.val_shards=[{tokens}/*.tar]",
                         f"--model.codebook={run}"])  # fmt: skip
    model = shutil.copytree(lm / "release", tmp_path / "model")
    shutil.copytree(run / "release" / "tokenizer", model / "tokenizer")
    if not (model / "vocab").is_dir():
        shutil.copytree(lm / "vocab", model / "vocab")
    assert Vocab.load(model / "vocab").order == "raster"
    drawing = Pipeline.from_pretrained(model)
    whole = drawing.text_to_image(["a red circle"], chat=False, seed=3)
    assert whole.shape == (1, 3, 16, 16)
    assert torch.equal(whole, drawing.text_to_image(["a red circle"], chat=False, seed=3, steps=1))
    asked = drawing.draw_prompts(["a red circle"], chat=False)
    parts = list(drawing.stream(asked, drawing_options(), seed=3, every=2))
    assert [part.ids.shape[1] for part in parts] == list(range(2, facts["K"] + 1, 2))
    assert torch.equal(parts[-1].images, whole)


def drawing_options():
    from ddt_lightning.sampling import Sampling

    return Sampling()


def test_orders_that_do_not_fit_are_refused(run, shards, tmp_path, capsys):
    call = ["encode", "--tokenizer", str(run), "--shards", f"{shards}/images-*.tar", "--out", str(tmp_path / "x"),
            "--processes", "1", "--order", "coarse_to_fine"]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(call)
    assert left.value.code == 1 and "`--order` (coarse_to_fine)" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_overlays_keep_the_kind(kind, monkeypatch):
    config = parse("tokenizer", f"stages/{kind}.yaml", "stages/cpu2.yaml", monkeypatch=monkeypatch)
    given = {name for name in ("tokenizer", "vqgan", "var") if config.model[name] is not None}
    assert given == {kind}
    shipped = yaml.safe_load((ROOT / "stages" / f"{kind}.yaml").read_text())["model"][kind]
    cls = {"vqgan": VqganConfig, "var": VarConfig}[kind]
    assert cls.from_dict(shipped) == cls()  # what is written there are the defaults


def test_failures_name_the_options(capsys, tmp_path, run):
    both = [*options("vqgan", tmp_path / "a"), "--model.var.phis=2"]
    assert "`model.vqgan` and `model.var` are given" in failure(capsys, "tokenizer", *both)
    assert "`model.loss` is for" in failure(
        capsys, "tokenizer", *arguments("tokenizer", tmp_path / "b"), "--model.loss.lpips_weight=0.2"
    )
    warm = failure(capsys, "tokenizer", *options("var", tmp_path / "c"), "--model.var.quantizer.warmup_steps=4")
    assert "`var.quantizer.warmup_steps` (4)" in warm
    renderer = ["--config", BASE["renderer"], "--config", "tests/smoke/renderer.yaml", "--model.tokenizer", str(run)]
    message = failure(capsys, "renderer", *renderer, "--run_dir", str(tmp_path / "d"))
    assert f"'{run.name}' tokenizer, not 'ddt'" in message
