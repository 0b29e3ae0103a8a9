"""The outcome of an ablation: one record per variant, and a table of them.

In: the evaluation cards of every finished run. Over several seeds a score is their mean with Student's interval, which
tells variants apart; with one seed it is the evaluation's own card, whose interval is over images and says nothing of
other seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ddt_lightning.metrics import intervals
from ddt_lightning.metrics.cards import Card, read_cards
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.step import Record
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.studies.schedule import REFERENCE, Study, chain_of, plan

KEPT = ("value", "interval", "n", "protocol")
PLAIN = (
    "Short runs of the tokenizer that differ in a few settings, measured on the same images: they show with which "
    "settings the decoder rebuilds images best from as many tokens."
)
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


def over_seeds(cards: Sequence[Card]) -> Card:
    """One card for the same score of several seeds: mean, and Student's 95 % interval over seeds."""
    if len(cards) == 1:
        return {key: cards[0][key] for key in KEPT}
    mean = intervals.over_seeds([float(card["value"]) for card in cards])
    protocol = f"mean and 95 % interval over {len(cards)} seeds, each: {cards[0]['protocol']} (n {cards[0]['n']})"
    found = {
        "value": mean.value,
        "interval": mean.interval and list(mean.interval),
        "n": len(cards),
        "protocol": protocol,
    }
    return {**found, "by_seed": mean.by_seed}


def collect(study: Study, out: Path) -> list[Outcome]:
    """The finished variants of a study, in the order of its plan."""
    found = []
    for variant in plan(study):
        runs = {seed: chain_of(study, variant, seed, out) for seed in study.seeds}
        seeds = [seed for seed in study.seeds if is_done(out, runs[seed])]
        if not seeds:
            continue
        folders = [runs[seed].steps[1].folder for seed in seeds]
        every = [read_cards(folder) for folder in folders]
        keys = [key for key in every[0] if key.startswith("tokenizer/")]
        seconds = [Record(out, step.name).seconds for seed in seeds for step in runs[seed].steps]
        found.append(
            Outcome(
                variant.name,
                variant.choices,
                seeds,
                {key: over_seeds([cards[key] for cards in every]) for key in keys},
                [str(cards[keys[0]]["weights"]["tokenizer"]) for cards in every],
                sum(seconds) / len(seeds),
                str(folders[0].relative_to(out)),
            )
        )
    return found


def rows(study: Study, outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the table: what was chosen on every axis, and the scores."""
    reference = next((one for one in outcomes if one.name == REFERENCE), None)
    head = [*study.axes, "PSNR", "95 %", "to reference", "SSIM", "error low / mid / high", "codes", "minutes"]
    found = []
    for one in outcomes:
        psnr = one.cards["tokenizer/psnr"]
        low, high = psnr["interval"] or (math.nan, math.nan)
        difference = ""
        if reference is not None and one is not reference:
            difference = f"{one.value('tokenizer/psnr') - reference.value('tokenizer/psnr'):+.2f}"
        found.append(
            [
                *one.choices.values(),
                f"{psnr['value']:.2f}",
                f"{low:.2f} to {high:.2f}" if psnr["interval"] else "",
                difference,
                f"{one.value('tokenizer/ssim'):.3f}",
                " / ".join(f"{one.value(key):.4f}" for key in ERRORS),
                f"{100 * one.value('tokenizer/codebook_usage'):.0f} %",
                f"{one.seconds / 60:.1f}",
            ]
        )
    return head, found


def explained(study: Study, outcomes: Sequence[Outcome]) -> str:
    """What the numbers of the table are, in words."""
    images = study.evaluation.get("images", 256)
    source = ", ".join(study.evaluation.get("shards", [])) or "held-out scenes"
    seeds = {len(one.seeds) for one in outcomes}
    over = (
        "Intervals are over these images: another seed of the training may differ by more."
        if seeds <= {1}
        else f"Means and intervals over {' or '.join(map(str, sorted(seeds)))} seeds."
    )
    return (
        f"{study.steps} steps each; PSNR in dB and SSIM of {images} images ({source}), the same for all. {over} "
        "Error: of the x0 seen in one step from x_t at low, mid and high noise, with the tokens visible there. "
        "Codes: share in use."
    )


def findings(study: Study, outcomes: Sequence[Outcome], failed: dict[str, str]) -> Findings:
    """The outcome of the study: one table, and the records of all variants."""
    pictures = {
        "study.png": "PSNR of each variant, and by the number of first tokens that the decoder is given.",
        "pictures.png": "The same held-out images, reconstructed by each variant.",
    }
    table = Table(*rows(study, outcomes), names=len(study.axes))
    numbers = {"study": asdict(study), "outcomes": [asdict(one) for one in outcomes]}
    return Findings("schedule", study.title, PLAIN, explained(study, outcomes), [table], pictures, numbers, failed)
