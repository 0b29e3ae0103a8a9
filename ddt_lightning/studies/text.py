"""What learning images does to text: perplexity of held-out text after text alone, and after text with images.

Every run trains the same model for as many steps on as many texts: a share of lines of text, and captions for the rest.
Without images the captions are texts like the lines; with images each caption is followed by the ids of its image. So
all runs see equally many tokens of text of both kinds, and differ in the images alone. The text tokenizer is trained
once, for all runs. The score is `val/text_ppl` of the held-out lines after the last step, per piece of the text
tokenizer. Source: DDT-LLaMA, where joint training lowers the perplexity of text with DDT ids and raises it with VQGAN
ids.
"""

import csv
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ddt_lightning.atomic import staged, write_text
from ddt_lightning.metrics.intervals import Mean, over_seeds, paired
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import inputs_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid
from ddt_lightning.plans.step import Chain
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.panels import draw_bars, draw_lines, panels, save
from ddt_lightning.shards.read import Columns, expand, read_shard
from ddt_lightning.shards.rows import texts_of
from ddt_lightning.shards.tokens import MOST_TEXTS
from ddt_lightning.studies.base import Training
from ddt_lightning.vocab import train_text_tokenizer

ALONE = "text alone"
PLAIN = (
    "One model that reads and draws must not become worse at text for it; this compares how well a model guesses "
    "unseen text after training on text alone and after training on the same text with images, by kind of image token."
)
Final = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class MixtureStudy(Training):
    """Text with and without the ids of images.

    Args:
        sets: {name: token shards} of the same captioned images, by image tokenizer.
        text_shards: lines of text.
        val_text_shards: held-out lines.
        lines: share of the rows that are lines; the others are captions.
        text_vocab_size: the most pieces of the shared text tokenizer.
    """

    sets: dict[str, list[str]]
    text_shards: list[str]
    val_text_shards: list[str]
    lines: float = 0.25
    text_vocab_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sets or ALONE in self.sets:
            raise ValueError(f"`sets` ({', '.join(self.sets)}) must name token shards, none of them {ALONE!r}.")
        if not 0 < self.lines < 1:
            raise ValueError(f"`lines` ({self.lines}) must lie between 0 and 1.")


def condition(study: MixtureStudy, name: str) -> Overlay:
    """The data of one condition."""
    captions = next(iter(study.sets.values()))
    if name == ALONE:
        lines = {"text_shards": [*study.text_shards, *captions], "t2i": 0.0, "text_only": 1.0}
        return {"data": {**lines, "shards": captions, "weights": {"text_shards": shares(study, len(captions))}}}
    lines = {"text_shards": study.text_shards, "t2i": round(1 - study.lines, 6), "text_only": study.lines}
    return {"data": {**lines, "shards": study.sets[name]}}


def shares(study: MixtureStudy, captions: int) -> list[float]:
    """Weights of the patterns: of lines together `lines`, of captions together the rest."""
    count = len(study.text_shards)
    return [study.lines / count] * count + [(1 - study.lines) / captions] * captions


def text_mark(study: MixtureStudy) -> str:
    """What the text tokenizer depends on."""
    captions = next(iter(study.sets.values()))
    marks = [inputs_mark(study.text_shards, "text_shards"), inputs_mark(captions, "sets"), str(study.text_vocab_size)]
    code = inspect.getsource(train_text_tokenizer)
    return hashlib.blake2b("\n".join([*marks, code]).encode(), digest_size=8).hexdigest()


def make_text_tokenizer(study: MixtureStudy, out: Path) -> None:
    """`text/`: the text tokenizer of all runs, trained on lines and captions; kept where it is there."""
    mark, record = text_mark(study), out / "text" / "mark.json"
    if record.is_file() and json.loads(record.read_text()) == mark:
        return
    urls = expand([*study.text_shards, *next(iter(study.sets.values()))], "text_shards")
    texts = (text for url in urls for sample in read_shard(url, {}) for text in texts_of(sample, Columns()))
    with staged(out / "text") as folder:
        train_text_tokenizer(islice(texts, MOST_TEXTS), study.text_vocab_size).save_pretrained(str(folder))
        write_text(folder / "mark.json", json.dumps(mark))


