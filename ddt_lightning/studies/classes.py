"""`ddt study classes`: sampling by class through several tokenizers. The same language model on the ids of each.

Everything but the ids is the same: photos, names of classes, network, steps, batches. Scored are drawings for the
classes of held-out photos, by their distance from these photos; and a grid shows the first drawings of each class,
not chosen. Source: DDT-LLaMA's project page, class-conditional generation beside other tokens.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import inputs_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain
from ddt_lightning.report.contact_sheet import Row, sheet
from ddt_lightning.report.findings import Findings, Scores, compared
from ddt_lightning.studies.base import Study, token_sets

PLAIN = (
    "The same language model learns to draw classes of photos, written down by different image tokenizers; less "
    "distance from real photos is better, and the eye should agree."
)


@dataclass(frozen=True, kw_only=True)
class ClassStudy(Study[Scores]):
    """Tokenizers side by side.

    Args:
        tokenizers: {name: {tokenizer, tokens}}: the run or folder of each, and its token shards in `tokens/train` and
            `tokens/val`; `renderer` where it has one. The first one is what the others are compared with.
        classes: file of their names, one a line.
        reference: held-out photos, whose captions are names of classes.
        encoder: file of `ddt study encoder` that sees such photos; null for the shipped one, which knows scenes.
        inception: torch-fidelity's Inception weights, for FID; null where they are not at hand.
        images: drawings that are compared with as many photos.
        shown: drawings of each class in the grid.
        drawing: how to draw: options of `ddt generate`, such as temperature and guidance.
    """

    CONFIG: ClassVar[str] = "stages/study-classes.yaml"

    tokenizers: dict[str, dict[str, str]]
    classes: str
    reference: list[str]
    encoder: str | None = None
    inception: str | None = None
    images: int = 1000
    shown: int = 4
    drawing: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokenizers:
            raise ValueError("`tokenizers` is empty: name one at least, {name: {tokenizer, tokens}}.")
        for name, parts in self.tokenizers.items():
            if set(parts) - {"renderer"} != {"tokenizer", "tokens"}:
                raise ValueError(f"`tokenizers.{name}` must be {{tokenizer, tokens}}, and renderer if it has one.")

    def chain_of(self, name: str, seed: int, out: Path) -> Chain:
        """Training, drawing for the distance, and drawing of each class."""
        parts, run = self.tokenizers[name], out / "runs" / name / f"seed-{seed}"
        shards = token_sets({name: parts["tokens"]})[name]
        start: Overlay = {"trainer": {"max_steps": self.steps}, "model": {"codebook": parts["tokenizer"]}}
        overlay = overlaid(start, self.settings, {"data": shards})
        marks = [inputs_mark(shards[option], f"tokenizers.{name}.tokens") for option in ("shards", "val_shards")]
        inputs = " ".join([*marks, inputs_mark(self.reference, "reference")])
        train = fit_step(f"{name}.{seed}.train", "pretrain", self.configs, overlay, seed, out, run / "pretrain", inputs)
        options = {"model": str(run / "pretrain"), "tokenizer": parts["tokenizer"], "renderer": parts.get("renderer"),
                   "chat": False, **self.drawing}  # fmt: skip
        measured = {"made": "drawings", "reference": self.reference, "images": self.images, "encoder": self.encoder,
                    "inception": self.inception}  # fmt: skip
        distance = verb_step(f"{name}.{seed}.distance", "eval distribution", {**options, **measured},
                             run / "eval-distance")  # fmt: skip
        grid = verb_step(f"{name}.{seed}.draw", "generate", {**options, "images": self.shown}, run / "pictures")
        (command,) = grid.commands
        grid = replace(grid, commands=[[*command[:2], self.classes, *command[2:]]])
        return Chain(f"{name}, seed {seed}", f"pretrain {self.steps} steps, draw", [train, distance, grid])

    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed."""
        return [self.chain_of(name, seed, out) for seed in self.seeds for name in self.tokenizers]

    def collect(self, out: Path) -> Scores:
        """{score: {tokenizer: {seed: value}}} of the finished runs."""
        found: dict[str, dict[str, dict[int, float]]] = {}
        for name in self.tokenizers:
            for seed in self.seeds:
                run = self.chain_of(name, seed, out)
                if is_done(out, run):
                    for key, card in read_cards(run.steps[1].folder).items():
                        if key.startswith("t2i/"):
                            part = key.removeprefix("t2i/").replace("halves/", "two halves of the photos: ")
                            found.setdefault(part, {}).setdefault(name, {})[seed] = float(card["value"])
        return found

    def draw(self, found: Scores, out: Path) -> None:
        """`classes.png`: the first drawings of each class by each tokenizer, of the first seed."""
        rows: dict[str, list[np.ndarray]] = {}
        titles = []
        for name in self.tokenizers:
            run = self.chain_of(name, self.seeds[0], out)
            if is_done(out, run):
                folder = run.steps[-1].folder
                for line in (folder / "results.jsonl").read_text().splitlines():
                    drawn = json.loads(line)
                    image = np.asarray(Image.open(folder / drawn["file"]).convert("RGB"))
                    rows.setdefault(drawn["prompt"], []).append(image)
                titles += [name, *[""] * (self.shown - 1)]
        if rows:
            sheet([Row(name, images) for name, images in rows.items()], titles=titles, label_width=110).save(
                out / "classes.png"
            )

    def findings(self, found: Scores, failed: dict[str, str]) -> Findings:
        """The side-by-side table."""
        explained = (
            f"{self.steps} steps of one language model for each; {self.images} drawings for the classes of as many "
            "held-out photos, which are the reference. FD is the Frechet distance of a small encoder, named after its "
            "file and never comparable to FID; KD its kernel distance; less is better, and two halves of the photos "
            "say what the number of pictures alone makes of it. Precision: drawings that look like photos; recall: "
            "photos that look like drawings. Intervals are over seeds, of three or more; of two both values are shown."
        )
        pictures = {"classes.png": "The first drawings of each class through each tokenizer, not chosen."}
        table = compared(list(self.tokenizers), found)
        return Findings("classes", self.title, PLAIN, explained, [table], pictures, {"scores": found}, failed)
