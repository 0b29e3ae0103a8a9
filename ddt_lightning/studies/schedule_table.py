"""The outcome of an ablation: one record per variant, and a table of them.

In: the evaluation cards of every finished run. Over several seeds a score is their mean with Student's interval, which
tells variants apart; with one seed it is the evaluation's own card, whose interval is over images and says nothing of
other seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddt_lightning.metrics.cards import Card, read_cards
from ddt_lightning.metrics.intervals import Mean, over_seeds, spread_title
from ddt_lightning.plans.step import Chain, Record

REFERENCE = "reference"
KEPT = ("value", "interval", "n", "protocol")
ERRORS = tuple(f"tokenizer/x0_error_{band}_noise" for band in ("low", "mid", "high"))


@dataclass(frozen=True)
class Outcome:
    """A variant that was trained and measured.

    Args:
        name: as in the plan.
        choices: {axis: variant}.
        seeds: those that are done.
        cards: the scores, over seeds.
        weights: hash of each seed's tokenizer.
        seconds: mean duration of training and measuring.
        eval: folder of the first seed's evaluation, relative to the study's.
    """

    name: str
    choices: dict[str, str]
    seeds: list[int]
    cards: dict[str, Card]
    weights: list[str]
    seconds: float
    eval: str

    def value(self, key: str) -> float:
        """A score."""
        return float(self.cards[key]["value"])

    def label(self) -> str:
        """The variant in words: its choices where they differ from the reference."""
        differs = [f"{axis}: {name}" for axis, name in self.choices.items() if f"{axis}-{name}" in self.name.split("+")]
        return ", ".join(differs) or f"{REFERENCE} ({', '.join(self.choices.values())})"


def card_over_seeds(cards: Sequence[Card]) -> Card:
    """One card for the same score of several seeds: their mean, and its interval where there are three or more."""
    if len(cards) == 1:
        return {key: cards[0][key] for key in KEPT}
    mean = over_seeds([float(card["value"]) for card in cards])
    protocol = f"mean over {len(cards)} seeds, each: {cards[0]['protocol']} (n {cards[0]['n']})"
    spread = None if mean.interval is None else list(mean.interval)
    return {"value": mean.value, "interval": spread, "n": len(cards), "protocol": protocol, "by_seed": mean.by_seed}


def outcome(name: str, choices: dict[str, str], runs: Mapping[int, Chain], out: Path) -> Outcome:
    """The record of a variant.

    Args:
        name: of the variant.
        choices: {axis: variant}.
        runs: {seed: training and measuring} that are done.
        out: the study's folder.
    """
    folders = [run.steps[1].folder for run in runs.values()]
    every = [read_cards(folder) for folder in folders]
    keys = [key for key in every[0] if key.startswith("tokenizer/")]
    cards = {key: card_over_seeds([one[key] for one in every]) for key in keys}
    weights = [str(one[keys[0]]["weights"]["tokenizer"]) for one in every]
    seconds = sum(Record(out, step.name).seconds for run in runs.values() for step in run.steps) / len(runs)
    return Outcome(name, choices, list(runs), cards, weights, seconds, str(folders[0].relative_to(out)))


COLUMNS: dict[str, Callable[[Outcome], str]] = {
    "SSIM": lambda one: f"{one.value('tokenizer/ssim'):.3f}",
    "error low / mid / high": lambda one: " / ".join(f"{one.value(key):.4f}" for key in ERRORS),
    "codes": lambda one: f"{100 * one.value('tokenizer/codebook_usage'):.0f} %",
}
"""{heading: cell} of what a table of tokenizers shows beside PSNR."""


def rows(
    axes: Sequence[str], outcomes: Sequence[Outcome], columns: Mapping[str, Callable[[Outcome], str]] = COLUMNS
) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the table: the choice on every axis, PSNR, and the other scores."""
    reference = next((one for one in outcomes if one.name == REFERENCE), None)
    spread = spread_title(max((len(one.seeds) for one in outcomes), default=1))
    head = [*axes, "PSNR", spread, "to reference", *columns, "minutes"]
    found = []
    for one in outcomes:
        psnr = one.cards["tokenizer/psnr"]
        interval = None if psnr["interval"] is None else (psnr["interval"][0], psnr["interval"][1])
        difference = ""
        if reference is not None and one is not reference:
            difference = f"{one.value('tokenizer/psnr') - reference.value('tokenizer/psnr'):+.2f}"
        found.append(
            [
                *one.choices.values(),
                *Mean(psnr["value"], interval, psnr.get("by_seed", [])).shown(),
                difference,
                *(cell(one) for cell in columns.values()),
                f"{one.seconds / 60:.1f}",
            ]
        )
    return head, found
