"""Objects in a photo: uint8 image in; classes, scores, boxes and masks out, as GenEval's detector gives them.

The network is a transformers Mask2Former trained on the instances of COCO. Around it everything follows mmdetection
2.x (config mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco, what GenEval uses) and not transformers' own processor, whose
defaults resize to 384 and lose overlapping masks: the image is scaled to fit 1333 x 800 bilinearly without
antialiasing and padded to a multiple of 32; the 100 best of all (query, class) pairs are kept; masks are their logits,
scaled back to the original size, above 0; a score is the class's probability times the mean mask probability inside
the mask; a box ends one pixel behind the mask.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddt_lightning.metrics.frozen import load_frozen

# COCO's 80 classes in the order of a detector's outputs, as GenEval spells them.
NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# Spellings of the other classes differ between label files (sofa, motorbike); these are the same in all.
ANCHORS = {0: "person", 1: "bicycle", 2: "car", 16: "dog", 52: "hot dog", 61: "toilet", 79: "toothbrush"}
SHORT_SIDE, LONG_SIDE, DIVISOR = 800, 1333, 32
MEAN, STD, PADDING = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 128.0
LIMIT = 100  # (query, class) pairs of an image


@dataclass(frozen=True)
class Instances:
    """The objects that a detector found in one image of height H and width W, by descending score.

    Args:
        labels: class of each, int64 `[N]`.
        scores: 0-1, float32 `[N]`.
        boxes: `x1, y1, x2, y2` in pixels, x2 and y2 behind the last one; float32 `[N, 4]`.
        masks: bool `[N, H, W]`.
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


def fitted(height: int, width: int) -> tuple[int, int]:
    """Height and width of an image scaled to fit 1333 x 800 with its aspect kept."""
    scale = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(image: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
    """The network's input `[1, 3, h, w]` and the part of it (rows, columns) that is image and not padding.

    Args:
        image: RGB, uint8 `[H, W, 3]`.
    """
    size = fitted(*image.shape[:2])
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    pixels = interpolate(pixels, size, mode="bilinear", align_corners=False).round()  # images are uint8 there too
    below, right = (-side % DIVISOR for side in size)
    pixels = pad(pixels, (0, right, 0, below), value=PADDING)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), size


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    *,
    above: float = 0.0,
) -> Instances:
    """Read the objects of one image from a network's outputs.

    Args:
        class_logits: `[queries, classes + 1]`, the last for no object.
        mask_logits: `[queries, h, w]`.
        padded: rows and columns of the network's input.
        resized: the part of them that is image.
        original: rows and columns of the image before it was scaled.
        above: leave out scores up to this one; no score exceeds its class's probability, so most masks need no work.
    """
    probability = class_logits.softmax(-1)[:, :-1]
    classes = probability.shape[1]
    best, places = probability.flatten().topk(min(LIMIT, probability.numel()))
    best, places = best[best > above], places[best > above]
    query = places // classes
    used, back = query.unique(return_inverse=True)
    logits = interpolate(mask_logits[used][:, None], padded, mode="bilinear", align_corners=False)
    logits = logits[:, :, : resized[0], : resized[1]]
    logits = interpolate(logits, original, mode="bilinear", align_corners=False)[:, 0]  # [used, H, W]
    binary = logits > 0
    inside = (logits.sigmoid() * binary).flatten(1).sum(1) / (binary.flatten(1).sum(1) + 1e-6)
    scores = best * inside[back]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > above]
    masks = binary[back[order]]
    return Instances((places % classes)[order], scores[order], boxes(masks), masks)


def boxes(masks: Tensor) -> Tensor:
    """`x1, y1, x2, y2` around each mask `[N, H, W]`, the last two behind its last pixel; 0 for an empty mask."""
    found = torch.zeros(len(masks), 4)
    for number, mask in enumerate(masks):
        rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        if rows:
            found[number] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return found


class Detector:
    """A Mask2Former of COCO's classes.

    Args:
        folder: transformers folder such as a copy of facebook/mask2former-swin-small-coco-instance.
        device: where it runs.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is another network, or its classes are not COCO's 80 in their order.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        from transformers import Mask2FormerForUniversalSegmentation  # seconds to import

        self.model = load_frozen(Mask2FormerForUniversalSegmentation, folder, "detector", device)
        self.device = device
        labels = {int(number): name for number, name in self.model.config.id2label.items()}
        wrong = [f"{labels.get(number)} at {number}" for number, name in ANCHORS.items() if labels.get(number) != name]
        if len(labels) != len(NAMES) or wrong:
            raise ValueError(
                f"`--detector` ({folder}) does not have COCO's {len(NAMES)} classes in their order: "
                f"it has {len(labels)}{', ' + wrong[0] if wrong else ''}."
            )

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], *, above: float = 0.0) -> Instances:
        """The objects of an RGB image, uint8 `[H, W, 3]`, with scores above `above`; on the CPU."""
        pixels, resized = prepare(image)
        found = self.model(pixel_values=pixels.to(self.device))
        height, width = pixels.shape[-2:]
        original = (image.shape[0], image.shape[1])
        result = instances(
            found.class_queries_logits[0],
            found.masks_queries_logits[0],
            (height, width),
            resized,
            original,
            above=above,
        )
        return Instances(result.labels.cpu(), result.scores.cpu(), result.boxes, result.masks.cpu())
