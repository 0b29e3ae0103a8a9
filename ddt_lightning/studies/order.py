"""`ddt study order`: one small language model, trained on the same ids in several orders.

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

import inspect
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ddt_lightning.atomic import write_text
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.intervals import Mean, over_seeds, paired, spread_title
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import inputs_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.panels import draw_bars, draw_lines, panels, save
from ddt_lightning.studies.base import Study, token_facts, token_sets, validations

NATURAL = "natural"
WORDS = "words"
RANDOM = "random"
PLAIN = (
    "A language model learns to guess each token from those before it; if the tokens of an image are like a language, "
    "putting them in another order makes guessing harder, and if they are like the squares of a mosaic it does not."
)
ALONE: Overlay = {"data": {"t2i": 0.0, "i2t": 0.0, "image_only": 1.0, "text_only": 0.0, "caption_drop": 0.0}}


@dataclass(frozen=True)
class Scores:
    """Scores of one set of ids.

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
    curves: dict[str, tuple[list[int], list[float]]]


@dataclass(frozen=True, kw_only=True)
class OrderStudy(Study[dict[str, Scores]]):
    """Sets of ids in several orders.

    Args:
        sets: token shards, as {name: {shards, val_shards}} or as name=FOLDER, with train/ and val/ or
            images-train-*.tar and images-val-*.tar.
        words: options of `ddt data words` (`shards`, `val_shards`, `length`, `codes`, `hop`) for text; null for none.
        text: whether the words are studied beside the sets.
        orders: of `shards/permute.py`, the natural one among them; `random` is `random-SEED` of each run's seed.
        samples: held-out samples that are scored.
    """

    CONFIG: ClassVar[str] = "stages/study-order.yaml"

    sets: dict[str, str | dict[str, list[str]] | None] = field(default_factory=dict)
    words: dict[str, Any] | None = None
    text: bool = True
    orders: list[str] = field(default_factory=lambda: [NATURAL, "reversed", "stride-1", "stride-2", RANDOM])
    samples: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sets and not self.studies_text:
            raise ValueError("`sets` is empty and no text is studied: name token shards, e.g. --sets ddt=tokens/ddt.")
        for name, shards in self.sets.items():
            if not shards or name == WORDS or (isinstance(shards, dict) and sorted(shards) != ["shards", "val_shards"]):
                raise ValueError(
                    f"`sets.{name}` ({shards}) must be a folder or {{shards: [...], val_shards: [...]}}, "
                    f"and not called {WORDS}."
                )
        if NATURAL not in self.orders or len(set(self.orders)) < len(self.orders):
            raise ValueError(f"`orders` ({self.orders}) must name each order once, and {NATURAL} among them.")
        from ddt_lightning.shards.permute import permutation  # which imports torch

        for order in self.orders:
            permutation(named(order, 0), 2)  # refuses an unknown name

    @property
    def studies_text(self) -> bool:
        """Whether there are words, and they are studied."""
        return bool(self.text and self.words)

    def sources(self, out: Path) -> dict[str, tuple[dict[str, list[str]], str]]:
        """{name: (shards and held-out shards, what is known of them)} of every set, words last."""
        found = {}
        for name, given in self.sets.items():
            shards = token_sets({name: given})[name] if isinstance(given, str) else given or {}
            marks = [inputs_mark(shards[option], f"sets.{name}.{option}") for option in ("shards", "val_shards")]
            found[name] = (shards, " ".join(marks))
        if self.studies_text:
            made = {"shards": [f"{out}/words/words-train-*.tar"], "val_shards": [f"{out}/words/words-val-*.tar"]}
            found[WORDS] = (made, "")  # the step that makes them says what they are
        return found

    def chain_of(self, name: str, order: str, seed: int, out: Path) -> Chain:
        """Training and scoring of one run; of words, their shards first, which all of those runs share."""
        shards, mark = self.sources(out)[name]
        run = out / "runs" / name / order / f"seed-{seed}"
        data = {**shards, "permute": named(order, seed), "val_samples": self.samples}
        overlay = overlaid({"trainer": {"max_steps": self.steps}}, self.settings, ALONE, {"data": data})
        title = f"{name}.{order}.{seed}"
        before = [verb_step(WORDS, "data words", self.words or {}, out / WORDS)] if name == WORDS else []
        train = fit_step(f"{title}.train", "pretrain", self.configs, overlay, seed, out, run, mark)
        options = {"model": str(run), "shards": shards["val_shards"], "permute": named(order, seed),
                   "samples": self.samples}  # fmt: skip
        scored = verb_step(f"{title}.eval", "eval tokens", options, run / "eval")
        return Chain(f"{name}, {order}, seed {seed}", f"{self.steps} steps", [*before, train, scored])

    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed."""
        return [
            self.chain_of(name, order, seed, out)
            for seed in self.seeds
            for name in self.sources(out)
            for order in self.orders
        ]

    def prepare(self, out: Path) -> None:
        """Write `README.md`: the protocol, and what is run."""
        said = {"steps": self.steps, "seeds": self.seeds, "orders": self.orders, "configs": self.configs,
                "settings": self.settings, "sets": self.sets, "words": self.words}  # fmt: skip
        protocol, settings = inspect.getdoc(sys.modules[__name__]), json.dumps(said, indent=2)
        text = f"# {self.title}\n\n{protocol}\n\n```json\n{settings}\n```\n"
        write_text(out / "README.md", text)

    def collect(self, out: Path) -> dict[str, Scores]:
        """The scores of the finished runs, by set."""
        found = {}
        for name, (shards, _) in self.sources(out).items():
            final: dict[str, dict[int, float]] = {}
            places: dict[str, list[dict[str, list[float]]]] = {}
            lines: dict[str, list[dict[int, float]]] = {}
            for order in self.orders:
                for seed in self.seeds:
                    chain = self.chain_of(name, order, seed, out)
                    if is_done(out, chain):
                        run, measured = (step.folder for step in chain.steps[-2:])
                        value = read_cards(measured)["tokens/nats_per_image"]["value"]
                        final.setdefault(order, {})[seed] = float(value)
                        places.setdefault(order, []).append(json.loads((measured / "positions.json").read_text()))
                        lines.setdefault(order, []).append(validations(run, "val/image_loss"))
            if final:
                fields = token_facts(shards["shards"], f"sets.{name}")
                length = int(fields["K"])
                loss, entropy = ({order: mean([one[part] for one in every]) for order, every in places.items()}
                                 for part in ("loss", "entropy"))  # fmt: skip
                curves = {order: curve(every, length) for order, every in lines.items()}
                bits = length * math.log2(fields["codebook_size"])
                found[name] = Scores(bits, length, final, loss, entropy, curves)
        return found

    def draw(self, found: dict[str, Scores], out: Path) -> None:
        """Both pictures."""
        figure, grid = panels(self.title, 1, 1, width=7.5, height=3.6)
        costs = {name: penalties(one, relative=True) for name, one in found.items()}
        draw_bars(grid[0, 0], costs, "penalty of an order", "loss over that of the natural order, relative")
        save(figure, out / "penalty.png")

        figure, grid = panels(self.title, 3, len(found))
        for column, (name, one) in enumerate(found.items()):
            places = list(range(1, one.length + 1))
            draw_lines(grid[0, column], one.curves, f"{name}: training", "step", "held-out nats per sample")
            for row, (part, values) in enumerate({"loss": one.loss, "entropy": one.entropy}.items(), 1):
                lines = {order: (places, by_place) for order, by_place in values.items()}
                draw_lines(grid[row, column], lines, f"{name}: {part} by place", "place in the sequence", "nats")
        save(figure, out / "study.png")

    def findings(self, found: dict[str, Scores], failed: dict[str, str]) -> Findings:
        """The table of all sets and orders."""
        rows = []
        for name, one in found.items():
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
        spread = spread_title(len(self.seeds))
        head = ["ids", "order", "seeds", "nats / sample", spread, "nats / id", "penalty", spread, "relative", spread]
        bits = ", ".join(f"{name} {one.bits:.0f}" for name, one in found.items())
        explained = (
            f"{self.steps} steps of one model for every row; cross-entropy of held-out ids without captions, summed "
            "over the ids of a sample. Penalty: this minus that of the natural order, seed by seed. Orders: reversed, "
            "the last id first; stride-1, every second id, then those left out; stride-2, every third; random, one "
            f"shuffle for all samples. Bits of a sample: {bits}; penalties of sets with other bits compare only "
            "relatively. README.md in the study's folder has the protocol."
        )
        pictures = {
            "penalty.png": "What each order costs, relative to the natural one, with 95 % over seeds.",
            "study.png": "Held-out loss during training, and loss and entropy of the prediction along the sequence.",
        }
        numbers = {name: vars(one) for name, one in found.items()}
        return Findings("order", self.title, PLAIN, explained, [Table(head, rows, names=2)], pictures, numbers, failed)


def named(order: str, seed: int) -> str:
    """The permutation's name for one seed."""
    return f"{RANDOM}-{seed}" if order == RANDOM else order


def mean(rows: list[list[float]]) -> list[float]:
    """Column means."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def curve(lines: list[dict[int, float]], length: int) -> tuple[list[int], list[float]]:
    """Mean over seeds at the steps that all have, in nats per sample."""
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    return steps, [length * sum(line[step] for line in lines) / len(lines) for step in steps]


def penalties(scores: Scores, relative: bool) -> dict[str, Mean]:
    """The penalty of each order but the natural one."""
    natural = scores.final.get(NATURAL, {})
    found = {order: paired(by_seed, natural, relative) for order, by_seed in scores.final.items() if order != NATURAL}
    return {order: one for order, one in found.items() if one is not None}
