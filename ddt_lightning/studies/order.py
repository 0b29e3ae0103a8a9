"""What the order of tokens is worth: one small language model, trained on the same ids in several orders.

Protocol, fixed before the runs. Sets of ids (of DDT, of other image tokenizers, of words) are each seen in their
natural order, reversed, by strides and in a random order (`ddt_lightning/shards/permute.py`). A random order is one
permutation for all samples, another one for each seed; the others are the same for all seeds. The model, its steps, its
batches and the samples in them are the same for every order of a set and seed; only the places of the ids differ. Rows
are ids alone, without a caption or class: a caption would say a part of what the order is to say, and neither paper
names one. The score is the cross-entropy of a held-out sample in nats, summed over its K ids, after the last step; the
penalty of an order is its score minus that of the natural order with the same seed, in nats and relative to the natural
one; intervals are Student's 95 % over seeds. Sets are to have equal bits, K log2(codes), which the table shows; where
they differ, compare relative penalties only. Words come as windows of K words, so that they can be permuted as ids.

A set whose order means something pays for losing it. Sources: DDT-LLaMA, figure 1 (raster ids hardly lose, DDT ids do,
as text does); Selftok, appendix C (loss or entropy against position: in a set that is a language it falls along
each segment of a strided order).
"""

import csv
import inspect
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import write_text
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.intervals import Mean, over_seeds, paired
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import inputs_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.panels import draw_bars, draw_lines, panels, save
from ddt_lightning.shards.permute import NATURAL, permutation
from ddt_lightning.shards.read import expand
from ddt_lightning.shards.write import common_fields
from ddt_lightning.studies.base import Training

WORDS = "words"
RANDOM = "random"
PLAIN = (
    "A language model learns to guess each token from those before it; if the tokens of an image are like a language, "
    "putting them in another order makes guessing harder, and if they are like the squares of a mosaic it does not."
)
ALONE: Overlay = {"data": {"t2i": 0.0, "i2t": 0.0, "image_only": 1.0, "text_only": 0.0, "caption_drop": 0.0}}


@dataclass(frozen=True, kw_only=True)
class OrderStudy(Training):
    """Sets of ids in several orders.

    Args:
        sets: {name: {shards, val_shards}} of token shards.
        words: options of `ddt data words` (`shards`, `val_shards`, `length`, `codes`, `hop`) for text; null for none.
        orders: of `shards/permute.py`, the natural one among them; `random` is `random-SEED` of each run's seed.
        samples: held-out samples that are scored.
    """

    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    words: dict[str, Any] | None = None
    orders: list[str] = field(default_factory=lambda: [NATURAL, "reversed", "stride-1", "stride-2", RANDOM])
    samples: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sets and not self.words:
            raise ValueError("`sets` is empty and `words` null: name token shards, e.g. {ddt: {shards, val_shards}}.")
        for name, shards in self.sets.items():
            if sorted(shards) != ["shards", "val_shards"] or name == WORDS:
                raise ValueError(f"`sets.{name}` must be {{shards: [...], val_shards: [...]}}, and not called {WORDS}.")
        if NATURAL not in self.orders or len(set(self.orders)) < len(self.orders):
            raise ValueError(f"`orders` ({self.orders}) must name each order once, and {NATURAL} among them.")
        for order in self.orders:
            permutation(named(order, 0), 2)  # refuses an unknown name


@dataclass(frozen=True)
class Scores:
    """What one set of ids gave.

    Args:
        bits: K log2(codes).
        length: K.
        final: {order: {seed: nats per sample}}.
        loss: {order: loss at each place, mean over seeds `[K]`}.
        entropy: the same of the prediction's entropy.
        curves: {order: (steps, nats per held-out sample during training, mean over seeds)}.
    """

    bits: float
    length: int
    final: dict[str, dict[int, float]]
    loss: dict[str, list[float]]
    entropy: dict[str, list[float]]
    curves: dict[str, tuple[list[float], list[float]]]


def named(order: str, seed: int) -> str:
    """The permutation's name for one seed."""
    return f"{RANDOM}-{seed}" if order == RANDOM else order


