"""GenEval's correctness rule on detected objects, and its scores: detections and metadata in, rows and means out.

The rule, the rows of `results.jsonl` and the summary are those of djghosh13/geneval (arXiv 2310.11513), whatever the
detector. `score` detects with `scenes.check`, so its result is shapes-GenEval and never a GenEval number; objects in
photos come from `geneval_photos.py`. With `ignore_kind` the six rules are applied with the kind left out and every
entry on objects of its own (colour_layout).
"""

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.metrics.cards import Card, card
from ddt_lightning.metrics.intervals import DRAWS, percentiles, wilson
from ddt_lightning.scenes.check import Object, detect, relations
from ddt_lightning.texts import parse_json, read_lines

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


def _by_class(objects: Sequence[Object]) -> dict[str, list[Object]]:
    """Objects by kind, most confident first; those of no kind are left out."""
    classes: dict[str, list[Object]] = {}
    for found in sorted(objects, key=lambda found: -found.score):
        if found.kind is not None:
            classes.setdefault(found.kind, []).append(found)
    return classes


def evaluate(objects: Sequence[Object], metadata: dict, *, ignore_kind: bool = False) -> tuple[bool, str]:
    """Decide whether the objects of one image are what its prompt asks for, and if not, say why.

    Args:
        objects: what was detected; each entry looks at the most confident objects of its class.
        metadata: one GenEval prompt (`include`, perhaps `exclude`).
        ignore_kind: leave the class out of every rule; entries take different objects, in the best way there is.
    """
    if ignore_kind:
        return _evaluate_layout(objects, metadata)
    classes = _by_class(objects)
    reasons: list[str] = []
    groups: list[list[Object] | None] = []
    for entry in metadata.get("include", []):
        name, count = entry["class"], entry["count"]
        found = classes.get(name, [])[:count]
        reason = None
        if len(found) < count:
            reason = f"expected {name}>={count}, found {len(found)}"
        elif "color" in entry:
            colours = [one.colour for one in found]
            wanted = colours.count(entry["color"])
            if wanted < count:
                seen = ", ".join(f"{colours.count(colour)} {colour}" for colour in COLOURS if colour in colours)
                reason = f"expected {entry['color']} {name}>={count}, found {wanted} {entry['color']}; and {seen}"
        if reason is None and "position" in entry:
            held, target = entry["position"]
            others = groups[target]
            if others is None:
                reason = f"no target for {name} to be {held}"
            else:
                true = [relations(one.box, other.box) for one in found for other in others]
                wrong = [names for names in true if held not in names]
                if wrong:
                    reason = f"expected {name} {held} target, found {' and '.join(wrong[0])} target"
        if reason:
            reasons.append(reason)
        groups.append(None if reason else found)
    for entry in metadata.get("exclude", []):
        number = len(classes.get(entry["class"], []))
        if number >= entry["count"]:
            reasons.append(f"expected {entry['class']}<{entry['count']}, found {number}")
    return not reasons, "\n".join(reasons)


def _evaluate_layout(objects: Sequence[Object], metadata: dict) -> tuple[bool, str]:
    """The rule without classes: some choice of different objects fulfils all entries."""
    entries = metadata.get("include", [])
    for entry in metadata.get("exclude", []):
        limit = entry["count"] + sum(one["count"] for one in entries if one["class"] != entry["class"])
        if len(objects) >= limit:
            return False, f"expected objects<{limit}, found {len(objects)}"

    def fulfilled(index: int, groups: list[tuple[Object, ...]], left: list[Object]) -> bool:
        if index == len(entries):
            return True
        entry = entries[index]
        fitting = [one for one in left if entry.get("color") in (None, one.colour)]
        for group in combinations(fitting, entry["count"]):
            if "position" in entry:
                held, target = entry["position"]
                if any(held not in relations(one.box, other.box) for one in group for other in groups[target]):
                    continue
            if fulfilled(index + 1, [*groups, group], [one for one in left if all(one is not own for own in group)]):
                return True
        return False

    found = fulfilled(0, [], list(objects))
    return found, "" if found else f"no choice of {len(objects)} objects fulfils the prompt"


def rows(
    detections: Sequence[Sequence[Object]],
    metadata: Sequence[dict],
    *,
    ignore_kind: bool = False,
    filenames: Sequence[str] | None = None,
) -> list[dict]:
    """One row of the official `results.jsonl` per image, in the official order of keys.

    Args:
        detections: the objects of each image.
        metadata: the prompt of each image.
        ignore_kind: as in `evaluate`.
        filenames: of each image; by default the official layout, counting the images of a prompt that come in a row.

    Raises:
        ValueError: the numbers of images and prompts differ.
    """
    if len(detections) != len(metadata):
        raise ValueError(f"`detections` has {len(detections)} images and `metadata` {len(metadata)}; they must agree.")
    texts = [json.dumps(prompt) for prompt in metadata]
    result: list[dict] = []
    prompt_number, sample = -1, 0
    for index, (objects, prompt) in enumerate(zip(detections, metadata, strict=True)):
        same = index > 0 and texts[index] == texts[index - 1]
        prompt_number, sample = (prompt_number, sample + 1) if same else (prompt_number + 1, 0)
        correct, reason = evaluate(objects, prompt, ignore_kind=ignore_kind)
        details = {
            name: [[*(float(edge) for edge in one.box), float(one.score)] for one in found]
            for name, found in _by_class(objects).items()
        }
        result.append(
            {
                "filename": filenames[index] if filenames else f"{prompt_number:05d}/samples/{sample:04d}.png",
                "tag": prompt["tag"],
                "prompt": prompt["prompt"],
                "correct": bool(correct),
                "reason": reason,
                "metadata": texts[index],
                "details": json.dumps(details),
            }
        )
    return result


