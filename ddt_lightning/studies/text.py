"""`ddt study text`: perplexity of held-out text after text alone, and after text with images.

Every run trains the same model for as many steps on as many texts: a share of lines of text, and captions for the rest.
Without images the captions are texts like the lines; with images each caption is followed by the ids of its image. So
all runs see equally many tokens of text of both kinds, and differ in the images alone. The text tokenizer is trained
once, for all runs. The score is `val/text_ppl` of the held-out lines after the last step, per piece of the text
tokenizer. Source: DDT-LLaMA, where joint training lowers the perplexity of text with DDT ids and raises it with VQGAN
ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from ddt_lightning.metrics.intervals import Mean, over_seeds, paired, spread_title
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import inputs_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.panels import draw_bars, draw_lines, panels, save
from ddt_lightning.studies.base import Study, token_sets, validations
from ddt_lightning.studies.text_tokenizer import make_text_tokenizer

ALONE = "text alone"
PLAIN = (
    "One model that reads and draws must not become worse at text for it; this compares how well a model guesses "
    "unseen text after training on text alone and after training on the same text with images, by kind of image token."
)


@dataclass(frozen=True)
class Condition:
    """Perplexity of held-out text in one condition.

    Args:
        final: {seed: after the last step}.
        curve: {step: mean over seeds}.
    """

    final: dict[int, float]
    curve: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class TextStudy(Study[dict[str, Condition]]):
    """Text with and without the ids of images.

    Args:
        sets: token shards of the same captioned images by image tokenizer, as {name: shards} or as name=FOLDER, with
            train/ or images-train-*.tar.
        text_shards: lines of text.
        val_text_shards: held-out lines.
        lines: share of the rows that are lines; the others are captions.
        text_vocab_size: the most pieces of the shared text tokenizer.
    """

    CONFIG: ClassVar[str] = "stages/study-text.yaml"

    sets: dict[str, str | list[str] | None]
    text_shards: list[str]
    val_text_shards: list[str]
    lines: float = 0.25
    text_vocab_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sets or ALONE in self.sets:
            raise ValueError(f"`sets` ({', '.join(self.sets)}) must name token shards, none of them {ALONE!r}.")
        if missing := [name for name, shards in self.sets.items() if not shards]:
            raise ValueError(f"`sets.{missing[0]}` is empty: name a folder or patterns of token shards.")
        if not 0 < self.lines < 1:
            raise ValueError(f"`lines` ({self.lines}) must lie between 0 and 1.")

    def shards_of(self, name: str) -> list[str]:
        """The token shards of a set."""
        given = self.sets[name]
        return token_sets({name: given})[name]["shards"] if isinstance(given, str) else given or []

    @property
    def captions(self) -> list[str]:
        """The shards whose captions the runs without images read: those of the first set."""
        return self.shards_of(next(iter(self.sets)))

    def condition(self, name: str) -> Overlay:
        """The data of one condition."""
        captions = self.captions
        if name == ALONE:
            lines = {"text_shards": [*self.text_shards, *captions], "t2i": 0.0, "text_only": 1.0}
            return {"data": {**lines, "shards": captions, "weights": {"text_shards": shares(self, len(captions))}}}
        lines = {"text_shards": self.text_shards, "t2i": round(1 - self.lines, 6), "text_only": self.lines}
        return {"data": {**lines, "shards": self.shards_of(name)}}

    def tokenizer_step(self, out: Path) -> Step:
        """The step that trains the text tokenizer of all runs, on lines and captions."""
        patterns, size = [*self.text_shards, *self.captions], self.text_vocab_size
        make = partial(make_text_tokenizer, patterns, size, out / "text")
        inputs = f"{inputs_mark(patterns, 'text_shards')} {size}"
        return Step("text-tokenizer", "train the text tokenizer", [], out / "text", inputs=inputs, before=make)

    def chain_of(self, name: str, seed: int, out: Path) -> Chain:
        """Training of one condition; its held-out text is scored at its end."""
        shared = {"i2t": 0.0, "image_only": 0.0, "caption_drop": 0.0, "text_tokenizer": str(out / "text")}
        shared |= {"val_shards": None, "val_text_shards": self.val_text_shards}
        always: Overlay = {"trainer": {"max_steps": self.steps}, "data": shared}
        overlay = overlaid(self.settings, always, self.condition(name))
        label = name.replace(" ", "-")
        options = ("shards", "text_shards", "val_text_shards")
        marks = " ".join(inputs_mark(overlay["data"][option], option) for option in options)
        folder = out / "runs" / label / f"seed-{seed}"
        train = fit_step(f"{label}.{seed}", "pretrain", self.configs, overlay, seed, out, folder, marks)
        return Chain(f"{name}, seed {seed}", f"{self.steps} steps", [self.tokenizer_step(out), train])

    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed."""
        return [self.chain_of(name, seed, out) for seed in self.seeds for name in (ALONE, *self.sets)]

    def collect(self, out: Path) -> dict[str, Condition]:
        """The perplexities of the finished runs, by condition."""
        found = {}
        for name in (ALONE, *self.sets):
            lines = {}
            for seed in self.seeds:
                run = self.chain_of(name, seed, out)
                if is_done(out, run):
                    lines[seed] = validations(Path(run.steps[-1].folder), "val/text_ppl")
            if lines:
                common = sorted(set.intersection(*(set(line) for line in lines.values())))
                curve = {step: sum(line[step] for line in lines.values()) / len(lines) for step in common}
                found[name] = Condition({seed: line[max(line)] for seed, line in lines.items()}, curve)
        return found

    def draw(self, found: dict[str, Condition], out: Path) -> None:
        """`study.png`: the change, and the perplexities during training."""
        figure, grid = panels(self.title, 1, 2)
        bars = {name: {"": one} for name, one in changes(found).items()}
        draw_bars(grid[0, 0], bars, "perplexity against text alone", "relative change")
        lines = {name: (list(one.curve), list(one.curve.values())) for name, one in found.items()}
        draw_lines(grid[0, 1], lines, "held-out text", "step", "perplexity")
        save(figure, out / "study.png")

    def findings(self, found: dict[str, Condition], failed: dict[str, str]) -> Findings:
        """The table of the conditions."""
        against, spread = changes(found), spread_title(len(self.seeds))
        rows = []
        for name, one in found.items():
            title = name if name == ALONE else f"text + {name}"
            change = against[name].shown("+.1%") if name in against else ["", ""]
            rows.append([title, str(len(one.final)), *over_seeds(list(one.final.values())).shown(".3f"), *change])
        head = ["trained on", "seeds", "perplexity", spread, "to text alone", spread]
        explained = (
            f"{self.steps} steps each, {100 * self.lines:.0f} % lines and the rest captions, the same number of both "
            "in every run; with images, each caption is followed by the ids of its image. Perplexity of held-out "
            "lines per piece of one text tokenizer; a negative change means that images help."
        )
        numbers = {"final": {name: one.final for name, one in found.items()}}
        pictures = {"study.png": "Change of the perplexity of held-out text against training on text alone."}
        return Findings("text", self.title, PLAIN, explained, [Table(head, rows)], pictures, numbers, failed)


def shares(study: TextStudy, captions: int) -> list[float]:
    """Weights of the patterns: of lines together `lines`, of captions together the rest."""
    count = len(study.text_shards)
    return [study.lines / count] * count + [(1 - study.lines) / captions] * captions


def changes(found: Mapping[str, Condition]) -> dict[str, Mean]:
    """Relative change of the perplexity against text alone, seed by seed."""
    alone = found[ALONE].final if ALONE in found else {}
    against = {name: paired(one.final, alone, relative=True) for name, one in found.items() if name != ALONE}
    return {name: one for name, one in against.items() if one is not None}
