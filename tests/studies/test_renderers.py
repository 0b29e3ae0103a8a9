"""`ddt study renderers`: runs of one tokenizer's one-step decoder, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml

from ddt_lightning.plans import chains
from ddt_lightning.studies.base import run_study
from tests.inprocess import read_study, run_here
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def study(folder: Path, **changed):
    settings = {
        "title": "small",
        "configs": ["stages/renderer.yaml", "tests/smoke/renderer.yaml"],
        "tokenizer": str(folder / "tokenizer"),
        "steps": 2,
        "settings": {"trainer": {"callbacks": []}, "model": {"loss": {"gan_from": None}}},
        "evaluation": {"images": 3, "processes": 1},
        "axes": {"patches": {"plain": {}, "smooth": {"model": {"renderer": {"smooth": 4}}}}},
        **changed,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return read_study("renderers", folder / "study.yaml")


def test_variants_are_trained_for_one_tokenizer_and_compared(tmp_path, monkeypatch):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setattr(chains, "running", run_here)
    out = tmp_path / "out"
    asked = study(tmp_path)
    run_study(asked, str(out), plan=False)
    plain, smooth = asked.collect(out)
    assert plain.weights == smooth.weights  # of the tokenizer
    configs = [
        json.loads((out / "runs" / name / "seed-0" / "release" / "renderer" / "config.json").read_text())
        for name in ("reference", "patches-smooth")
    ]
    assert [config["smooth"] for config in configs] == [0, 4]
    table = (out / "study.md").read_text()
    assert "| plain " in table and "| smooth " in table
    assert all(f"{one.value('tokenizer/seams'):+.2f}" in table for one in (plain, smooth))
    assert "| LPIPS" not in table and (out / "pictures.png").stat().st_size > 1000
    marks = [step.inputs for run in asked.plan(out) for step in run.steps]
    assert marks[0] and marks[0] == marks[2]


def test_a_missing_tokenizer_is_named_before_anything_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="`tokenizer`"):
        study(tmp_path).plan(tmp_path / "out")


def test_the_shipped_study_is_read():
    asked = read_study("renderers", "stages/study-renderers.yaml")
    assert [variant.name for variant in asked.variants()] == [
        "reference", "patches-plain", "patches-smooth", "loss-lpips", "loss-lpips-gan",
    ]  # fmt: skip