def chain_of(study: MixtureStudy, name: str, seed: int, out: Path) -> Chain:
    """Training of one condition; its held-out text is scored at its end."""
    shared = {"i2t": 0.0, "image_only": 0.0, "caption_drop": 0.0, "text_tokenizer": str(out / "text")}
    shared |= {"val_shards": None, "val_text_shards": study.val_text_shards}
    always: Overlay = {"trainer": {"max_steps": study.steps}, "data": shared}
    overlay = overlaid(study.settings, always, condition(study, name))
    label = name.replace(" ", "-")
    options = ("shards", "text_shards", "val_text_shards")
    marks = " ".join([text_mark(study), *(inputs_mark(overlay["data"][option], option) for option in options)])
    folder = out / "runs" / label / f"seed-{seed}"
    train = fit_step(f"{label}.{seed}", "pretrain", study.configs, overlay, seed, out, folder, marks)
    return Chain(f"{name}, seed {seed}", f"{study.steps} steps", [train])


def plan(study: MixtureStudy, out: Path) -> list[Chain]:
    """All runs, seed by seed."""
    return [chain_of(study, name, seed, out) for seed in study.seeds for name in (ALONE, *study.sets)]


def perplexities(run: Path) -> dict[float, float]:
    """{step: perplexity of the held-out text} of a run."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {float(row["step"]): float(row["val/text_ppl"]) for row in csv.DictReader(file)
                if row.get("val/text_ppl")}  # fmt: skip


def collect(study: MixtureStudy, out: Path) -> tuple[dict[str, dict[int, float]], dict[str, dict[float, float]]]:
    """{condition: {seed: last perplexity}} of the finished runs, and {condition: {step: mean over seeds}}."""
    final: dict[str, dict[int, float]] = {}
    curves = {}
    for name in (ALONE, *study.sets):
        lines = []
        for seed in study.seeds:
            run = chain_of(study, name, seed, out)
            if is_done(out, run):
                line = perplexities(run.steps[0].folder)
                final.setdefault(name, {})[seed] = line[max(line)]
                lines.append(line)
        if lines:
            common = sorted(set.intersection(*(set(line) for line in lines)))
            curves[name] = {step: sum(line[step] for line in lines) / len(lines) for step in common}
    return final, curves


def changes(final: Final) -> dict[str, Mean]:
    """Relative change of the perplexity against text alone, seed by seed."""
    alone = final.get(ALONE, {})
    found = {name: paired(by_seed, alone, relative=True) for name, by_seed in final.items() if name != ALONE}
    return {name: one for name, one in found.items() if one is not None}


def draw(study: MixtureStudy, final: Final, curves: Mapping[str, Mapping[float, float]], out: Path) -> None:
    """`study.png`: the change, and the perplexities during training."""
    figure, grid = panels(study.title, 1, 2)
    bars = {name: {"": one} for name, one in changes(final).items()}
    draw_bars(grid[0, 0], bars, "perplexity against text alone", "relative change")
    lines = {name: (list(line), list(line.values())) for name, line in curves.items()}
    draw_lines(grid[0, 1], lines, "held-out text", "step", "perplexity")
    save(figure, out / "study.png")


def findings(study: MixtureStudy, final: Final, failed: dict[str, str]) -> Findings:
    """The table of the conditions."""
    against = changes(final)
    rows = []
    for name, by_seed in final.items():
        title = name if name == ALONE else f"text + {name}"
        change = against[name].shown("+.1%") if name in against else ["", ""]
        rows.append([title, str(len(by_seed)), *over_seeds(list(by_seed.values())).shown(".3f"), *change])
    head = ["trained on", "seeds", "perplexity", "95 %", "to text alone", "95 %"]
    explained = (
        f"{study.steps} steps each, {100 * study.lines:.0f} % lines and the rest captions, the same number of both in "
        "every run; with images, each caption is followed by the ids of its image. Perplexity of held-out lines per "
        "piece of one text tokenizer; a negative change means that images help."
    )
    pictures = {"study.png": "Change of the perplexity of held-out text against training on text alone."}
    return Findings("text", study.title, PLAIN, explained, [Table(head, rows)], pictures, {"final": final}, failed)
