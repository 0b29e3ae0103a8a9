"""The detector's pre- and post-processing against its definition written out in numpy, on random outputs."""

import numpy as np
import pytest
import torch
from transformers import Mask2FormerForUniversalSegmentation

from ddt_lightning.metrics import detection
from ddt_lightning.metrics.detection import ANCHORS, NAMES, Detector, boxes, fitted, instances, prepare
from tests.scorers import tiny_mask2former


def bilinear(image, rows, columns):
    """`[H, W]` resized with half-pixel centres and clamped edges, without antialiasing."""

    def line(size, new):
        at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    (top, bottom, y), (left, right, x) = line(image.shape[0], rows), line(image.shape[1], columns)
    upper = image[top][:, left] * (1 - x) + image[top][:, right] * x
    lower = image[bottom][:, left] * (1 - x) + image[bottom][:, right] * x
    return upper * (1 - y)[:, None] + lower * y[:, None]


def by_definition(class_logits, mask_logits, padded, resized, original):
    """(score, label, box, mask) of every kept pair, in descending order."""
    exp = np.exp(class_logits - class_logits.max(1, keepdims=True))
    probability = (exp / exp.sum(1, keepdims=True))[:, :-1]
    pairs = sorted(
        ((probability[q, c], q, c) for q in range(probability.shape[0]) for c in range(probability.shape[1])),
        reverse=True,
    )[:100]
    found = []
    for share, query, label in pairs:
        whole = bilinear(mask_logits[query], *padded)[: resized[0], : resized[1]]
        logits = bilinear(whole, *original)
        mask = logits > 0
        if not mask.any():
            continue  # score 0
        inside = (1 / (1 + np.exp(-logits[mask]))).sum() / (mask.sum() + 1e-6)
        ys, xs = np.nonzero(mask)
        found.append((share * inside, label, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), mask))
    return sorted(found, key=lambda one: -one[0])


@pytest.mark.parametrize(("queries", "original"), [(7, (30, 37)), (30, (61, 20))])
def test_post_processing_equals_its_definition(queries, original):
    rng = np.random.default_rng(queries)
    class_logits = rng.normal(0, 2, (queries, 6))
    mask_logits = rng.normal(0, 3, (queries, 10, 12)) - 1
    mask_logits[0] = -1  # an empty mask
    sizes = ((40, 48), (36, 45), original)
    known = by_definition(class_logits, mask_logits, *sizes)
    found = instances(torch.tensor(class_logits), torch.tensor(mask_logits), *sizes)
    assert len(found.labels) == len(known) and (queries < 20 or 90 < len(known) <= 100)
    assert found.scores.tolist() == pytest.approx([one[0] for one in known], rel=1e-7)
    assert found.labels.tolist() == [one[1] for one in known]
    assert found.boxes.tolist() == [list(map(float, one[2])) for one in known]
    assert all(np.array_equal(mask.numpy(), one[3]) for mask, one in zip(found.masks, known, strict=True))
    few = instances(torch.tensor(class_logits), torch.tensor(mask_logits), *sizes, above=0.3)
    number = sum(one[0] > 0.3 for one in known)
    assert 0 < number < len(known) and len(few.labels) == number
    assert torch.equal(few.scores, found.scores[:number]) and torch.equal(few.masks, found.masks[:number])


def test_a_query_may_be_of_several_classes():
    mask = torch.full((1, 4, 4), 5.0)
    found = instances(torch.tensor([[2.0, 2.0, -9.0, -9.0]]), mask, (8, 8), (8, 8), (8, 8), above=0.3)
    assert sorted(found.labels.tolist()) == [0, 1]


def test_nothing_found_is_empty():
    found = instances(torch.zeros(3, 81), torch.zeros(3, 4, 4), (8, 8), (8, 8), (6, 5), above=0.3)
    assert found.labels.shape == (0,) and found.boxes.shape == (0, 4) and found.masks.shape == (0, 6, 5)


def test_boxes_end_behind_the_mask():
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:4, 2] = True
    assert boxes(masks).tolist() == [[2, 1, 3, 4], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("size", "scaled", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((2000, 1000), (1333, 667), (1344, 672)),
        ((1024, 1024), (800, 800), (800, 800)),
    ],
)
def test_images_are_scaled_and_padded_as_in_mmdetection(size, scaled, padded):
    assert fitted(*size) == scaled
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, part = prepare(image)
    assert part == scaled and pixels.shape == (1, 3, *padded)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    wanted = np.stack([bilinear(image[..., c].astype(float), *scaled) for c in range(3)])
    back = pixels[0, :, : scaled[0], : scaled[1]].numpy() * std[:, None, None] + mean[:, None, None]
    assert np.abs(back - wanted).max() < 0.53 and np.abs(back - np.round(back)).max() < 1e-3
    if padded != scaled:
        corner = pixels[0, :, -1, -1].numpy() * std + mean
        assert corner == pytest.approx([128] * 3, abs=1e-3)


def test_detector_reads_a_folder_and_finds_what_its_outputs_say(tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "SHORT_SIDE", 96)
    folder = str(tiny_mask2former(tmp_path / "m", sure_of=13))
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    found = Detector(folder)(image)
    assert found.masks.shape == (len(found.labels), 40, 56) and set(found.labels[:6].tolist()) == {13}
    pixels, resized = prepare(image)
    with torch.no_grad():
        out = Mask2FormerForUniversalSegmentation.from_pretrained(folder)(pixel_values=pixels)
    known = by_definition(
        out.class_queries_logits[0].double().numpy(), out.masks_queries_logits[0].double().numpy(),
        tuple(pixels.shape[-2:]), resized, (40, 56),
    )  # fmt: skip
    assert found.scores.tolist() == pytest.approx([one[0] for one in known], rel=1e-4)
    assert (found.scores > 0.3).sum() == len(Detector(folder)(image, above=0.3).labels) > 0


def test_only_whole_detectors_of_coco_are_accepted(tmp_path):
    with pytest.raises(FileNotFoundError, match="`--detector`"):
        Detector(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="has 2"):
        Detector(str(tiny_mask2former(tmp_path / "two", labels={0: "person", 1: "bicycle"})))
    turned = {n: name for n, name in enumerate(reversed(NAMES))}
    with pytest.raises(ValueError, match="toothbrush at 0"):
        Detector(str(tiny_mask2former(tmp_path / "turned", labels=turned)))
    other = {**dict(enumerate(NAMES)), 57: "sofa", 3: "motorbike", 63: "notebook"}  # spelled otherwise, in order
    folder = tiny_mask2former(tmp_path / "spelled", labels=other)
    assert Detector(str(folder)).model.config.id2label[57] == "sofa"
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["class_predictor.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks class_predictor\.weight"):
        Detector(str(folder))


def test_names_are_genevals(ddt_data):
    names = (ddt_data / "geneval" / "object_names.txt").read_text().split("\n")
    assert tuple(name for name in names if name) == NAMES
    assert all(NAMES[number] == name for number, name in ANCHORS.items())
