"""All studies as one plan: every command line parses, equal bits for what is compared, and a run must be there."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddt_lightning.plans import demo, evidence, photos
from ddt_lightning.plans.step import Record
from ddt_lightning.spatial.var import VarConfig
from ddt_lightning.spatial.vqgan import VqganConfig
from ddt_lightning.studies.classes import ClassStudy
from ddt_lightning.studies.order import from_pairs
from tests.command_lines import parse_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", evidence.GROUNDS)
def test_every_command_line_parses_and_bits_are_equal(name, monkeypatch):
    ground = evidence.GROUNDS[name]
    plan = evidence.plan(ground, 8)
    assert {step.name for step in plan} == set(ground.seconds)
    configs = parse_plan(plan, monkeypatch)
    if name == "scenes":
        made = demo.plan(demo.MODES["default"])
    else:
        made = photos.plan(replace(photos.SETS[name], classes=None), Path(f"runs/{name}"), Path("data"))
    own = parse_plan([step for step in made if step.name == "tokenizer"], monkeypatch)["tokenizer"]
    wanted = own.model.tokenizer
    for kind in ("vqgan", "var"):
        model, section = configs[kind].model, getattr(configs[kind].model, kind)
        assert model.tokenizer is None and configs[kind].trainer.max_steps == 8
        config = {"vqgan": VqganConfig, "var": VarConfig}[kind].from_dict(section.as_dict())
        assert (config.tokens, config.codebook_size) == (wanted.tokens, wanted.codebook_size)
        assert config.latent_size == wanted.latent_size
        assert configs[kind].data.shards == own.data.shards and configs[kind].data.augment == own.data.augment
        assert configs[kind].data.image_size == own.data.image_size
    assert {step.name for step in made}.isdisjoint(step.name for step in plan)  # their records lie side by side


def test_the_study_of_classes_is_on_what_the_plan_makes():
    folder, chosen = Path(evidence.GROUNDS["cifar10"].folder), photos.SETS["cifar10"]
    study = ClassStudy.read("stages/study-classes.yaml", {})
    made = {step.name: step.folder for step in evidence.plan(evidence.GROUNDS["cifar10"], 1)}
    assert made["order"] == folder / "order" / "findings.json"  # the runs beside it stay
    assert study.tokenizers["vqgan"] == {"tokenizer": str(made["vqgan"]), "tokens": str(made["vqgan"] / "tokens")}
    own = {part: str(folder / part) for part in ("tokenizer", "renderer", "tokens")}
    assert study.tokenizers["ddt"] == own and study.encoder == str(made["encoder"].with_name("encoder.safetensors"))
    assert study.classes == str(folder / "prompts.txt") and study.reference == [chosen.val]
    assert study.steps == chosen.pretrain_steps and study.settings["data"] == chosen.formats
    assert {f"--{name}={value:g}" for name, value in study.drawing.items()} == set(photos.SAMPLING)


def test_a_finished_run_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evidence", "--on", "cifar10"])
    with pytest.raises(SystemExit) as left:
        evidence.main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "runs/cifar10 has no finished model: run `make photos PHOTOS=cifar10` first" in said
    record = Record(Path("runs/cifar10"), "pretrain")
    record.done, record.fingerprint = True, "abc"
    record.write()
    (tmp_path / "runs/cifar10/model").mkdir()
    assert evidence.made(evidence.GROUNDS["cifar10"]) == "abc"


def test_sets_of_both_layouts(tmp_path):
    (tmp_path / "split" / "train").mkdir(parents=True)
    found = from_pairs([f"a={tmp_path}/split", f"b={tmp_path}/flat"])
    assert found["a"] == {"shards": [f"{tmp_path}/split/train/*.tar"], "val_shards": [f"{tmp_path}/split/val/*.tar"]}
    assert found["b"]["val_shards"] == [f"{tmp_path}/flat/images-val-*.tar"]