def split_pair(pair: str, option: str) -> tuple[str, str]:
    """Name and folder of `name=FOLDER`.

    Raises:
        ValueError: something else than a pair.
    """
    name, _, folder = pair.partition("=")
    if not name or not folder:
        raise ValueError(f"`{option}` ({pair}) must be pairs name=FOLDER.")
    return name, folder


def from_pairs(pairs: list[str]) -> dict[str, dict[str, list[str]]]:
    """`name=FOLDER` pairs as sets: all of `train/` and `val/`, or the folder's `images-{train,val}-*.tar`."""
    parts = {"shards": "train", "val_shards": "val"}
    found = {}
    for name, folder in (split_pair(pair, "--sets") for pair in pairs):
        patterns = "{}/*.tar" if (Path(folder) / "train").is_dir() else "images-{}-*.tar"
        found[name] = {option: [f"{folder}/{patterns.format(part)}"] for option, part in parts.items()}
    return found


def text_step(study: OrderStudy, out: Path) -> list[Step]:
    """The step that makes token shards of words, if text is studied."""
    if not study.words:
        return []
    return [verb_step(WORDS, "data words", study.words, out / WORDS)]


def sources(study: OrderStudy, out: Path) -> dict[str, tuple[dict[str, list[str]], str]]:
    """{name: (shards and held-out shards, what is known of them)} of every set, words last."""
    found = {}
    for name, shards in study.sets.items():
        marks = [inputs_mark(shards[option], f"sets.{name}.{option}") for option in ("shards", "val_shards")]
        found[name] = (shards, " ".join(marks))
    if study.words:
        made = {"shards": [f"{out}/words/words-train-*.tar"], "val_shards": [f"{out}/words/words-val-*.tar"]}
        found[WORDS] = (made, "")  # the step that makes them says what they are
    return found


def chain_of(study: OrderStudy, name: str, order: str, seed: int, out: Path) -> Chain:
    """Training and scoring of one run; of words, their shards first, which all of those runs share."""
    shards, mark = sources(study, out)[name]
    run = out / "runs" / name / order / f"seed-{seed}"
    data = {**shards, "permute": named(order, seed), "val_samples": study.samples}
    overlay = overlaid({"trainer": {"max_steps": study.steps}}, study.settings, ALONE, {"data": data})
    title = f"{name}.{order}.{seed}"
    before = text_step(study, out) if name == WORDS else []
    train = fit_step(f"{title}.train", "pretrain", study.configs, overlay, seed, out, run, mark)
    options = {"model": str(run), "shards": shards["val_shards"], "permute": named(order, seed),
               "samples": study.samples}  # fmt: skip
    scored = verb_step(f"{title}.eval", "eval tokens", options, run / "eval")
    return Chain(f"{name}, {order}, seed {seed}", f"{study.steps} steps", [*before, train, scored])


def plan(study: OrderStudy, out: Path) -> list[Chain]:
    """All runs, seed by seed, so that a stopped study has whole comparisons."""
    return [
        chain_of(study, name, order, seed, out)
        for seed in study.seeds
        for name in sources(study, out)
        for order in study.orders
    ]


def write_protocol(study: OrderStudy, out: Path) -> None:
    """`README.md` of the study's folder: the protocol, and what is run; written before anything is."""
    said = {"steps": study.steps, "seeds": study.seeds, "orders": study.orders, "configs": study.configs,
            "settings": study.settings, "sets": study.sets, "words": study.words}  # fmt: skip
    text = f"# {study.title}\n\n{inspect.getdoc(sys.modules[__name__])}\n\n```json\n{json.dumps(said, indent=2)}\n```\n"
    write_text(out / "README.md", text)


def collect(study: OrderStudy, out: Path) -> dict[str, Scores]:
    """What the finished runs gave, by set."""
    found = {}
    for name, (shards, _) in sources(study, out).items():
        final: dict[str, dict[int, float]] = {}
        places: dict[str, list[dict[str, list[float]]]] = {}
        lines: dict[str, list[dict[float, float]]] = {}
        for order in study.orders:
            for seed in study.seeds:
                chain = chain_of(study, name, order, seed, out)
                if is_done(out, chain):
                    run, measured = (step.folder for step in chain.steps[-2:])
                    value = read_cards(measured)["tokens/nats_per_image"]["value"]
                    final.setdefault(order, {})[seed] = float(value)
                    places.setdefault(order, []).append(json.loads((measured / "positions.json").read_text()))
                    lines.setdefault(order, []).append(held_out(run))
        if final:
            fields, _ = common_fields(expand(shards["shards"], f"sets.{name}"), f"sets.{name}")
            length = int(fields["K"])
            loss, entropy = ({order: mean([one[part] for one in every]) for order, every in places.items()}
                             for part in ("loss", "entropy"))  # fmt: skip
            curves = {order: curve(every, length) for order, every in lines.items()}
            bits = length * math.log2(fields["codebook_size"])
            found[name] = Scores(bits, length, final, loss, entropy, curves)
    return found


