"""`ddt eval boxes`: objects, their number and their places in drawings of photos, by the boxes of YOLOX-Nano.

The rules are those of GenEval's prompts that ask for no colour. The detector is another and smaller one, so a score is
called `boxes-YOLOXNano-<hash>` and cannot be compared with GenEval's. Images must have 128 px or more.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.evaluation.geneval import OFFICIAL, check_classes, files_of
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive, progress
from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.cards import Card, file_hashes
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np

    from ddt_lightning.metrics.boxes import Yolox
    from ddt_lightning.scenes.check import Object


def boxes(
    *,
    out: str,
    detector: str = "yolox_nano",
    images: str | None = None,
    prompts: str = OFFICIAL,
    samples: int = 4,
    chat: bool = True,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw prompts for objects, numbers and places, and check them by the boxes of YOLOX-Nano.

    Args:
        out: folder for boxes.json, boxes.png and geneval/ with the images and rows in GenEval's layout.
        detector: YOLOX-Nano's ONNX file, or `yolox_nano` of `make judges`.
        images: folder of images in GenEval's layout to check; drawn by the model if not given.
        prompts: metadata like GenEval's; prompts for colours are passed over.
        samples: how many images to draw for each prompt.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seed: of the images and of the shuffled baseline.
        processes: worker processes that draw, each with its share of the cores.
        loading: which model.
        drawing: how to draw.

    Raises:
        ValueError: there is no prompt without a colour, or an image is too small for the detector.
    """
    from ddt_lightning.evaluation import geneval
    from ddt_lightning.evaluation.geneval_folder import read_folder, read_photo
    from ddt_lightning.metrics.boxes import Yolox
    from ddt_lightning.metrics.geneval import overall_card, read_metadata, rows, shuffled, tag_cards

    path = find_judge(detector, "--detector")
    name = f"boxes-YOLOXNano-{file_hashes({'detector': path})['detector'][:8]}"
    found = Yolox(path)
    session = None if images else Session(loading, drawing, processes, seed, files={"detector": path})
    if session is not None:
        check_side(session.image_size, "--model")
        asked = colourless(read_metadata(os.path.expandvars(prompts)), "--prompts", prompts)
        check_classes(asked)
        geneval.draw(session, Path(out), asked, positive("samples", samples), chat)
    root = Path(images or Path(out) / "geneval")
    everything = read_folder(root)
    kept = colourless([one.metadata for one in everything], "--images", str(root))
    drawn = [one for one in everything if one.metadata in kept]
    photos = [read_photo(root / one.file) for one in drawn]
    check_side(min(min(photo.shape[:2]) for photo in photos), "--images")
    objects = detected(found, photos)
    metadata, files = [one.metadata for one in drawn], [one.file for one in drawn]
    results = rows(objects, metadata, filenames=files)
    rule = (
        f"{name}: GenEval's rules for objects, numbers and places on {len(drawn)} images, scores above 0.3; not GenEval"
    )
    cards: dict[str, Card] = tag_cards(name, results, rule)
    if all(len({str(one) for one in metadata if one["tag"] == tag}) > 1 for tag in {one["tag"] for one in metadata}):
        others = rows(objects, shuffled(metadata, seed=seed), filenames=files)
        cards[f"{name}/floor_shuffled"] = overall_card(others, "baseline: the same images, another prompt of their tag")
    write_rows = files_of(root, drawn, results)

    def pictures(folder: Path) -> None:
        write_rows(folder)
        (folder / "geneval.png").rename(folder / "boxes.png")

    settings = {
        "images": str(images or f"{samples} drawn for each prompt"),
        "prompts": len({str(one) for one in metadata}),
    }
    outcome = Outcome("boxes", cards, [f"{name}/overall"], settings, len(drawn), len(drawn), pictures=pictures)
    if session is not None:
        session.write(out, outcome)
    else:
        weights = file_hashes({"detector": path})
        outcome.write(out, {"seed": "of the images", "weights": weights, "settings": {}})


def check_side(side: int, option: str) -> None:
    """Fail if images are too small for the detector.

    Raises:
        ValueError: naming the option.
    """
    from ddt_lightning.metrics.boxes import SMALLEST_SIDE

    if side < SMALLEST_SIDE:
        raise ValueError(f"`{option}`: images of {side} px are too small for boxes, which need {SMALLEST_SIDE} px.")


def colourless(asked: Sequence[dict[str, Any]], option: str, named: str) -> list[dict[str, Any]]:
    """The prompts that ask for no colour.

    Raises:
        ValueError: there is none.
    """
    kept = [one for one in asked if all("color" not in entry for entry in one["include"])]
    if not kept:
        raise ValueError(f"`{option}` ({named}) has no prompt without a colour, and boxes have none.")
    return kept


def detected(detector: "Yolox", photos: "Sequence[np.ndarray]") -> "list[list[Object]]":
    """The objects in each RGB image, uint8 `[H, W, 3]`."""
    import torch

    return [detector(torch.tensor(photo).permute(2, 0, 1)) for photo in progress(photos, "detecting")]
