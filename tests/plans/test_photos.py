"""Photos: every command line parses, and says what the set of photos is; what is missing is named before training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddt_lightning.inputs import class_names, read_prompts
from ddt_lightning.plans import photos
from tests.command_lines import parse_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", photos.SETS)
def test_every_command_line_parses(name, monkeypatch, tmp_path):
    chosen = replace(photos.SETS[name], tokenizer_steps=8)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "classes.json").write_text('["cat", "dog"]')
    steps = photos.plan(chosen, Path("run"), tmp_path)
    configs = parse_plan(steps, monkeypatch)
    names = ["tokenizer", "renderer", "tokens", "pretrain", "eval", "draw", "describe", "report"]
    assert [step.name for step in steps] == names and len(chosen.seconds) == len(names)
    overlay = yaml.safe_load(Path(chosen.overlay).read_text())
    tokenizer, renderer = configs["tokenizer"], configs["renderer"]
    assert tokenizer.trainer.max_steps == 8 and tokenizer.model.tokenizer.quantizer.warmup_steps == 2
    for data in (tokenizer.data, renderer.data):  # the same photos for both
        assert data.shards == overlay["data"]["shards"] == [chosen.train]
        assert data.val_shards == overlay["data"]["val_shards"] == [chosen.val]
        assert data.image_size == overlay["data"]["image_size"] == tokenizer.model.tokenizer.latent_size
        assert data.augment == overlay["data"]["augment"]
    scored = [command for step in steps if step.name == "describe" for command in step.commands if "caption" in command]
    assert len(scored) == 1
    shares = configs["pretrain"].data
    assert {kind: shares[kind] for kind in chosen.formats} == chosen.formats


def test_sizes_are_options():
    assert set(photos.SIZES) == {"tokenizer_steps", "renderer_steps", "pretrain_steps", "drawn", "evaluated"}


def test_prompts_are_classes_or_captions(tmp_path):
    (tmp_path / "cifar10").mkdir()
    listed = tmp_path / "cifar10" / "classes.json"
    listed.write_text(json.dumps(["cat", "dog"]))
    (tmp_path / "prompts.txt").write_text(photos.prompts(photos.SETS["cifar10"], tmp_path))
    asked = read_prompts(str(tmp_path / "prompts.txt"))
    assert class_names(str(listed), asked) == asked == ["cat", "dog"]
    assert class_names(str(listed), ["1"]) == ["dog"]
    listed.write_text(json.dumps({"cat": 0}))
    with pytest.raises(ValueError, match="must be a list of names"):
        class_names(str(listed), asked)
    (tmp_path / "prompts.txt").write_text(photos.prompts(photos.SETS["flickr8k"], tmp_path))
    assert read_prompts(str(tmp_path / "prompts.txt")) == list(photos.SETS["flickr8k"].prompts)


def test_missing_photos_are_named(tmp_path, monkeypatch, capsys):
    def refused(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["photos", "--run", str(tmp_path / "run"), *args])
        with pytest.raises(SystemExit) as left:
            photos.main()
        assert left.value.code == 1
        return capsys.readouterr().err

    monkeypatch.delenv("DDT_DATA", raising=False)
    assert "`DDT_DATA` is not set" in refused()
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    assert "flickr8k64-train" in refused("--photos", "flickr8k")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", photos.SETS)
def test_captions_of_the_real_shards_are_what_is_drawn(name, ddt_data):
    """The texts of held-out photos: names of the classes, or several captions."""
    from ddt_lightning.shards.images import read_images

    chosen = photos.SETS[name]
    samples = list(read_images([chosen.val], image_size=chosen.image_size))
    texts = {text for sample in samples for text in sample.texts}
    if chosen.classes:
        assert texts == set(json.loads((ddt_data / chosen.classes).read_text()))
    else:
        assert all(4 <= len(sample.texts) <= 5 for sample in samples)
