"""Options of the data modules: what a base class adds is a flat key of the YAML and an option with help."""

import pytest
import yaml
from jsonargparse import ArgumentParser

from ddt_lightning import cli
from ddt_lightning.shards.chat import ChatShards
from ddt_lightning.shards.images import ImageShards
from ddt_lightning.shards.tokens import TokenShards

ORDER = {"lanes": 4, "workers": 1, "memory_mb": 256, "resample": False, "val_samples": 512, "seed": 0}
IMAGES = {"batch_size": 32, "buffer": 1000, **ORDER}
DOCUMENTS = {
    **{"batch_size": 64, "buffer": 2000, **ORDER},
    **{"caption_drop": 0.1, "max_length": 256, "packing": False, "row_length": 512, "val_text_shards": None},
}
EVERY = [
    (ImageShards, IMAGES, {}),
    (TokenShards, DOCUMENTS, {"shards": ["a"]}),
    (ChatShards, DOCUMENTS, {"vocab": "v"}),
]


@pytest.mark.parametrize(("module", "defaults", "needed"), EVERY)
def test_options_of_base_classes_are_flat_keys_with_defaults(module, defaults, needed, tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(module, "data")
    parser.add_argument("--config", action="config")
    given = {"batch_size": 24, "lanes": 6, "seed": 7} | ({"images": ["a"]} if module is ChatShards else {})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": needed}))
    parsed = parser.parse_args(["--config", str(tmp_path / "c.yaml")])
    assert {key: parsed.data[key] for key in defaults} == defaults
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {**needed, **given}}))
    data = parser.instantiate(parser.parse_args(["--config", str(tmp_path / "c.yaml"), "--data.workers=3"])).data
    assert (data.batch_size, data.lanes, data.seed, data.workers) == (24, 6, 7, 3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", str(tmp_path / "c.yaml"), "--data.batchsize=3"])


def test_help_of_a_stage_shows_the_options_of_base_classes(capsys):
    with pytest.raises(SystemExit):
        cli.fit("pretrain", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in DOCUMENTS.keys() - {"seed"}:  # `seed_everything` sets the seed
        assert f"--data.{option} " in shown, option
    assert "longest document; longer texts are cut" in shown and "a multiple of the number of processes" in shown
