"""GenEval's rules on photos: thresholds, colours, crops; detectors and CLIP stand in as plain tables."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddt_lightning.metrics.detection import NAMES, Instances
from ddt_lightning.metrics.embeddings import Clip
from ddt_lightning.metrics.geneval import COLOURS, evaluate, rows
from ddt_lightning.metrics.geneval_photos import ColourClassifier, PhotoChecker, agreement, cut, iou, kept
from tests.scorers import tiny_clip

DOG, CAT, BENCH = (NAMES.index(name) for name in ("dog", "cat", "bench"))
RGB = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 160, 20)}


class Vision:
    """A CLIP that knows colours: the share of an image's pixels of each, and the colour words of a text."""

    def __init__(self):
        self.texts_seen = []

    def images(self, images):
        pixels = [np.asarray(image.convert("RGB")).reshape(-1, 3).astype(float) for image in images]
        shares = [[(np.abs(p - RGB[c]).max(1) < 30).mean() for c in RGB] for p in pixels]
        return torch.tensor(shares, dtype=torch.float32)

    def texts(self, texts):
        self.texts_seen += texts
        return torch.tensor([[float(colour in text) for colour in RGB] for text in texts])


def scene(*things, size=(40, 60)):
    """An image of boxes, and what a perfect detector says: (label, score, colour, box)."""
    image = np.full((*size, 3), 250, np.uint8)
    masks = torch.zeros(len(things), *size, dtype=torch.bool)
    for number, (_, _, colour, (x1, y1, x2, y2)) in enumerate(things):
        image[y1:y2, x1:x2] = RGB[colour]
        masks[number, y1:y2, x1:x2] = True
    order = sorted(range(len(things)), key=lambda n: -things[n][1])
    return image, Instances(
        torch.tensor([things[n][0] for n in order], dtype=torch.long),
        torch.tensor([things[n][1] for n in order]),
        torch.tensor([things[n][3] for n in order], dtype=torch.float32).reshape(-1, 4),
        masks[order],
    )


def prompt(tag, *include, exclude=None):
    return {"tag": tag, "include": list(include), "prompt": "x", **({"exclude": exclude} if exclude else {})}


def entry(name, count=1, **more):
    return {"class": name, "count": count, **more}


LEFT, RIGHT, LOW = (2, 5, 20, 20), (40, 5, 58, 20), (20, 25, 38, 38)


@pytest.fixture
def checker():
    return PhotoChecker(None, Vision())


def right(checker, things, metadata):
    image, found = scene(*things)
    return evaluate(checker.objects(image, found, metadata), metadata)[0]


def test_thresholds_are_strict_and_higher_for_counting(checker):
    one = prompt("single_object", entry("dog"))
    assert right(checker, [(DOG, 0.31, "red", LEFT)], one)
    assert not right(checker, [(DOG, 0.3, "red", LEFT)], one) and not right(checker, [(CAT, 0.9, "red", LEFT)], one)
    two = prompt("counting", entry("dog", 2), exclude=[entry("dog", 3)])
    sure = [(DOG, 0.95, "red", LEFT), (DOG, 0.91, "red", RIGHT)]
    assert right(checker, sure, two) and right(checker, [*sure, (DOG, 0.9, "red", LOW)], two)
    assert not right(checker, [*sure, (DOG, 0.92, "red", LOW)], two) and not right(checker, sure[:1], two)


def test_colour_is_that_of_the_most_confident_object(checker):
    blue = prompt("colors", entry("dog", color="blue"))
    dogs = [(DOG, 0.8, "blue", LEFT), (DOG, 0.9, "red", RIGHT)]
    assert not right(checker, dogs, blue) and right(checker, dogs[:1], blue)
    both = prompt("color_attr", entry("dog", color="red"), entry("cat", color="blue"))
    assert right(checker, [(DOG, 0.8, "red", LEFT), (CAT, 0.5, "blue", RIGHT)], both)
    assert not right(checker, [(DOG, 0.8, "blue", LEFT), (CAT, 0.5, "red", RIGHT)], both)
    assert not right(checker, [(DOG, 0.8, "red", LEFT)], both)


def test_position(checker):
    metadata = prompt("position", entry("cat"), entry("dog", position=["left of", 0]))
    assert right(checker, [(DOG, 0.8, "red", LEFT), (CAT, 0.5, "blue", RIGHT)], metadata)
    assert not right(checker, [(CAT, 0.8, "red", LEFT), (DOG, 0.5, "blue", RIGHT)], metadata)


def test_at_most_sixteen_of_a_class_and_rows_tell_them_all(checker):
    things = [(DOG, 0.5 + n / 100, "red", (n, n, n + 5, n + 9)) for n in range(20)] + [(CAT, 0.4, "blue", RIGHT)]
    image, found = scene(*things)
    assert {name: len(numbers) for name, numbers in kept(found, 0.3).items()} == {"dog": 16, "cat": 1}
    metadata = prompt("single_object", entry("dog"))
    (row,) = rows([checker.objects(image, found, metadata)], [metadata], filenames=["00000/samples/0000.png"])
    details = json.loads(row["details"])
    assert len(details["dog"]) == 16 and details["dog"][0] == pytest.approx([19, 19, 24, 28, 0.69])
    assert details["cat"] == [pytest.approx([40, 5, 58, 20, 0.4])]


def test_cut_shows_the_object_on_grey():
    image, found = scene((DOG, 0.9, "red", LEFT))
    mask = found.masks[0].clone()
    mask[5:10] = False  # the upper third of the object belongs to something else
    piece = np.asarray(cut(image, mask, found.boxes[0].tolist()))
    assert piece.shape == (15, 18, 3)
    assert (piece[:5] == 153).all() and (piece[5:] == RGB["red"]).all()


def test_colour_prototypes_follow_the_templates(tmp_path):
    clip = Clip(str(tiny_clip(tmp_path)))
    namer = ColourClassifier(clip)
    prototypes = namer.prototypes("dog")
    assert prototypes.shape == (10, 8)
    texts = ["a photo of a blue dog", "a photo of a blue-colored dog", "a photo of a blue object"]
    mean = sum(clip.texts([text])[0] for text in texts) / 3
    assert torch.allclose(prototypes[COLOURS.index("blue")], mean / mean.norm(), atol=1e-5)
    assert namer.prototypes("dog") is prototypes
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    (named,) = namer([Image.fromarray(noise)], "dog")
    assert named == COLOURS[int((clip.images([noise])[0] @ prototypes.T).argmax())]


def test_agreement_of_boxes():
    def row(**details):
        return {"details": json.dumps(details)}

    one = row(dog=[[0, 0, 10, 10, 0.9], [20, 0, 30, 10, 0.8]])
    assert agreement([one], [one]) == 1 and agreement([row()], [row()]) == 1
    assert agreement([one], [row(cat=[[0, 0, 10, 10, 0.9]])]) == 0
    assert agreement([one], [row(dog=[[0, 0, 10, 12, 0.9]])]) == pytest.approx(2 / 3)
    assert agreement([one], [row(dog=[[0, 0, 10, 30, 0.9]])]) == 0
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7) and iou((0, 0, 1, 1), (5, 5, 6, 6)) == 0
