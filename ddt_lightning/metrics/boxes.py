"""Objects in photos by YOLOX-Nano: boxes of COCO's 80 classes, for presence, number and place of what is drawn.

Source: YOLOX (Ge et al. 2021, arXiv 2107.08430). The network runs as an ONNX file by onnxruntime. It is small and made
for photos of 416 px: from 128 px up it finds nearly as much as in the original, below that people at best. A score made
with it is called `boxes-YOLOXNano-<start of the file's SHA-256>` and never GenEval.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddt_lightning.metrics.detection import NAMES
from ddt_lightning.metrics.geneval_photos import NOT_ASKED
from ddt_lightning.scenes.check import Object

SIDE, STRIDES = 416, (8, 16, 32)
GREY = 114.0  # of the padding
THRESHOLD, OVERLAP = 0.3, 0.45
SMALLEST_SIDE = 128
"""Side from which the boxes can be trusted."""


def letterbox(image: Tensor) -> tuple[Tensor, float]:
    """The network's input `[1, 3, 416, 416]`, BGR in 0 to 255, and the factor of its size to the image's.

    Args:
        image: RGB, uint8 `[3, H, W]`.
    """
    height, width = image.shape[-2:]
    scale = min(SIDE / height, SIDE / width)
    size = (round(height * scale), round(width * scale))
    pixels = interpolate(image[None].float(), size, mode="bilinear", align_corners=False)
    return pad(pixels.flip(1), (0, SIDE - size[1], 0, SIDE - size[0]), value=GREY), scale


def decoded(output: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes `x1, y1, x2, y2` of the input `[3549, 4]` and scores of the classes `[3549, 80]`.

    Args:
        output: `[3549, 85]`: centre and log size in units of the stride of each place, objectness, classes.
    """
    places, strides = [], []
    for stride in STRIDES:
        count = SIDE // stride
        rows, columns = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
        places.append(torch.stack([columns, rows], -1).view(-1, 2).float())
        strides.append(torch.full((count * count, 1), float(stride)))
    step = torch.cat(strides)
    centre, size = (output[:, :2] + torch.cat(places)) * step, output[:, 2:4].exp() * step
    return torch.cat([centre - size / 2, centre + size / 2], 1), output[:, 4:5] * output[:, 5:]


class Yolox:
    """The detector of an ONNX file.

    Args:
        path: the file, such as `make judges` writes.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnxruntime is not installed.
        ValueError: it is another network.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"`detector` ({path}) does not exist: name the yolox_nano.onnx of `make judges`.")
        try:
            import onnxruntime  # an extra
        except ImportError as error:
            raise ImportError("YOLOX needs onnxruntime: pip install 'ddt-lightning[judges]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, torch.get_num_threads())
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has classes of its own
            raise ValueError(f"`detector` ({path}) is no network: {' '.join(str(error).split())[:200]}") from error
        given, made = self.session.get_inputs()[0], self.session.get_outputs()[0]
        if list(given.shape[1:]) != [3, SIDE, SIDE] or made.shape[-1] != 5 + len(NAMES):
            raise ValueError(f"`detector` ({path}) is not YOLOX-Nano: it takes {given.shape} and gives {made.shape}.")
        self.input = given.name

    def __call__(self, image: Tensor, above: float = THRESHOLD) -> list[Object]:
        """The objects in an RGB image, uint8 `[3, H, W]`, with scores above `above`, most confident first.

        Their kinds are COCO's classes as GenEval spells them; they have no colour.
        """
        from torchvision.ops import batched_nms

        pixels, scale = letterbox(image)
        (output,) = self.session.run(None, {self.input: pixels.numpy()})
        boxes, scores = decoded(torch.from_numpy(np.asarray(output)).float()[0])
        best, labels = scores.max(1)
        sure = best > above
        boxes, best, labels = boxes[sure] / scale, best[sure], labels[sure]
        kept = batched_nms(boxes, best, labels, OVERLAP)
        height, width = image.shape[-2:]
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        rows = zip(
            boxes[kept].clamp(min=0).minimum(limits).tolist(), best[kept].tolist(), labels[kept].tolist(), strict=True
        )
        return [Object(NAMES[label], NOT_ASKED, (a, b, c, d), score) for (a, b, c, d), score, label in rows]
