"""The scaling study on the smallest real runs: which weights are scored, and what they are said to have cost."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ddt_lightning.cli import main
from ddt_lightning.plans import chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.studies import scaling as study_of
from ddt_lightning.studies import scaling_figures
from ddt_lightning.studies.scaling import Point, law
from tests.inprocess import TINY_LM, read_study, run_here, token_shards
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder: Path, **changed) -> str:
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 4,
        "percents": [50, 100],
        "tokenizer": f"{folder}/tokenizer",
        "sizes": {"small": {}, "large": {"model": {"network": {"width": 48, "depth": 3}}}},
        "evaluation": {"processes": 1, "steps": 1},
        "settings": {
            "trainer": {"limit_val_batches": 1.0},
            "data": {"shards": [f"{folder}/ids/images-train-*.tar"], "val_shards": [f"{folder}/ids/images-val-*.tar"],
                     "text_vocab_size": 300, "packing": False},
        },
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    ids = np.random.default_rng(0).integers(0, 24, (48, 6))
    token_shards(folder / "ids", ids, codes=24, tokenizer=tokenizer.fingerprint())
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["study", "scaling", "--config", write(folder), "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def test_each_point_is_its_own_checkpoint(done):
    out = done / "out"
    points = read_study("scaling", done / "study.yaml").collect(out)
    assert [(one.size, one.percent) for one in points] == [(s, p) for s in ("small", "large") for p in (50, 100)]
    for one in points:
        folder = out / "runs" / one.size / "seed-0"
        weights = load_file(folder / f"at-{one.percent}" / "release" / "lm" / "model.safetensors")
        step = 4 * one.percent // 100
        saved = torch.load(folder / "run" / "checkpoints" / f"step-{step}.ckpt", weights_only=True)
        assert saved["global_step"] == step
        assert all((saved["state_dict"][f"llm.{name}"] == value).all() for name, value in weights.items())
        model = AutoModelForCausalLM.from_pretrained(folder / f"at-{one.percent}" / "release" / "lm")
        assert one.parameters == model.num_parameters(exclude_embeddings=True)
        assert one.ids == pytest.approx(step * 8 * 0.9 * 6, abs=1) and one.score is None
    small = [load_file(out / "runs/small/seed-0" / at / "release/lm/model.safetensors") for at in ("at-50", "at-100")]
    assert any((small[0][name] != small[1][name]).any() for name in small[0])
    logged = json.loads((out / "findings.json").read_text())["numbers"]["points"]
    assert [one["image_loss"] for one in logged] == [one.image_loss for one in points]
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 4 * 112 and grid.width > 6 * 112  # four checkpoints, a prompt of each tag
    assert "shapes-GenEval" in (out / "study.md").read_text() and (out / "study.png").is_file()


def test_a_finished_study_runs_nothing(done, monkeypatch):
    started = []
    monkeypatch.setattr(chains, "running", lambda step, record, log: started.append(step.name))
    study = read_study("scaling", done / "study.yaml")
    assert chains.run_chains(study.plan(done / "out"), done / "out") == {} and started == []


def test_drawings_alone_depend_on_the_renderer(done, tmp_path):
    study, out = read_study("scaling", done / "study.yaml"), done / "out"
    weights = tmp_path / "renderer" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    config = weights.with_name("config.json")
    config.write_text('{"tokenizer": "another"}')
    with pytest.raises(ValueError, match="renders the ids of tokenizer another"):
        replace(study, renderer=f"{tmp_path}/renderer").plan(out)
    config.write_text(json.dumps({"tokenizer": tiny_tokenizer().fingerprint()}))
    plain, drawn = (replace(study, renderer=one).plan(out) for one in (None, f"{tmp_path}/renderer"))
    for run, other in zip(plain, drawn, strict=True):
        steps = zip(run.steps, fingerprints(run), other.steps, fingerprints(other), strict=True)
        for step, mark, again, new in steps:
            assert ("--renderer" in again.commands[0]) == ("draw" in step.name) == (mark != new)


def test_report_shows_the_study(done, capsys):
    main(["report", str(done / "out")])
    text = Path(capsys.readouterr().out.strip()).read_text()
    assert study_of.PLAIN in text and text.count("data:image/png") == 2


def test_law_of_the_points():
    points = [Point("x", 0, 50, n, d, 1.0, 9.0 * n**-0.1 * d**-0.2, None, None) for n in (100, 300) for d in (50, 100)]
    found = law(points)
    assert found is not None and found.exponents == pytest.approx({"parameters": 0.1, "image ids": 0.2})
    assert law(points[:2]) is None


def test_errors_name_what_is_wrong(done, tmp_path):
    for changed, message in (
        ({"sizes": {"a": {}}}, "at least two sizes"),
        ({"percents": [50]}, "`percents`"),
        ({"percents": [100, 50]}, "`percents`"),
        ({"percents": [30, 100]}, "whole numbers"),
        ({"tokenizer": None, "score": True}, "`tokenizer`"),
        ({"tokenizer": None, "renderer": "runs/renderer"}, "`renderer`"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study("scaling", write(tmp_path, **changed))
    study = read_study("scaling", write(tmp_path, settings={}))
    with pytest.raises(ValueError, match=r"settings\.data\.shards"):
        study.plan(tmp_path)


def test_the_shipped_study_is_made_of_runs(done, tmp_path):
    study = read_study("scaling", "stages/study-scaling.yaml")
    assert study.percents == [50, 75, 100] and len(study.sizes) == 3
    ours = read_study("scaling", done / "study.yaml")
    data = {**study.settings["data"], **{name: ours.settings["data"][name] for name in ("shards", "val_shards")}}
    study = replace(study, tokenizer=ours.tokenizer, renderer=None, settings={**study.settings, "data": data})
    for run in study.plan(tmp_path)[:3]:
        for step in run.steps:
            chains.check(step, run.name)


def test_scores_of_seeds_stand_beside_the_losses(done, tmp_path):
    study = read_study("scaling", done / "study.yaml")
    points = [Point("small", seed, 100, 160_192, 2_211_840, 2.0, 2.5, *scores)
              for seed, scores in enumerate(((0.1, 0.6), (0.3, 0.8)))]  # fmt: skip
    table = study.findings(points, {}).tables[0]
    (row,) = table.rows
    shown = dict(zip(table.head, row, strict=False))
    assert shown["colour and layout"] == "0.700" and shown["shapes-GenEval"] == "0.200"
    sizes = []
    for one in (points, [replace(one, score=None, layout=None) for one in points]):
        scaling_figures.draw(study, one, tmp_path)
        with Image.open(tmp_path / "study.png") as picture:
            sizes.append(picture.width)
    assert sizes[0] == pytest.approx(1.5 * sizes[1], abs=2)  # a third panel


def test_counts_and_prompts_on_the_pictures():
    assert [scaling_figures.short(n) for n in (5, 160_192, 480_096, 1_105_920, 8 * 10**9)] == [
        "5", "160k", "480k", "1.11M", "8.00B",
    ]  # fmt: skip
    assert scaling_figures.title("two_object", "a photo of a circle and a star").split("\n") == [
        "TWO OBJECT", "a photo of a", "circle and a star",
    ]  # fmt: skip
