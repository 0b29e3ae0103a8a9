"""`ddt eval boxes` on photos in GenEval's layout, and captions of photos by judges."""

import json

import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.evaluation.caption_judges import object_cards
from ddt_lightning.metrics.cards import read_cards
from tests.metrics.test_boxes import photos


def test_photos_are_checked_by_their_prompts(ddt_judges, ddt_data, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    asked = [("person", "single_object"), ("airplane", "single_object"), ("toaster", "counting")]
    for n, (one, (name, tag)) in enumerate(zip(photos(ddt_data, 3), asked, strict=True)):
        place = tmp_path / "images" / f"{n:05d}" / "samples"
        place.mkdir(parents=True)
        Image.fromarray(one.images[0]).save(place / "0000.png")
        metadata = {"tag": tag, "include": [{"class": name, "count": 1}], "prompt": f"a photo of a {name}"}
        (place.parent / "metadata.jsonl").write_text(json.dumps(metadata))
    call = ["eval", "boxes", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "eval")]
    main(call)
    cards = read_cards(tmp_path / "eval")
    name = next(key for key in cards if key.endswith("/single_object")).partition("/")[0]
    assert name.startswith("boxes-YOLOXNano-") and "not GenEval" in cards[f"{name}/overall"]["protocol"]
    assert cards[f"{name}/single_object"]["value"] == 0.5 and cards[f"{name}/counting"]["value"] == 0
    assert cards[f"{name}/overall"]["weights"]["detector"].startswith(name.rpartition("-")[2])
    assert (tmp_path / "eval" / "boxes.png").is_file() and (tmp_path / "eval" / "geneval" / "results.jsonl").is_file()
    small = Image.open(tmp_path / "images" / "00000" / "samples" / "0000.png").resize((64, 64))
    small.save(tmp_path / "images" / "00000" / "samples" / "0000.png")
    with pytest.raises(SystemExit):
        main([*call[:-1], str(tmp_path / "other")])
    assert "images of 64 px are too small" in capsys.readouterr().err


def test_captions_are_judged_by_the_objects_they_name(ddt_judges, ddt_data):
    pytest.importorskip("onnxruntime")
    samples = photos(ddt_data, 8)
    cards = object_cards(
        str(ddt_judges / "yolox_nano.onnx"), [one.images[0] for one in samples],
        ["a toaster and a person" for _ in samples], [one.texts for one in samples],
    )  # fmt: skip
    unseen = next(one for key, one in cards.items() if key.startswith("caption/objects_unseen") and key[-1].isalnum()
                  and "_person" not in key and "_floor" not in key)  # fmt: skip
    assert unseen["n"] == 16 and unseen["value"] >= 0.5 and unseen["scorers"]["detector"]
    assert sum("_person" in key for key in cards) == 2 and sum("_floor_shuffled" in key for key in cards) == 2
