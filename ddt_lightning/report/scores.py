"""The scores of a run: the main ones in large numbers, and all of them with intervals, upper bounds and baselines.

In: cards and metrics, whose keys begin with `seen/` where they are of combinations that training shows. Out: records
for the templates. An upper bound is the same check on ground truth or on its reconstructions; a baseline is the check
on images or answers that know nothing of what was asked.
"""

from dataclasses import dataclass

from ddt_lightning.metrics.cards import Card

SEEN = "seen/"
"""Beginning of the keys of combinations that training shows."""
HEADLINES = {
    "t2i/shapes_geneval/overall": ("Sampling: all right", "of the objects, colours, counts and positions asked for"),
    "t2i/colour_layout/overall": ("Sampling: colours and layout", "the same, whatever the shapes"),
    "plan/right/overall": ("Plans", "that fulfil their prompt, before anything is drawn"),
    "edit/exact_match": ("Editing", "edited scenes that equal the target"),
    "vqa/accuracy": ("Questions", "answered correctly"),
    "caption/scene_match": ("Captions", "that name the scene's objects"),
    "caption/cider_d_regex": ("Captions, CIDEr-D", "of held-out photos, against people's captions"),
    "tokenizer/psnr": ("Reconstruction, dB", "PSNR, mean over held-out images"),
}
PLAIN = {"tokenizer/psnr": ".1f", "caption/cider_d_regex": ".2f"}
"""Formats of headlines that are no shares."""
GROUPS = {
    "Sampling": "t2i/", "Sampling, by GenEval's detector": "geneval_hf/", "Plans": "plan/", "Editing": "edit/",
    "Questions": "vqa/", "Captions": "caption/", "In words": "words/", "Tokenizer": "tokenizer/",
    "Pictures": "pictures/",
}  # fmt: skip
"""Parts of the evaluation, and what the keys of their scores begin with; other parts follow under their own names."""
NO_SCORES = ("time/", "decode/")
"""Starts of keys of what metrics.json holds beside scores."""
NO_SHARE = ("psnr", "cider", "perplexity", "_l1", "x0_error", "lpips", "fid", "kid", "FD-", "KD-")
"""Parts of keys of what does not lie between 0 and 1 with 1 the best: no bar."""
APART = ("", "novel/", "groups/")
"""Parts of the keys of prompts by their split: those scored apart follow the usual ones."""
UPPER_BOUNDS = {
    **{
        f"t2i/{apart}shapes_geneval/": {
            "tokenizer": f"t2i/{apart}ceiling_tokenizer",
            "truth": f"t2i/{apart}ceiling_render",
        }
        for apart in APART
    },
    **{f"plan/{apart}right/": {"truth": f"plan/{apart}ceiling_grid"} for apart in APART},
    "edit/exact_match": {"tokenizer": "edit/ceiling_tokenizer"},
}
"""{start of a score's key: {name: key of the bound}}."""
BASELINES = {
    **{
        f"t2i/{apart}shapes_geneval/": {
            "other prompt": f"t2i/{apart}floor_shuffled",
            "circles": f"t2i/{apart}floor_circles",
        }
        for apart in APART
    },
    **{
        f"t2i/{apart}colour_layout/overall": {"other prompt": f"t2i/{apart}colour_layout/floor_shuffled"}
        for apart in APART
    },
    **{f"plan/{apart}right/": {"other prompt": f"plan/{apart}floor_shuffled"} for apart in APART},
    "vqa/accuracy": {"other image": "vqa/floor_blind"},
}


@dataclass(frozen=True)
class Tile:
    """A main score in large numbers.

    Args:
        number: the score, written.
        name: what was measured.
        remark: what the number is of.
        beside: numbers to compare it with, by name.
    """

    number: str
    name: str
    remark: str
    beside: dict[str, str]


@dataclass(frozen=True)
class Score:
    """A row of the table of scores.

    Args:
        key: as in metrics.json.
        held_out: card of held-out data; of a score without a card only its value.
        seen: the same of combinations that training shows.
        upper: upper bounds by name.
        baseline: baselines by name.
        share: whether it lies between 0 and 1, with 1 the best.
        bound: whether it is an upper bound or a baseline itself.
    """

    key: str
    held_out: Card | None
    seen: Card | None
    upper: dict[str, float]
    baseline: dict[str, float]
    share: bool
    bound: bool


def tiles(cards: dict[str, Card], metrics: dict[str, float]) -> list[Tile]:
    """The main scores that a run has."""
    found = []
    for key, (name, remark) in HEADLINES.items():
        if key not in metrics:
            continue
        if key in PLAIN:
            found.append(Tile(f"{metrics[key]:{PLAIN[key]}}", name, remark, {}))
            continue
        beside = {}
        if spread := (cards.get(key) or {}).get("interval"):
            beside["95 %"] = "{:.0f} to {:.0f} %".format(*(100 * end for end in spread))
        for title, limits in (("upper bound", UPPER_BOUNDS), ("baseline", BASELINES)):
            values = list(bounds(limits, key, metrics).values())
            beside |= {title: f"{100 * values[0]:.0f} %"} if values else {}
        if SEEN + key in metrics:
            beside["seen in training"] = f"{100 * metrics[SEEN + key]:.0f} %"
        found.append(Tile(f"{100 * metrics[key]:.1f} %", name, remark, beside))
    return found


def score_groups(cards: dict[str, Card], metrics: dict[str, float]) -> dict[str, list[Score]]:
    """Every score by part of the evaluation; held-out and seen ones of one key in one row."""
    cards = {key: {"value": value, "interval": None, "n": None} for key, value in metrics.items()} | cards
    keys = sorted({key.removeprefix(SEEN) for key in metrics}, key=_order)
    groups: dict[str, list[Score]] = {}
    parts = {f"{key.partition('/')[0]}/" for key in keys if not key.startswith((*NO_SCORES, *GROUPS.values()))}
    for title, start in {**GROUPS, **{part: part for part in sorted(parts)}}.items():
        rows = [
            Score(
                key,
                cards.get(key),
                cards.get(SEEN + key),
                bounds(UPPER_BOUNDS, key, metrics),
                bounds(BASELINES, key, metrics),
                not any(word in key for word in NO_SHARE),
                _is_bound(key),
            )
            for key in keys
            if key.startswith(start)
        ]
        groups |= {title: rows} if rows else {}
    return groups


def bounds(of: dict[str, dict[str, str]], key: str, metrics: dict[str, float]) -> dict[str, float]:
    """The upper bounds or baselines that a run has for a score, by name."""
    if _is_bound(key):
        return {}
    names = {
        # of a kind its own, where it was measured
        name: own if (own := bound + key.removeprefix(start)) in metrics else bound
        for start, found in of.items()
        if key.startswith(start)
        for name, bound in found.items()
    }
    if of is BASELINES:  # `KEY_floor_NAME` is a baseline of KEY
        own = f"{key}_floor_"
        names |= {other.removeprefix(own): other for other in metrics if other.startswith(own)}
    return {name: metrics[bound] for name, bound in names.items() if bound in metrics}


def _is_bound(key: str) -> bool:
    """Whether a key is that of an upper bound or of a baseline."""
    return "ceiling" in key or "floor" in key


def _order(key: str) -> tuple[bool, str, int]:
    """Scores before their bounds, numbers by size."""
    name, _, number = key.partition("@")
    return _is_bound(key), name, int(number) if number.isdigit() else 0