def held_out(run: Path) -> dict[float, float]:
    """{step: nats per id} of a run's validations."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {float(row["step"]): float(row["val/image_loss"]) for row in csv.DictReader(file)
                if row.get("val/image_loss")}  # fmt: skip


def mean(rows: list[list[float]]) -> list[float]:
    """Column means."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def curve(lines: list[dict[float, float]], length: int) -> tuple[list[float], list[float]]:
    """Mean over seeds at the steps that all have, in nats per sample."""
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    return steps, [length * sum(line[step] for line in lines) / len(lines) for step in steps]


def penalties(scores: Scores, relative: bool) -> dict[str, Mean]:
    """What each order but the natural one costs."""
    natural = scores.final.get(NATURAL, {})
    found = {order: paired(by_seed, natural, relative) for order, by_seed in scores.final.items() if order != NATURAL}
    return {order: one for order, one in found.items() if one is not None}


def findings(study: OrderStudy, scores: Mapping[str, Scores], failed: dict[str, str]) -> Findings:
    """The table of all sets and orders."""
    rows = []
    for name, one in scores.items():
        costs, shares = penalties(one, False), penalties(one, True)
        for order, by_seed in one.final.items():
            total = over_seeds(list(by_seed.values()))
            cells = [name, order, str(len(by_seed)), *total.shown(), f"{total.value / one.length:.4f}"]
            if order in costs:
                share = shares[order].shown("+.1%")
                cells += [*costs[order].shown("+.2f"), *share]
            else:
                cells += ["", "", "", ""]
            rows.append(cells)
    head = ["ids", "order", "seeds", "nats / sample", "95 %", "nats / id", "penalty", "95 %", "relative", "95 %"]
    bits = ", ".join(f"{name} {one.bits:.0f}" for name, one in scores.items())
    explained = (
        f"{study.steps} steps of one model for every row; cross-entropy of held-out ids without captions, summed over "
        "the ids of a sample. Penalty: minus that of the natural order, seed by seed. Orders: reversed, the last id "
        "first; stride-1, every second id, then those left out; stride-2, every third; random, one shuffle for all "
        f"samples. Bits of a sample: {bits}; penalties of sets with other bits compare only relatively. README.md "
        "in the study's folder has the protocol."
    )
    pictures = {
        "penalty.png": "What each order costs, relative to the natural one, with 95 % over seeds.",
        "study.png": "Held-out loss during training, and loss and entropy of the prediction along the sequence.",
    }
    numbers = {name: vars(one) for name, one in scores.items()}
    return Findings("order", study.title, PLAIN, explained, [Table(head, rows, names=2)], pictures, numbers, failed)


def draw(study: OrderStudy, scores: Mapping[str, Scores], out: Path) -> None:
    """Both pictures."""
    figure, grid = panels(study.title, 1, 1, width=7.5, height=3.6)
    costs = {name: penalties(one, relative=True) for name, one in scores.items()}
    draw_bars(grid[0, 0], costs, "penalty of an order", "loss over that of the natural order, relative")
    save(figure, out / "penalty.png")

    figure, grid = panels(study.title, 3, len(scores))
    for column, (name, one) in enumerate(scores.items()):
        places = list(range(1, one.length + 1))
        draw_lines(grid[0, column], one.curves, f"{name}: training", "step", "held-out nats per sample")
        for row, (part, values) in enumerate({"loss": one.loss, "entropy": one.entropy}.items(), 1):
            lines = {order: (places, by_place) for order, by_place in values.items()}
            draw_lines(grid[row, column], lines, f"{name}: {part} by place", "place in the sequence", "nats")
    save(figure, out / "study.png")
