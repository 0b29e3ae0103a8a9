"""YOLOX-Nano: its boxes by hand, real weights on photos, captions read as objects, and the reward of photos."""

import math

import numpy as np
import pytest
import torch

from ddt_lightning.metrics.boxes import GREY, SIDE, Yolox, decoded, letterbox
from ddt_lightning.metrics.mentions import mentioned, shares
from ddt_lightning.rl.photo_rewards import boxes_right
from ddt_lightning.shards.images import read_images


def test_images_are_fitted_and_padded():
    image = torch.zeros(3, 104, 208, dtype=torch.uint8)
    image[0] = 200  # red
    pixels, scale = letterbox(image)
    assert pixels.shape == (1, 3, SIDE, SIDE) and scale == 2
    assert pixels[0, :, 100, 400].tolist() == [0, 0, 200]  # BGR
    assert pixels[0, :, 300, 10].tolist() == [GREY] * 3


def test_boxes_are_read_off_strides_and_places():
    output = torch.zeros(3549, 85)
    place = 52 * 52 + 26 * 5 + 7  # stride 16, row 5, column 7
    output[place, :4] = torch.tensor([0.5, 0.25, math.log(2.0), math.log(4.0)])
    output[place, 4], output[place, 5 + 16] = 0.5, 0.8
    boxes, scores = decoded(output)
    assert boxes[place].tolist() == pytest.approx([120 - 16, 84 - 32, 120 + 16, 84 + 32], abs=1e-3)
    assert scores[place, 16].item() == pytest.approx(0.4) and scores.sum().item() == pytest.approx(0.4)


def photos(folder, number):
    shard = str(folder / "flickr8k_224" / "flickr8k224-val-000000.tar")
    return [one for _, one in zip(range(number), read_images([shard], image_size=224), strict=False)]


def test_real_weights_find_the_people_of_captions(ddt_judges, ddt_data, monkeypatch):
    pytest.importorskip("onnxruntime")
    detector = Yolox(ddt_judges / "yolox_nano.onnx")
    samples = photos(ddt_data, 40)
    images = [torch.tensor(one.images[0]).permute(2, 0, 1) for one in samples]
    found = [{one.kind for one in detector(image)} for image in images]
    said = [sum("person" in mentioned(text) for text in one.texts) >= 3 for one in samples]
    hits = ["person" in there for there, person in zip(found, said, strict=True) if person]
    assert len(hits) > 15 and np.mean(hits) > 0.8  # 0.89 of 200 photos
    missing, covered = shares([mentioned(one.texts[0]) for one in samples], found)
    other, _ = shares([mentioned(one.texts[0]) for one in samples], [*found[1:], found[0]])
    assert np.mean(missing) < np.mean(other) and 0 < np.mean(covered) < 1
    for one in detector(images[0]):
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 < x2 <= 224 and 0 <= y1 < y2 <= 224 and 0.3 < one.score <= 1

    monkeypatch.setenv("DDT_JUDGES", str(ddt_judges))
    at = hits.index(True)
    image = [image for image, person in zip(images, said, strict=True) if person][at]
    prompts = [{"include": [{"class": "person", "count": 1}]}, {"include": [{"class": "giraffe", "count": 1}]}]
    assert boxes_right(torch.stack([image, image]), prompts) == [1.0, 0.0]
    with pytest.raises(ValueError, match="128 px"):
        boxes_right(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), prompts[:1])


def test_captions_name_objects():
    assert mentioned("Two men and a puppy ride bikes .") == {"person", "dog", "bicycle"}
    assert mentioned("A hot dog on a table") == {"hot dog", "dining table"}
    assert mentioned("The carpet is catlike, a scar") == set()
    missing, covered = shares([{"dog", "person"}, set()], [{"dog"}, {"cat"}])
    assert missing == [False, True] and covered == [True, False]


def test_other_files_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="`detector`"):
        Yolox(tmp_path / "none.onnx")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no network"):
        Yolox(tmp_path / "a.onnx")
