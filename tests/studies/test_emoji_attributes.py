"""The classifier of emoji: it learns attributes that colours give away, and its file and verb say what it is."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies.emoji_attributes import (
    NONE,
    AttributeStudy,
    changed,
    classes_of,
    has_a_side,
    labels_of,
    read_labelled,
    right,
    train,
)

SKINS, LEVELS = ("light", "dark"), (220, 60)


def facts(n: int) -> dict:
    one = {"style": ("noto", "twemoji")[n // 2 % 2], "group": ("people-body", "flags")[n % 2], "concept": f"c{n % 5}"}
    one |= {"noun": ("cook", "flag: land")[n % 2] if n < 41 else "rare"}
    if n % 2 == 0:
        one |= {"skin": SKINS[n // 4 % 2], "gender": ("man", "woman")[n // 8 % 2]}
    return one


def drawn(one: dict) -> bytes:
    """A square as bright as the skin; red for a woman, a blue frame for the style, stripes for a flag."""
    image = np.full((64, 64, 3), 255, np.uint8)
    if one["group"] == "flags":
        image[::8] = image[1::8] = image[2::8] = 0
    else:
        level = LEVELS[SKINS.index(one["skin"])]
        image[16:48, 16:48] = (level, 0, 0) if one["gender"] == "woman" else (0, level, 0)
    if one["style"] == "twemoji":
        image[:, :6] = image[:, -6:] = (0, 0, 255)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for name, part, number in (("train", None, 48), ("val", "combination", 16)):
        samples = [
            {"__key__": f"{n:03d}", "png": drawn(facts(n)), "json": {"emoji": facts(n), "held_out": part}}
            for n in range(number)
        ]
        write_shards(folder, f"images-{name}", samples, 100)
    return folder


def test_attributes_are_learned_and_the_file_knows_them(shards, tmp_path):
    data = read_labelled([f"{shards}/images-train-*.tar"], "shards")
    network = train(AttributeStudy(steps=60, batch=24), data, lambda text: None)
    assert network.classes == {
        "group": ["people-body", "flags"], "skin": ["light", "dark"], "gender": ["man", "woman"],
        "style": ["noto", "twemoji"], "noun": ["cook", "flag: land"],
    }  # fmt: skip
    scores = right(network, data.images, data.facts)
    assert len(scores["skin"]) == 24 and len(scores["group"]) == 48 and len(scores["noun"]) == 41
    assert all(np.mean(marks) > 0.9 for marks in scores.values()), {name: np.mean(one) for name, one in scores.items()}
    network.save(tmp_path / "a.safetensors")
    loaded = AttributeClassifier.load(tmp_path / "a.safetensors")
    assert loaded.classes == network.classes and loaded(data.images) == network(data.images)
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="was not written by"):
        AttributeClassifier.load(tmp_path / "b.safetensors")


def test_the_verb_writes_weights_and_a_card(shards, tmp_path, capsys):
    call = ["study", "attributes", f"{shards}/images-train-*.tar", "--out", str(tmp_path / "out"), "--steps", "2"]
    main([*call, "--batch", "4", "--val_shards", f"{shards}/images-val-*.tar"])
    card = json.loads((tmp_path / "out" / "attributes.json").read_text())
    assert set(card["accuracy"]) == {"combination"} and card["accuracy"]["combination"]["skin"]["n"] == 8
    assert card["trained_on"].startswith("48 pictures") and card["name"] in capsys.readouterr().out
    AttributeClassifier.load(tmp_path / "out" / "attributes.safetensors")


def test_labels_leave_out_what_a_picture_does_not_have():
    classes = {"skin": ["light", "dark"], "style": ["noto"]}
    labels = labels_of([{"skin": "dark", "style": "noto"}, {"style": "openmoji"}, {"skin": "light and dark"}], classes)
    assert labels["skin"].tolist() == [1, NONE, NONE] and labels["style"].tolist() == [0, NONE, NONE]


def test_roles_are_classes_where_enough_pictures_show_them():
    some = [facts(n) for n in range(48)]
    assert classes_of(some, 8)["noun"] == ["cook", "flag: land"]
    assert classes_of(some, 7)["noun"] == ["cook", "flag: land", "rare"]
    with pytest.raises(ValueError, match=r"`--role_pictures` \(22\): 0 roles have as many"):
        classes_of(some, 22)
    with pytest.raises(ValueError, match=r"`--role_pictures` \(0\) must be at least 1"):
        AttributeStudy(role_pictures=0)


def test_what_has_a_side_is_not_mirrored():
    assert has_a_side({"noun": "backhand index pointing left"}) and has_a_side({"noun": "rightwards hand"})
    assert not has_a_side({"noun": "bright button"})
    pixels = torch.zeros(64, 3, 64, 64)
    pixels[..., :32] = 1.0  # bright on the left
    sided = torch.arange(64) < 32
    found = changed(pixels, torch.Generator().manual_seed(0), sided)
    mirrored = found[..., 40:].mean((1, 2, 3)) > found[..., :24].mean((1, 2, 3))
    assert not mirrored[:32].any() and 6 < mirrored[32:].sum() < 26
    assert torch.equal(changed(pixels, torch.Generator().manual_seed(0))[32:], found[32:])


def test_changes_keep_the_range_and_the_colours():
    pixels = torch.full((16, 3, 64, 64), 0.5)
    found = changed(pixels, torch.Generator().manual_seed(0))
    assert found.shape == pixels.shape and found.abs().max() <= 1
    assert (found.mean((1, 2, 3)) - 0.5).abs().max() < 0.1 and not torch.equal(found[0], found[1])


def test_other_shards_are_refused(tmp_path, shards):
    write_shards(tmp_path, "images", [{"__key__": "a", "png": drawn(facts(0)), "txt": "a flag"}], 9)
    with pytest.raises(ValueError, match="must be image shards that `ddt data emoji` wrote"):
        read_labelled([f"{tmp_path}/images-*.tar"], "shards")
    data = read_labelled([f"{shards}/images-train-*.tar"], "shards")
    one = type(data)(data.images, [{**fact, "style": "noto"} for fact in data.facts], data.parts)
    with pytest.raises(ValueError, match="one style alone"):
        train(AttributeStudy(steps=1), one)
