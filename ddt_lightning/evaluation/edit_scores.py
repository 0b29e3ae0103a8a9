"""Similarity of edited images and their targets, as cards: overall and per kind of edit, each with its interval.

Every card holds two more values of its measure: the baseline `unchanged`, of the source in the result's place, and the
upper bound `tokenizer`, of the target as the tokenizer reconstructs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddt_lightning.evaluation.plan import shows
from ddt_lightning.images import stack
from ddt_lightning.metrics.cards import Card, mean_card

if TYPE_CHECKING:
    from ddt_lightning.metrics.embeddings import Clip, Dino
    from ddt_lightning.scenes.tasks import Edit

PROTOCOLS = {
    "l1": "mean absolute error to the target, images in [0, 1]",
    "l2": "mean squared error to the target, images in [0, 1]",
    "clip_i": "cosine of the CLIP vectors of result and target (CVS)",
    "clip_t": "cosine of the CLIP vectors of result and target's caption (CTS)",
    "clip_dir": "cosine of the changes of CLIP vectors, source to result and source's caption to target's",
    "dino": "cosine of the DINO class tokens of result and target",
}


@dataclass(frozen=True)
class Edited:
    """An edit with its result; images are uint8 `[H, W, 3]` of one size.

    Args:
        kind: of edit; empty where it is not known.
        source: before.
        image: the result.
        target: what was wanted.
        copy: the target, encoded and decoded by the tokenizer.
        captions: of source and target; None where they are not known or the same.
    """

    kind: str
    source: np.ndarray
    image: np.ndarray
    target: np.ndarray
    copy: np.ndarray
    captions: tuple[str, str] | None = None


def measure(
    images: Sequence[np.ndarray], edits: Sequence[Edited], clip: "Clip | None", dino: "Dino | None"
) -> dict[str, list[float | None]]:
    """Values of every measure, one for each edit.

    Args:
        images: the image to take as the result of each edit.
        edits: the edits.
        clip: CLIP; None leaves its measures out.
        dino: DINO; None leaves its measure out.

    Returns:
        A list by measure; None where an edit has no captions to compare with.
    """
    from ddt_lightning.metrics.editing import direction
    from ddt_lightning.metrics.reconstruction import l1, l2

    targets = [edit.target for edit in edits]
    results, wanted = stack(list(images)), stack(targets)
    found: dict[str, list[float | None]] = {
        "l1": l1(results, wanted).tolist(),
        "l2": l2(results, wanted).tolist(),
    }
    if clip is not None:
        after, goal, before = (clip.images(x) for x in (images, targets, [edit.source for edit in edits]))
        found["clip_i"] = (after * goal).sum(1).tolist()
        captioned = {n: edit.captions for n, edit in enumerate(edits) if edit.captions}
        if captioned:
            at = list(captioned)
            one, two = (clip.texts([captions[i] for captions in captioned.values()]) for i in (0, 1))
            fit = (after[at] * two).sum(1).tolist()
            turn = direction(after[at] - before[at], two - one).tolist()
            for name, values in (("clip_t", fit), ("clip_dir", turn)):
                known = dict(zip(at, values, strict=True))
                found[name] = [known.get(n) for n in range(len(edits))]
    if dino is not None:
        found["dino"] = (dino.images(images) * dino.images(targets)).sum(1).tolist()
    return found


def measure_cards(prefix: str, edits: Sequence[Edited], clip: "Clip | None", dino: "Dino | None") -> dict[str, Card]:
    """Cards `prefix/MEASURE` and `prefix/MEASURE/KIND`."""
    results, sources, copies = (
        measure([getattr(edit, part) for edit in edits], edits, clip, dino) for part in ("image", "source", "copy")
    )
    cards: dict[str, Card] = {}
    kinds = [edit.kind for edit in edits]
    for name, values in results.items():
        beside = {"unchanged": sources[name], "tokenizer": copies[name]}
        cards |= kind_cards(f"{prefix}/{name}", values, kinds, PROTOCOLS[name], beside)
    return cards


def plan_cards(prefix: str, plans: Sequence[str], edits: Sequence["Edit"]) -> dict[str, Card]:
    """Cards `prefix/plan_source` and `prefix/plan_target`, overall and by kind: how often a plan is right.

    The plan of an edit says what is seen and what it becomes, so a wrong result was misread, ill planned or ill drawn.

    Args:
        prefix: of the keys.
        plans: what was written for each edit; no cards where all are empty.
        edits: the edits.
    """
    from ddt_lightning.scenes.layout import read_edit_plan
    from ddt_lightning.scenes.tasks import GLOBAL_EDITS

    cards: dict[str, Card] = {}
    kinds = [one.kind for one in edits]
    for number, part in enumerate(("source", "target") if any(plans) else ()):
        right: list[float | None] = []
        for plan, edit in zip(plans, edits, strict=True):
            read = read_edit_plan(plan)
            wanted = (edit.source, edit.target)[number]
            right.append(float(shows(read and read[number], wanted, background=edit.kind in GLOBAL_EDITS)))
        rule = f"the plan's {part} has the true objects, centres within 10 % of the side; global edits: background too"
        cards |= kind_cards(f"{prefix}/plan_{part}", right, kinds, f"{rule}; what cannot be read is wrong")
    return cards


def kind_cards(
    key: str,
    values: Sequence[float | None],
    kinds: Sequence[str],
    protocol: str,
    beside: dict[str, list[float | None]] | None = None,
) -> dict[str, Card]:
    """Cards of all values and of those of each kind; None is left out, and so is a kind without values.

    Args:
        key: of the first card; the others add `/KIND`.
        values: one for each edit.
        kinds: of the edits; an empty one has no card.
        protocol: of the first card.
        beside: other values of the same edits, whose means stand on the cards.
    """
    cards: dict[str, Card] = {}
    for kind in dict.fromkeys(("", *kinds)):
        measured = [(n, value) for n, value in enumerate(values) if value is not None and kind in ("", kinds[n])]
        if not measured:
            continue
        name, text = (f"{key}/{kind}", f"{protocol}, kind {kind}") if kind else (key, protocol)
        cards[name] = mean_card([value for _, value in measured], text)
        for other, numbers in (beside or {}).items():
            cards[name][other] = float(np.mean([np.nan if numbers[n] is None else numbers[n] for n, _ in measured]))
    return cards
