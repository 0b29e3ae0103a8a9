"""All studies as one plan: every command line parses, equal bits for what is compared, and a run must be there."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from ddt_lightning import cli
from ddt_lightning.plans import demo, evidence, photos
from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.step import Record, Step
from ddt_lightning.spatial.var import VarConfig
from ddt_lightning.spatial.vqgan import VqganConfig
from ddt_lightning.studies.base import token_sets
from tests.command_lines import parse_plan, parsed
from tests.inprocess import read_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


RUNS = {name: f"stages/evidence-{name}.yaml" for name in ("scenes", "cifar10", "flickr8k")}


def sizes_of(name: str, *words: str) -> evidence.Evidence:
    return parsed("run evidence", "--config", RUNS[name], *words)["sizes"]


def prompts_in(folder: Path) -> None:
    """The prompts that the run of `make photos` has drawn."""
    folder.mkdir(parents=True)
    (folder / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(9)))


@pytest.mark.parametrize("name", RUNS)
def test_every_command_line_parses_and_bits_are_equal(name, monkeypatch, tmp_path):
    sizes = sizes_of(name, "--spatial_steps", "8", "--run", str(tmp_path / "run"))
    prompts_in(tmp_path / "run")
    plan = evidence.plan(sizes)
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["prompts.txt"]  # planning writes nothing
    assert {step.name for step in plan} == set(sizes.seconds) and {step.name for step in plan} <= set(
        get_args(evidence.Until)
    )
    configs = parse_plan(plan, monkeypatch)
    if name == "scenes":
        made = demo.plan(replace(parsed("run demo")["sizes"], run=sizes.run))
        assert sizes_of(name).run == parsed("run demo")["sizes"].run
    else:
        run = parsed("run photos", "--config", f"stages/photos-{name}.yaml")["sizes"]
        assert (run.run, run.overlay, run.views) == (sizes_of(name).run, sizes.overlay, sizes.views)
        assert run.sampling == sizes.sampling and (run.classes is not None) == sizes.classes
        made = photos.plan(replace(run, run=sizes.run, classes=None, prompts=["a dog"]))
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
    (prompted,) = (step for step in plan if step.name == "prompted")
    (lines,) = (text.splitlines() for text in prompted.files.values())
    assert lines == (sizes.prompts or [f"prompt {number}" for number in range(4)])


def test_the_study_of_classes_is_on_what_the_plan_makes(monkeypatch, tmp_path):
    run = parsed("run photos")["sizes"]
    folder = Path(run.run)
    study = read_study("classes", "stages/study-classes.yaml")
    made = {step.name: step.folder for step in evidence.plan(replace(sizes_of("cifar10"), prompts=["a cat"]))}
    assert made["order"] == folder / "order" / "findings.json"  # the runs beside it stay
    assert study.tokenizers["vqgan"] == {"tokenizer": str(made["vqgan"]), "tokens": str(made["vqgan"] / "tokens")}
    own = {part: str(folder / part) for part in ("tokenizer", "renderer", "tokens")}
    assert study.tokenizers["ddt"] == own and study.encoder == str(made["encoder"].with_name("encoder.safetensors"))
    assert study.classes == str(folder / "prompts.txt")
    assert study.reference == photos.photos_of(run.overlay)["val_shards"]
    assert study.steps == run.pretrain_steps and study.settings["data"] == run.formats
    assert study.drawing == run.sampling


def test_a_finished_run_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "evidence", "--config", str(ROOT / RUNS["cifar10"])])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "runs/cifar10 has no finished model: run `make photos PHOTOS=cifar10` first" in said
    record = Record(Path("runs/cifar10"), "pretrain")
    record.done, record.fingerprint = True, "abc"
    record.write()
    (tmp_path / "runs/cifar10/model").mkdir()
    assert evidence.made(parsed("run evidence", "--config", str(ROOT / RUNS["cifar10"]))["sizes"]) == "abc"


def test_a_step_that_this_run_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`--until` \(scaling\)"):
        run_to_end([Step("a", "", [], tmp_path / "a")], tmp_path, "scaling")


def test_sets_of_both_layouts(tmp_path):
    (tmp_path / "split" / "train").mkdir(parents=True)
    found = token_sets({"a": f"{tmp_path}/split", "b": f"{tmp_path}/flat"})
    assert found["a"] == {"shards": [f"{tmp_path}/split/train/*.tar"], "val_shards": [f"{tmp_path}/split/val/*.tar"]}
    assert found["b"]["val_shards"] == [f"{tmp_path}/flat/images-val-*.tar"]
