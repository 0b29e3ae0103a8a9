"""`ddt study against`: image tokenizers through the same language model: encode, pretrain, instruct, draw and edit.

Everything but the ids is the same: image, edit and question shards, text, network, steps, batches, prompts and edits.
The tokenizers are to have equal bits, K log2(codes), within a tolerance; a tokenizer with more could win by that alone.
Each is a run folder that `ddt encode --tokenizer` accepts, of whatever kind. Source: DDT-LLaMA's comparison with MoVQ
through Gemma2-2B.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ddt_lightning.inputs import Coding
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.intervals import Mean, over_seeds
from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.chains import is_done, run_chains
from ddt_lightning.plans.fingerprint import inputs_mark, weights_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.contact_sheet import Row, sheet
from ddt_lightning.report.findings import Findings, Scores, compared
from ddt_lightning.report.galleries import read_json
from ddt_lightning.report.panels import draw_bars, panels, save
from ddt_lightning.shards.write import read_tokens_json
from ddt_lightning.studies.base import Study, check_renderer

# what is shown of the cards, and as what; a key of PREFIXES stands for all that begin with it
SHOWN = {
    "t2i/shapes_geneval/": "drawing: ",
    "t2i/colour_layout/overall": "drawing: colour and layout",
    "t2i/ceiling_tokenizer": "upper bound: drawing",
    "edit/exact_match": "editing: all kinds",
    "edit/exact_match/": "editing: ",
    "edit/ceiling_tokenizer": "upper bound: editing",
    "edit/l1": "L1 error: edited images",
    "edit/kept_l1": "L1 error: outside the edited region",
    "t2i/FD": "distance: FD",
}
PREFIXES = ("t2i/shapes_geneval/", "edit/exact_match/", "t2i/FD")
SCORED = 3  # steps of a chain that score: drawing, editing, distance
GROUPS = ("drawing", "editing", "upper bound", "L1 error", "distance")
SHARES = ("drawing: ", "editing: ")
PLAIN = (
    "The same language model learns the same pictures, written down by different image tokenizers; what it then draws "
    "and edits says which way of writing pictures suits it better."
)


@dataclass(frozen=True)
class Comparison:
    """The results of a study.

    Args:
        scores: {score: {tokenizer: {seed: value}}}.
        bits: {tokenizer: bits of an image}.
    """

    scores: Scores
    bits: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AgainstStudy(Study[Comparison]):
    """Tokenizers side by side. `configs`, `settings` and `steps` are of pretraining.

    Args:
        tokenizers: name=FOLDER of each, a run or folder; the first one is what the others are compared with.
        renderers: name=FOLDER of the renderer of those that have one; the others decode as they do.
        orders: {name: order of its ids in the language model}, where it is not `fine_to_coarse`.
        shards: folder of `ddt data scenes`: images, edits, questions and text, for training and held out.
        bits_tolerance: by how much the bits of an image may differ, relative to the first tokenizer's.
        instruct: {configs, settings, steps} of instruction tuning.
        select: rewards of `ddt data select`: tuning sees those images and edits alone whose ids decode to what the
            rewards find right; empty for all.
        rl: the same as `instruct` of practice with a reward after it, see `stages/rl.yaml`; empty for none.
        coding: further options of `ddt encode`.
        drawing: options of `ddt eval t2i`.
        editing: options of `ddt eval edit`.
        distance: options of `ddt eval distribution` on drawings for held-out captions.
    """

    CONFIG: ClassVar[str] = "stages/study-against.yaml"

    tokenizers: dict[str, str]
    shards: str
    renderers: dict[str, str] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    bits_tolerance: float = 0.02
    instruct: dict[str, Any] = field(default_factory=dict)
    select: dict[str, float] = field(default_factory=dict)
    rl: dict[str, Any] = field(default_factory=dict)
    coding: dict[str, Any] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)
    editing: dict[str, Any] = field(default_factory=dict)
    distance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tokenizers) < 2:
            raise ValueError(f"`tokenizers` ({', '.join(self.tokenizers)}) must name at least two, {{name: folder}}.")
        for option in ("tokenizers", "renderers"):
            for name, folder in getattr(self, option).items():
                if not name or not folder:
                    raise ValueError(f"`{option}` ({name}) must be given as name=FOLDER.")
        for option, named in (("renderers", self.renderers), ("orders", self.orders)):
            if unknown := sorted(set(named) - set(self.tokenizers)):
                raise ValueError(f"`{option}` ({unknown[0]}) is none of the tokenizers {', '.join(self.tokenizers)}.")
        for option, given in (("instruct", self.instruct), ("rl", self.rl)):
            if sorted(given) != ["configs", "settings", "steps"] and (given or option == "instruct"):
                raise ValueError(f"`{option}` ({', '.join(given)}) must have configs, settings and steps.")

    def encoding(self, name: str, out: Path) -> list[Step]:
        """The steps that encode all shards with one tokenizer, and perhaps select among the ids."""
        kinds = [f"{self.shards}/{kind}-*.tar" for kind in ("images", "edits", "questions")]
        options = {"tokenizer": self.tokenizers[name], "shards": kinds, "order": self.orders.get(name), **self.coding}
        mark = f"{inputs_mark(kinds, 'shards')} {weights_mark(find_part('tokenizer', self.tokenizers[name]))}"
        encode = verb_step(f"{name}.encode", "encode", options, out / "tokens" / name, mark)
        if not self.select:
            return [encode]
        shared = [one.name for one in fields(Coding) if one.name in self.coding]  # selection knows no `views`
        judged = {
            "tokenizer": self.tokenizers[name],
            "renderer": self.renderers.get(name),
            "shards": [f"{out}/tokens/{name}/{kind}-train-*.tar" for kind in ("images", "edits")],
            "rewards": self.select,
            **{option: self.coding[option] for option in shared},
        }
        select = verb_step(
            f"{name}.select", "data select", judged, out / "tokens" / f"{name}-right", self.drawn_by(name)
        )
        return [encode, select]

    def drawn_by(self, name: str) -> str:
        """Mark of the weights of a tokenizer's renderer; empty where it has none."""
        renderer = self.renderers.get(name)
        return "" if renderer is None else weights_mark(find_part("renderer", renderer))

    def chain_of(self, name: str, seed: int, out: Path) -> Chain:
        """Encoding, pretraining, instruction tuning, perhaps practice, drawing and editing with one tokenizer's ids.

        Raises:
            FileNotFoundError: shards, tokenizer or renderer are missing.
        """
        tokens, run = out / "tokens" / name, out / "runs" / name / f"seed-{seed}"
        ids: Overlay = {"shards": [f"{tokens}/images-train-*.tar"], "val_shards": [f"{tokens}/images-val-*.tar"],
                        "text_shards": [f"{self.shards}/text-train-*.tar"],
                        "texts": [f"{tokens}/edits-train-*.tar", f"{tokens}/questions-train-*.tar"]}  # fmt: skip
        base = {"trainer": {"max_steps": self.steps}, "model": {"codebook": self.tokenizers[name]}}
        overlay = overlaid(base, self.settings, {"data": ids})
        texts = inputs_mark([f"{self.shards}/text-train-*.tar"], "shards")
        pretrain = fit_step(f"{name}.{seed}.pretrain", "pretrain", self.configs, overlay, seed, out, run / "pretrain",
                            texts)  # fmt: skip
        shown = out / "tokens" / f"{name}-right" if self.select else tokens
        chats: Overlay = {"vocab": str(run / "pretrain" / "vocab"), "images": [f"{shown}/images-train-*.tar"],
                          "edits": [f"{shown}/edits-train-*.tar"],
                          "questions": [f"{tokens}/questions-train-*.tar"]}  # fmt: skip
        more = {"trainer": {"max_steps": self.instruct["steps"]}}
        tuned = overlaid(more, self.instruct["settings"], {"data": chats, "init_from": str(run / "pretrain")})
        instruct = fit_step(f"{name}.{seed}.instruct", "instruct", self.instruct["configs"], tuned, seed, out,
                            run / "instruct")  # fmt: skip
        renderer = self.renderers.get(name)
        trained, last = [pretrain, instruct], run / "instruct"
        if self.rl:
            parts = {"tokenizer": self.tokenizers[name], "renderer": renderer}
            start = {"init_from": str(last), "data": {"vocab": f"{last}/release/vocab"}, "model": parts}
            practised = overlaid({"trainer": {"max_steps": self.rl["steps"]}}, self.rl["settings"], start)
            last = run / "rl"
            trained.append(fit_step(f"{name}.{seed}.rl", "rl", self.rl["configs"], practised, seed, out, last,
                                    self.drawn_by(name)))  # fmt: skip
        loading = {"model": str(last), "tokenizer": self.tokenizers[name], "renderer": renderer}
        scored = [
            verb_step(
                f"{name}.{seed}.t2i", "eval t2i", {**loading, **self.drawing}, run / "eval-t2i", self.drawn_by(name)
            ),
            verb_step(f"{name}.{seed}.edit", "eval edit", {**loading, **self.editing}, run / "eval-edit"),
            verb_step(
                f"{name}.{seed}.distance",
                "eval distribution",
                {**loading, "made": "drawings", **self.distance},
                run / "eval-distance",
            ),
        ]
        practice = f", practise {self.rl['steps']}" if self.rl else ""
        select = ", select" if self.select else ""
        about = (
            f"encode{select}, pretrain {self.steps} steps, instruct {self.instruct['steps']}{practice}, draw and edit"
        )
        return Chain(f"{name}, seed {seed}", about, [*self.encoding(name, out), *trained, *scored])

    def encodings(self, out: Path) -> list[Chain]:
        """Encoding of all shards by each tokenizer."""
        return [
            Chain(f"{name}, encode", "images, edits, questions", self.encoding(name, out)) for name in self.tokenizers
        ]

    def plan(self, out: Path) -> list[Chain]:
        """All trainings, seed by seed."""
        return [self.chain_of(name, seed, out) for seed in self.seeds for name in self.tokenizers]

    def prepare(self, out: Path) -> None:
        """Encode all shards, and refuse an unfair comparison before anything is trained.

        Raises:
            RuntimeError: encoding failed.
            ValueError: the tokenizers spend different bits on an image, or a renderer is of another tokenizer.
        """
        if failed := run_chains(self.encodings(out), out):
            raise RuntimeError(f"encoding failed ({'; '.join(failed.values())}); see {out}/logs.")
        every = self.bits_of(out)
        first = next(iter(every.values()))
        for name, bits in every.items():
            if abs(bits - first) > self.bits_tolerance * first:
                raise ValueError(
                    f"`tokenizers.{name}` spends {bits:.0f} bits on an image, the first one {first:.0f}: compare those "
                    f"of equal K log2(codes), or raise `bits_tolerance` ({self.bits_tolerance})."
                )
        for name, renderer in self.renderers.items():
            check_renderer(renderer, read_tokens_json(out / "tokens" / name)["tokenizer"])

    def bits_of(self, out: Path) -> dict[str, float]:
        """{tokenizer: bits of an image} of the encoded shards."""
        facts = {name: read_tokens_json(out / "tokens" / name) for name in self.tokenizers}
        return {name: one["K"] * math.log2(one["codebook_size"]) for name, one in facts.items()}

    def collect(self, out: Path) -> Comparison:
        """The scores of the finished runs: drawing by tag, edits by kind, distance of drawings."""
        found: dict[str, dict[str, dict[int, float]]] = {}
        for name in self.tokenizers:
            for seed in self.seeds:
                run = self.chain_of(name, seed, out)
                for step in run.steps[-SCORED:] if is_done(out, run) else []:
                    for key, card in read_cards(step.folder).items():
                        start = key if key in SHOWN else next((one for one in PREFIXES if key.startswith(one)), None)
                        if start is not None:
                            label = SHOWN[start] + key.removeprefix(start).replace("_", " ")
                            found.setdefault(label, {}).setdefault(name, {})[seed] = float(card["value"])
        ordered = sorted(found.items(), key=lambda one: GROUPS.index(one[0].split(":")[0]))
        return Comparison(dict(ordered), self.bits_of(out))

    def draw(self, found: Comparison, out: Path) -> None:
        """`study.png`, and `draw.png` and `edit.png`: the same prompts and edits, a column for each tokenizer."""
        figure, grid = panels(self.title, 1, 1, width=max(8.0, 0.75 * len(found.scores)), height=3.8)
        bars: dict[str, dict[str, Mean]] = {
            key.replace(": ", "\n"): {name: over_seeds(list(by_seed.values())) for name, by_seed in one.items()}
            for key, one in found.scores.items()
            if key.startswith(SHARES)
        }
        draw_bars(grid[0, 0], bars, "share that is right", "")
        grid[0, 0].tick_params(axis="x", labelsize=7)
        save(figure, out / "study.png")
        pictures = {"draw.png": ("eval-t2i", "t2i", "prompt"), "edit.png": ("eval-edit", "edit", "instruction")}
        for file, (part, index, text) in pictures.items():
            folders = {name: out / "runs" / name / f"seed-{self.seeds[0]}" / part for name in self.tokenizers}
            listed = {name: read_json(folder / "samples" / f"{index}.json") for name, folder in folders.items()}
            listed = {name: items for name, items in listed.items() if items}
            if listed:
                rows, titles = same(listed, folders, text)
                sheet(rows, titles=titles).save(out / file)

    def findings(self, found: Comparison, failed: dict[str, str]) -> Findings:
        """The side-by-side table."""
        spent = ", ".join(f"{name} {value:.0f}" for name, value in found.bits.items())
        drawn_by = f" Drawn in one step by a renderer: {', '.join(self.renderers)}." if self.renderers else ""
        judged = (
            f" Tuning saw only images and edits whose ids earn {', '.join(self.select)}, of each tokenizer its own."
        )
        selected = judged if self.select else ""
        seeds = {len(by_seed) for one in found.scores.values() for by_seed in one.values()}
        explained = (
            f"Bits of an image: {spent}. The same shards, network, steps, prompts and edits.{selected} "
            "Drawings are scored by the tags of shapes-GenEval (a classical checker on rendered shapes, not GenEval), "
            "edits by whether the edited scene "
            "equals its target; colour and layout is drawing with any shape taken as right; the upper bound is what "
            "reconstructions of true scenes score. Less is better: the L1 error of edits (in 0..1), and the "
            f"distance of drawings for held-out captions from their scenes.{drawn_by} Seeds: "
            f"{' or '.join(map(str, sorted(seeds))) or 'none'}; means and differences are over them, with Student's "
            "95 % of three or more, which may reach beyond what a score can be; of two both values are shown."
        )
        pictures = {"study.png": "Share of right drawings and edits by tokenizer.",
                    "draw.png": "The same prompts drawn through each tokenizer.",
                    "edit.png": "The same edits made through each tokenizer."}  # fmt: skip
        numbers = {"scores": found.scores, "bits": found.bits}
        table = compared(list(self.tokenizers), found.scores)
        return Findings("against", self.title, PLAIN, explained, [table], pictures, numbers, failed)


def same(listed: dict[str, Any], folders: Mapping[str, Path], text: str) -> tuple[list[Row], list[str]]:
    """Rows of what every tokenizer made of one prompt or edit, two of each tag or kind, and the columns' titles."""
    first = next(iter(listed))
    titles, rows = [], []
    shown: dict[str, int] = {}
    for number, item in enumerate(listed[first]):
        kind = item.get("tag", item.get("type"))
        shown[kind] = shown.get(kind, 0) + 1
        if shown[kind] > 2:
            continue
        cells = [] if "source" not in item else [("source", folders[first] / item["source"])]
        for name, items in listed.items():
            other = items[number]
            if other[text] != item[text]:
                raise ValueError(f"{folders[name]} and {folders[first]} were asked different things: run both again.")
            cells.append((name, folders[name] / (other["result"] if "result" in other else other["files"][0])))
        cells += [] if "target" not in item else [("target", folders[first] / item["target"])]
        titles = [title for title, _ in cells]
        images = [np.asarray(Image.open(file).convert("RGB")) for _, file in cells]
        rows.append(Row(item[text], images, str(kind).replace("_", " ")))
    return rows, titles
