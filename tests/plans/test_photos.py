"""Photos: every command line parses, and says what the set of photos is; what is missing is named before training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddt_lightning import cli
from ddt_lightning.plans import photos
from ddt_lightning.prompts import class_names, read_prompts
from tests.command_lines import parse_plan, parsed

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


SETS = ["stages/photos-cifar10.yaml", "stages/photos-flickr8k.yaml"]
STEPS = ["tokenizer", "renderer", "tokens", "pretrain", "eval", "draw", "describe", "report"]


def sizes_of(config: str, *words: str) -> photos.PhotoRun:
    return parsed("run photos", "--config", config, *words)["sizes"]


@pytest.mark.parametrize("config", SETS)
def test_every_command_line_parses(config, monkeypatch, tmp_path):
    monkeypatch.setenv("DDT_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    (tmp_path / "data" / "cifar10" / "classes.json").write_text('["cat", "dog"]')
    chosen = sizes_of(config, "--tokenizer_steps", "8", "--run", str(tmp_path / "run"))
    steps = photos.plan(chosen)
    assert [one.name for one in tmp_path.iterdir()] == ["data"]  # planning writes nothing
    configs = parse_plan(steps, monkeypatch)
    assert [step.name for step in steps] == STEPS and set(chosen.seconds) == set(STEPS)
    overlay = yaml.safe_load(Path(chosen.overlay).read_text())
    tokenizer, renderer = configs["tokenizer"], configs["renderer"]
    assert tokenizer.trainer.max_steps == 8 and tokenizer.model.tokenizer.quantizer.warmup_steps == 2
    for data in (tokenizer.data, renderer.data):  # the same photos for both
        assert data.shards == overlay["data"]["shards"] and data.val_shards == overlay["data"]["val_shards"]
        assert data.image_size == overlay["data"]["image_size"] == tokenizer.model.tokenizer.latent_size
        assert data.augment == overlay["data"]["augment"]
    scored = [command for step in steps if step.name == "describe" for command in step.commands if "caption" in command]
    assert len(scored) == 1
    shares = configs["pretrain"].data
    assert {kind: shares[kind] for kind in chosen.formats} == chosen.formats


def test_prompts_are_classes_or_captions(tmp_path, monkeypatch):
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    listed = tmp_path / "cifar10" / "classes.json"
    listed.write_text(json.dumps(["cat", "dog"]))
    (tmp_path / "prompts.txt").write_text(photos.prompts(sizes_of(SETS[0])))
    asked = read_prompts(str(tmp_path / "prompts.txt"))
    assert class_names(str(listed), asked) == asked == ["cat", "dog"]
    assert class_names(str(listed), ["1"]) == ["dog"]
    listed.write_text(json.dumps({"cat": 0}))
    with pytest.raises(ValueError, match="must be a list of names"):
        class_names(str(listed), asked)
    captions = sizes_of(SETS[1])
    (tmp_path / "prompts.txt").write_text(photos.prompts(captions))
    assert read_prompts(str(tmp_path / "prompts.txt")) == captions.prompts
    with pytest.raises(ValueError, match="either `classes`"):
        replace(captions, classes="classes.json")
    with pytest.raises(FileNotFoundError, match="`classes`"):
        photos.prompts(replace(captions, classes="gone.json", prompts=[]))


def test_missing_photos_are_named(tmp_path, monkeypatch, capsys):
    def refused(*args: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(["run", "photos", "--run", str(tmp_path / "run"), *args])
        assert left.value.code == 1
        return capsys.readouterr().err

    monkeypatch.delenv("DDT_DATA", raising=False)
    assert "`DDT_DATA` is not set" in refused()
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    assert "flickr8k64-train" in refused("--config", "stages/photos-flickr8k.yaml")
    assert not (tmp_path / "run").exists()
    (tmp_path / "none.yaml").write_text("model: {}\n")
    assert "lacks `data.shards`" in refused("--overlay", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("config", SETS)
def test_captions_of_the_real_shards_are_what_is_drawn(config, ddt_data):
    """The texts of held-out photos: names of the classes, or several captions."""
    from ddt_lightning.shards.images import read_images

    chosen = sizes_of(config)
    data = photos.photos_of(chosen.overlay)
    texts = [sample.texts for sample in read_images(data["val_shards"], image_size=data["image_size"])]
    if chosen.classes:
        assert {text for found in texts for text in found} == set(photos.prompts(chosen).splitlines())
    else:
        assert all(4 <= len(found) <= 5 for found in texts)
