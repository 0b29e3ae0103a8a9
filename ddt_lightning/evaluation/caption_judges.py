"""Captions of photos by judges: their meaning by MiniLM, and the objects they name by the boxes of YOLOX-Nano."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddt_lightning.metrics.cards import Card, file_hashes, mean_card

if TYPE_CHECKING:
    import numpy as np


def meaning_cards(folder: str, device: str, written: Sequence[str], known: Sequence[Sequence[str]]) -> dict[str, Card]:
    """Mean cosine of captions and references by MiniLM, with a baseline and a person's caption.

    Args:
        folder: MiniLM's.
        device: where it runs.
        written: a caption of each image.
        known: the references of each image.
    """
    from ddt_lightning.inputs import pick_device
    from ddt_lightning.metrics.sentences import Sentences
    from ddt_lightning.tokens.base import weights_hash

    judge = Sentences(folder, pick_device(device))
    rule = "mean cosine of the sentence vectors of caption and references, by MiniLM"
    others = [*known[1:], known[0]]
    cards = {
        "caption/meaning_MiniLM": mean_card(judge.similarity(written, known), rule),
        "caption/meaning_MiniLM_floor_shuffled": mean_card(
            judge.similarity(written, others), "baseline: the same captions against the references of the next image"
        ),
    }
    several = [texts for texts in known if len(texts) > 1]
    if several:
        people = judge.similarity([texts[0] for texts in several], [texts[1:] for texts in several])
        text = "the first reference of each image against its others: the score of a person"
        cards["caption/meaning_MiniLM_person"] = mean_card(people, text)
    for one in cards.values():
        one["scorers"] = {"minilm": weights_hash(judge.model)}
    return cards


def object_cards(
    detector: str, photos: "Sequence[np.ndarray]", written: Sequence[str], known: Sequence[Sequence[str]]
) -> dict[str, Card]:
    """Objects that captions name and the detector does not find, and those that it finds and captions do not name.

    Args:
        detector: YOLOX-Nano's file.
        photos: RGB, uint8 `[H, W, 3]` each, of 128 px or more.
        written: a caption of each.
        known: the references of each.
    """
    from ddt_lightning.evaluation.boxes import check_side, detected
    from ddt_lightning.metrics.boxes import Yolox
    from ddt_lightning.metrics.mentions import mentioned, shares

    check_side(min(min(photo.shape[:2]) for photo in photos), "--detector")
    found = detected(Yolox(detector), photos)
    seen = [{str(one.kind) for one in objects} for objects in found]
    hashes = file_hashes({"detector": detector})
    name = f"YOLOXNano-{hashes['detector'][:8]}"
    columns = {
        "": (written, seen, "captions, greedy"),
        "_person": ([texts[0] for texts in known], seen, "the first reference of each image: the score of a person"),
        "_floor_shuffled": (written, [*seen[1:], *seen[:1]], "baseline: the same captions with the next image"),
    }
    cards: dict[str, Card] = {}
    for end, (texts, there, what) in columns.items():
        missing, covered = shares([mentioned(text) for text in texts], there)
        if missing:
            text = f"COCO objects that a caption names and {name} does not find (in the manner of CHAIR): {what}"
            cards[f"caption/objects_unseen-{name}{end}"] = mean_card(missing, text)
        if covered:
            text = f"COCO objects that {name} finds and the caption names: {what}"
            cards[f"caption/objects_named-{name}{end}"] = mean_card(covered, text)
    for one in cards.values():
        one["scorers"] = hashes
    return cards
