"""Objects of photos for GenEval's rules: an image and its prompt in, the objects that `geneval.rows` looks at out.

A detector finds COCO's objects; CLIP names the colour of those that the prompt asks a colour of, as GenEval does: of
the `count` most confident of a class, with everything but the object grey and cut to its box. The numbers are those of
djghosh13/geneval (arXiv 2310.11513). The detector's weights are not GenEval's own, so a score made with it is called
`GenEval (HF detector)`.
"""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ddt_lightning.metrics.detection import NAMES, Detector, Instances
from ddt_lightning.metrics.embeddings import Clip
from ddt_lightning.metrics.geneval import COLOURS
from ddt_lightning.scenes.check import Object

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_OBJECTS = 16  # of a class
GREY = (153, 153, 153)
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
NOT_ASKED = ""  # colour of an object that no rule looks at


def threshold(metadata: dict) -> float:
    """The score that an object of this prompt's image must exceed."""
    return COUNTING_THRESHOLD if metadata["tag"] == "counting" else THRESHOLD


def kept(found: Instances, above: float) -> dict[str, list[int]]:
    """By class name the numbers of its instances with a score above `above`, most confident first, at most 16."""
    classes: dict[str, list[int]] = {}
    sure = (found.scores > above).tolist()  # compared in the scores' own precision
    for number, label in enumerate(found.labels.tolist()):
        if sure[number] and len(classes.setdefault(NAMES[label], [])) < MAX_OBJECTS:
            classes[NAMES[label]].append(number)
    return classes


def cut(image: NDArray[np.uint8], mask: Tensor, box: Sequence[float]) -> Image.Image:
    """The part of an image in a box, grey where the mask is not."""
    picture = Image.fromarray(image)
    shape = Image.fromarray(mask.numpy().astype(np.uint8) * 255)
    left, top, right, bottom = (int(edge) for edge in box)
    return Image.composite(picture, Image.new("RGB", picture.size, GREY), shape).crop((left, top, right, bottom))


class ColourClassifier:
    """Zero-shot classifier of the colour of an object of a known class, among GenEval's ten, by CLIP.

    Args:
        clip: GenEval's is openai/clip-vit-large-patch14.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.known: dict[str, Tensor] = {}

    def prototypes(self, name: str) -> Tensor:
        """Unit vectors `[10, d]` of the colours of a class: the mean over the templates."""
        if name not in self.known:
            texts = [template.format(colour=colour, name=name) for colour in COLOURS for template in TEMPLATES]
            vectors = self.clip.texts(texts).unflatten(0, (len(COLOURS), len(TEMPLATES)))
            self.known[name] = normalize(vectors.mean(1), dim=-1)
        return self.known[name]

    def __call__(self, pieces: Sequence[Image.Image], name: str) -> list[str]:
        """The colour of each piece, which shows an object of class `name`."""
        similarity = self.clip.images(pieces) @ self.prototypes(name).T  # [N, 10]
        return [COLOURS[number] for number in similarity.argmax(1).tolist()]


class PhotoChecker:
    """Reads photos by a detector and CLIP.

    Args:
        detector: finds the objects.
        clip: names colours.
    """

    def __init__(self, detector: Detector, clip: Clip) -> None:
        self.detector, self.colours = detector, ColourClassifier(clip)

    def detect(self, image: NDArray[np.uint8]) -> Instances:
        """The instances in an RGB image, uint8 `[H, W, 3]`, with scores above the lower of the two thresholds."""
        return self.detector(image, above=THRESHOLD)

    def objects(self, image: NDArray[np.uint8], found: Instances, metadata: dict) -> list[Object]:
        """The objects of an image that count for a prompt.

        Their kind is GenEval's name of the class; their colour is `NOT_ASKED` where the prompt does not ask for it.

        Args:
            image: RGB, uint8 `[H, W, 3]`.
            found: `detect` of it.
            metadata: the prompt.
        """
        classes = kept(found, threshold(metadata))
        colours: dict[int, str] = {}
        for entry in metadata["include"]:
            numbers = classes.get(entry["class"], [])[: entry["count"]]
            if "color" in entry and len(numbers) == entry["count"]:
                pieces = [cut(image, found.masks[n], found.boxes[n].tolist()) for n in numbers]
                colours.update(zip(numbers, self.colours(pieces, entry["class"]), strict=True))
        objects = []
        for name, numbers in classes.items():
            for n in numbers:
                x1, y1, x2, y2 = found.boxes[n].tolist()
                objects.append(Object(name, colours.get(n, NOT_ASKED), (x1, y1, x2, y2), float(found.scores[n])))
        return objects


def agreement(ours: Sequence[dict], stored: Sequence[dict], least: float = 0.5) -> float:
    """Agreement of two sets of `results.jsonl` rows on the objects: F1 of boxes of one class, one to one, by IoU.

    Args:
        ours: rows.
        stored: rows of the same images, in the same order.
        least: IoU from which two boxes are the same object.
    """
    same = total = 0
    for mine, other in zip(ours, stored, strict=True):
        one, two = json.loads(mine["details"]), json.loads(other["details"])
        total += sum(map(len, one.values())) + sum(map(len, two.values()))
        for name in one.keys() & two.keys():
            left = list(two[name])
            for box in one[name]:
                match = next((b for b in left if iou(box, b) >= least), None)
                if match is not None:
                    left.remove(match)
                    same += 2
    return same / total if total else 1.0


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Overlap of two boxes `x1, y1, x2, y2`, by area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common
    return common / union if union > 0 else 0.0