def score(images: NDArray[np.uint8], metadata: Sequence[dict], *, ignore_kind: bool = False) -> list[dict]:
    """Detect and evaluate: uint8 images `[N, H, W, 3]` and the prompt of each, to rows."""
    return rows([detect(image).objects for image in images], metadata, ignore_kind=ignore_kind)


def summary(results: Sequence[dict]) -> dict[str, float]:
    """Share of correct images per tag, and `overall`: the unweighted mean of the tags that occur."""
    by_tag: dict[str, list[bool]] = {}
    for row in results:
        by_tag.setdefault(row["tag"], []).append(row["correct"])
    means = {tag: float(np.mean(by_tag[tag])) for tag in (*TAGS, *sorted(set(by_tag) - set(TAGS))) if tag in by_tag}
    return {**means, "overall": float(np.mean(list(means.values()))) if means else math.nan}


def totals(results: Sequence[dict]) -> dict[str, float]:
    """The official summary's other lines: numbers of images and of distinct prompts, and the share of each correct."""
    prompts: dict[str, bool] = {}
    for row in results:
        prompts[row["metadata"]] = prompts.get(row["metadata"], False) or row["correct"]
    return {
        "images": len(results),
        "prompts": len(prompts),
        "correct_images": float(np.mean([row["correct"] for row in results])) if results else math.nan,
        "correct_prompts": float(np.mean(list(prompts.values()))) if prompts else math.nan,
    }


def intervals(results: Sequence[dict], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of `summary`: Wilson's per tag; for `overall` a bootstrap over the prompts within each tag."""
    shares: dict[str, dict[str, list[bool]]] = {}
    for row in results:
        shares.setdefault(row["tag"], {}).setdefault(row["metadata"], []).append(row["correct"])
    found: dict[str, tuple[float, float]] = {}
    rng = np.random.default_rng(seed)
    overall = np.zeros(DRAWS)
    for tag, prompts in shares.items():
        flat = [correct for images in prompts.values() for correct in images]
        found[tag] = wilson(sum(flat), len(flat))
        right = np.array([sum(images) for images in prompts.values()])
        number = np.array([len(images) for images in prompts.values()])
        chosen = rng.integers(len(right), size=(DRAWS, len(right)))
        overall += right[chosen].sum(1) / number[chosen].sum(1) / len(shares)
    if shares:
        found["overall"] = percentiles(overall)
    return found


def overall_card(results: Sequence[dict], protocol: str) -> Card:
    """The card of `overall`."""
    return card(summary(results)["overall"], len(results), protocol, intervals(results)["overall"])


def tag_cards(prefix: str, results: Sequence[dict], protocol: str) -> dict[str, Card]:
    """Cards `PREFIX/TAG` of every tag that occurs, and `PREFIX/overall`."""
    found, means = intervals(results), summary(results)
    cards = {}
    for tag in (tag for tag in means if tag != "overall"):
        number = sum(row["tag"] == tag for row in results)
        cards[f"{prefix}/{tag}"] = card(means[tag], number, f"{protocol}; mean over images", found[tag])
    return {**cards, f"{prefix}/overall": overall_card(results, f"{protocol}; mean of the tags")}


def read_metadata(prompts: str) -> list[dict]:
    """GenEval metadata from a JSON Lines file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming a line that is not metadata, or an empty file.
    """
    path = Path(prompts)
    if not path.is_file():
        raise FileNotFoundError(f"`prompts` ({prompts}) is not a file of GenEval metadata.")
    found = []
    for number, line in read_lines(path):
        try:
            metadata = parse_json(line)
            whole = metadata["tag"] in TAGS and metadata["prompt"] and metadata["include"]
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(f"{prompts}, line {number} is not GenEval metadata (tag, include, prompt).")
        found.append(metadata)
    if not found:
        raise ValueError(f"`prompts` ({prompts}) holds no prompt.")
    return found


def demand(metadata: dict) -> tuple:
    """The content of a prompt, the same for prompts that differ in the order of words only."""
    entries = metadata["include"]
    asked = sorted((entry["class"], entry["count"], entry.get("color") or "") for entry in entries)
    places = []
    for entry in entries:
        if "position" in entry:
            held, target = entry["position"]
            pair = (entry["class"], entries[target]["class"])
            turned = {"right of": "left of", "below": "above"}
            places.append((pair[::-1], turned[held]) if held in turned else (pair, held))
    return tuple(asked), tuple(sorted(places))


def shuffled(metadata: Sequence[dict], *, seed: int = 0) -> list[dict]:
    """For each image another prompt of its tag that asks for something else, for the baseline of a score.

    Raises:
        ValueError: a tag has no two different prompts.
    """
    rng = np.random.default_rng(seed)
    by_tag: dict[str, list[dict]] = {}
    for prompt in metadata:
        same = by_tag.setdefault(prompt["tag"], [])
        if prompt not in same:
            same.append(prompt)
    chosen = []
    for prompt in metadata:
        others = [other for other in by_tag[prompt["tag"]] if demand(other) != demand(prompt)]
        if not others:
            raise ValueError(f"`metadata` has one demand of tag {prompt['tag']!r} only; a shuffled baseline needs two.")
        chosen.append(others[int(rng.integers(len(others)))])
    return chosen
