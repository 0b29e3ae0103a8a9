"""What helps with combinations never seen: variants of training data and losses, scored on the same held-out prompts.

Each variant changes one thing of the first one: what the shards say (plans, relations from both sides, mirrored
places, contrasts), how many kinds and pairs of kinds there are, or the training loss. For each number of kinds one
tokenizer and one renderer are trained; for each variant the shards are made and encoded, and for each variant and seed
a language model is pretrained, tuned, and scored. All are asked for what the first variant's world holds out, which
every other must hold out, too, and for what training showed in their own world. Places are asked for by both splits of
`scenes/combinations.py`, which are never mixed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.intervals import Mean, paired, share_over_seeds, spread_title
from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import weights_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, Scores, Table
from ddt_lightning.report.panels import draw_bars, panels, save
from ddt_lightning.scenes.combinations import held
from ddt_lightning.scenes.world import World
from ddt_lightning.studies.base import Study

# {title of a table: {column: (folder of the evaluation, key of its card)}}
FIRST = {
    "pairs": ("mirror", "t2i/shapes_geneval/two_object"),
    "places, mirror": ("mirror", "t2i/shapes_geneval/position"),
    "places, novel": ("novel", "t2i/novel/shapes_geneval/position"),
    "all tags": ("mirror", "t2i/shapes_geneval/overall"),
}
TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "Held out: pairs and places": FIRST,
    "Held out: other tags": {
        "colours of two": ("mirror", "t2i/shapes_geneval/color_attr"),
        "numbers": ("mirror", "t2i/shapes_geneval/counting"),
        "colours": ("mirror", "t2i/shapes_geneval/colors"),
        "colour and layout": ("mirror", "t2i/colour_layout/overall"),
        "upper bound": ("mirror", "t2i/ceiling_tokenizer"),
    },
    "Held out: plans alone": {
        "pairs, planned": ("plan-mirror", "plan/right/two_object"),
        "places planned, mirror": ("plan-mirror", "plan/right/position"),
        "places planned, novel": ("plan-novel", "plan/novel/right/position"),
        "all tags, planned": ("plan-mirror", "plan/right/overall"),
    },
    "Shown in training": {
        "pairs, shown": ("seen", "t2i/shapes_geneval/two_object"),
        "places, shown": ("seen", "t2i/shapes_geneval/position"),
        "all tags, shown": ("seen", "t2i/shapes_geneval/overall"),
    },
}
PLAIN = (
    "A model that draws has learned a language only if it can draw what it was never shown put together; this compares "
    "ways to teach it."
)
CHANGES = ("scenes", "pretrain", "instruct", "drawing")
RENDERER = "-kinds.renderer"  # ends the names of steps that train one
STAGE = ["configs", "settings", "steps"]
Found = dict[str, dict[str, dict[int, float]]]
"""{score: {variant: {seed: value}}}"""


@dataclass(frozen=True, kw_only=True)
class CompositionStudy(Study[Found]):
    """Variants of training. `configs`, `settings` and `steps` are of pretraining.

    Args:
        scenes: options of `ddt data scenes` for every variant.
        variants: {name: {scenes, pretrain, instruct, drawing}}: options of `ddt data scenes`, overlays of two stages,
            options of `ddt eval t2i`; each may be left out. The first variant is what the others are compared with.
        tokenizer: {configs, settings, steps} of the tokenizers.
        renderer: the same of their renderers.
        instruct: the same of instruction tuning.
        tokenizers: {number of kinds: run or folder of a tokenizer} of those that are not to be trained.
        renderers: the same of their renderers.
        coding: further options of `ddt encode`.
        drawing: options of `ddt eval t2i`.
        seen: further ones for prompts of what training shows.
        planning: options of `ddt eval plan`, for variants whose shards have plans.
    """

    CONFIG: ClassVar[str] = "stages/study-composition.yaml"

    scenes: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    tokenizer: dict[str, Any]
    renderer: dict[str, Any]
    instruct: dict[str, Any]
    tokenizers: dict[int, str] = field(default_factory=dict)
    renderers: dict[int, str] = field(default_factory=dict)
    coding: dict[str, Any] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("tokenizer", "renderer", "instruct"):
            if sorted(getattr(self, option)) != STAGE:
                raise ValueError(f"`{option}` ({', '.join(getattr(self, option))}) must have {', '.join(STAGE)}.")
        if not self.variants:
            raise ValueError("`variants` is empty: name at least one, {name: {scenes: {...}}}.")
        if missing := sorted(set(self.renderers) - set(self.tokenizers)):
            raise ValueError(f"`renderers` ({missing[0]}) is of a tokenizer that `tokenizers` does not name.")
        asked = held(self.asked)
        for name, changes in self.variants.items():
            if unknown := sorted(set(changes) - set(CHANGES)):
                raise ValueError(f"`variants.{name}` ({unknown[0]}) must be one of {', '.join(CHANGES)}.")
            if not held(self.world(name)).covers(asked):
                raise ValueError(
                    f"`variants.{name}` shows in training what the prompts of {next(iter(self.variants))!r} hold out: "
                    "let it show fewer pairs of kinds, or hold out as many splits."
                )

    @property
    def asked(self) -> World:
        """The world of the first variant, whose held-out combinations all are asked for."""
        return self.world(next(iter(self.variants)))

    def options(self, name: str) -> dict[str, Any]:
        """Options of `ddt data scenes` of a variant."""
        return {**self.scenes, **self.variants[name].get("scenes", {})}

    def world(self, name: str) -> World:
        """The world of a variant."""
        options = self.options(name)
        return World(**{part: options[part] for part in ("kinds", "held_out", "pairs_shown") if part in options})

    def data_of(self, name: str) -> str:
        """The first variant with the same shards, which gives them their name."""
        return next(other for other in self.variants if self.options(other) == self.options(name))

    def codes(self, name: str, out: Path) -> tuple[str, str | None, list[Step]]:
        """Tokenizer and renderer of a variant's ids, and the steps that train them on the first shards of its kinds."""
        kinds = self.world(name).kinds
        if kinds in self.tokenizers:
            return self.tokenizers[kinds], self.renderers.get(kinds), []
        first = next(other for other in self.variants if self.world(other).kinds == kinds)
        shards = out / "shards" / slug(self.data_of(first))
        data = {"data": {"shards": [f"{shards}/images-train-*.tar"], "val_shards": [f"{shards}/images-val-*.tar"]}}
        runs = {part: out / "tokenizers" / f"{kinds}-kinds" / part for part in ("tokenizer", "renderer")}
        steps = [scenes_step(self, first, out)]
        for part, stage in (("tokenizer", self.tokenizer), ("renderer", self.renderer)):
            model = {"model": {"tokenizer": str(runs["tokenizer"])}} if part == "renderer" else {}
            overlay = overlaid({"trainer": {"max_steps": stage["steps"]}}, stage["settings"], data, model)
            steps.append(fit_step(f"{kinds}-kinds.{part}", part, stage["configs"], overlay, 0, out, runs[part]))
        return str(runs["tokenizer"]), str(runs["renderer"]), steps

    def chain_of(self, name: str, seed: int, out: Path) -> Chain:
        """Shards, ids, pretraining, instruction tuning and evaluations of one variant."""
        changes, data = self.variants[name], self.data_of(name)
        shards, tokens = out / "shards" / slug(data), out / "tokens" / slug(data)
        run = out / "runs" / slug(name) / f"seed-{seed}"
        title = f"{slug(name)}.{seed}"
        tokenizer, renderer, before = self.codes(name, out)
        made = scenes_step(self, name, out)
        before = before if any(step.name == made.name for step in before) else [*before, made]
        kinds = [f"{shards}/{kind}-*.tar" for kind in ("images", "edits", "questions")]
        known = self.world(name).kinds in self.tokenizers
        mark = weights_mark(find_part("tokenizer", tokenizer)) if known else ""
        encode = verb_step(f"{slug(data)}.encode", "encode", {"tokenizer": tokenizer, "shards": kinds, **self.coding},
                           tokens, mark)  # fmt: skip

        texts = [f"{tokens}/{kind}-train-*.tar" for kind in ("edits", "questions")]
        ids: Overlay = {"shards": [f"{tokens}/images-train-*.tar"], "val_shards": [f"{tokens}/images-val-*.tar"],
                        "text_shards": [f"{shards}/text-train-*.tar"], "texts": texts}  # fmt: skip
        base: Overlay = {"trainer": {"max_steps": self.steps}, "model": {"codebook": tokenizer}}
        overlay = overlaid(base, self.settings, changes.get("pretrain", {}), {"data": ids})
        pretrain = fit_step(f"{title}.pretrain", "pretrain", self.configs, overlay, seed, out, run / "pretrain")
        chats: Overlay = {
            "vocab": str(run / "pretrain" / "vocab"),
            **{kind: [f"{tokens}/{kind}-train-*.tar"] for kind in ("images", "edits", "questions")},
        }
        base = {"trainer": {"max_steps": self.instruct["steps"]}, "model": {"codebook": tokenizer}}
        overlay = overlaid(base, self.instruct["settings"], changes.get("instruct", {}), {"data": chats})
        overlay = overlaid(overlay, {"init_from": str(run / "pretrain")})
        instruct = fit_step(f"{title}.instruct", "instruct", self.instruct["configs"], overlay, seed, out,
                            run / "instruct")  # fmt: skip

        drawn_by = weights_mark(find_part("renderer", renderer)) if known and renderer else ""
        evals = [
            verb_step(f"{title}.{folder}", verb, {"model": str(run / "instruct"), "tokenizer": tokenizer, **options},
                      run / folder, drawn_by)
            for folder, verb, options in self.evaluations(name, renderer)
        ]  # fmt: skip
        about = f"shards, ids, pretrain {self.steps} steps, instruct {self.instruct['steps']}, {len(evals)} evaluations"
        return Chain(f"{name}, seed {seed}", about, [*before, encode, pretrain, instruct, *evals])

    def evaluations(self, name: str, renderer: str | None) -> list[tuple[str, str, dict[str, Any]]]:
        """Folder, verb and options of each evaluation of a variant."""
        drawing = {"renderer": renderer, **self.drawing, **self.variants[name].get("drawing", {})}
        asked, own = world_options(self.asked), world_options(self.world(name))
        found = [("mirror", "eval t2i", {**drawing, **asked})]
        novel = {**asked, "split": "novel"} if self.asked.holds("novel") else None
        if novel:
            found.append(("novel", "eval t2i", {**drawing, **novel}))
        found.append(("seen", "eval t2i", {**drawing, **self.seen, **own, "seen": True}))
        if self.options(name).get("plans"):
            found.append(("plan-mirror", "eval plan", {**self.planning, **asked}))
            found += [("plan-novel", "eval plan", {**self.planning, **novel})] if novel else []
        return found

    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed."""
        return [self.chain_of(name, seed, out) for seed in self.seeds for name in self.variants]

    def checked(self, run: Chain) -> list[Step]:
        """All steps but the renderers', which read the tokenizer that is trained before them."""
        return [step for step in run.steps if not step.name.endswith(RENDERER)]

    def collect(self, out: Path) -> Found:
        """The scores of the finished runs."""
        found: Found = {}
        for name in self.variants:
            for seed in self.seeds:
                run = self.chain_of(name, seed, out)
                folder = out / "runs" / slug(name) / f"seed-{seed}"
                for columns in TABLES.values() if is_done(out, run) else []:
                    for label, (part, key) in columns.items():
                        if (folder / part).is_dir():
                            value = float(read_cards(folder / part)[key]["value"])
                            found.setdefault(label, {}).setdefault(name, {})[seed] = value
        return found

    def draw(self, found: Found, out: Path) -> None:
        """`study.png`: held-out pairs and places by variant."""
        figure, grid = panels(self.title, len(FIRST), 1, width=max(7.0, 1.2 * len(self.variants)), height=2.4)
        for row, label in enumerate(FIRST):
            bars: dict[str, dict[str, Mean]] = {
                name.replace(" ", "\n"): {"": share_over_seeds(list(by_seed.values()))}
                for name, by_seed in found.get(label, {}).items()
            }
            draw_bars(grid[row, 0], bars, f"held out: {label}", "share right")
            grid[row, 0].tick_params(axis="x", labelsize=7)
        save(figure, out / "study.png")

    def findings(self, found: Found, failed: dict[str, str]) -> Findings:
        """Tables of variants: held-out pairs and places first, then what each changes of them, then the rest."""
        first = next(iter(self.variants))
        seeds = max((len(by_seed) for one in found.values() for by_seed in one.values()), default=1)
        tables = []
        for title, columns in TABLES.items():
            shown = {label: found[label] for label in columns if label in found}
            if shown:
                tables.append(by_variant(list(self.variants), shown, seeds, title))
            if columns is FIRST and len(self.variants) > 1:
                tables.append(self.changes(found, seeds))
        explained = (
            "Shares of drawings that shapes-GenEval finds right (a classical checker on rendered shapes, not GenEval). "
            f"All variants are asked for the same held-out combinations, those of {first!r}; `mirror` places are held "
            "out one way round and shown the other, `novel` ones are shown neither way round. What training shows is "
            "asked for in the variant's own world. The upper bound is what reconstructions of true scenes score. "
            "Means and differences are over seeds, with Student's 95 % of three or more, which ends at 0 and 1 for "
            "shares; a change pays or costs where that interval lies on one side of 0."
        )
        pictures = {"study.png": "Held-out pairs and places by variant, with 95 % over three seeds or more."}
        return Findings("composition", self.title, PLAIN, explained, tables, pictures, {"scores": found}, failed)

    def changes(self, found: Found, seeds: int) -> Table:
        """Differences from the first variant, seed by seed, and the scores where they are certain."""
        first, *others = self.variants
        head = ["variant", *(cell for label in FIRST for cell in (label, spread_title(seeds))), "pays", "costs"]
        rows = []
        for name in others:
            means = {
                label: paired(found.get(label, {}).get(name, {}), found.get(label, {}).get(first, {}))
                for label in FIRST
            }
            cells = [cell for one in means.values() for cell in (one.shown("+.3f") if one else ["", ""])]
            certain = {label: one.interval for label, one in means.items() if one and one.interval}
            pays = ", ".join(label for label, (low, _) in certain.items() if low > 0)
            costs = ", ".join(label for label, (_, high) in certain.items() if high < 0)
            rows.append([name, *cells, pays, costs])
        return Table(head, rows, title=f"Held out: change from {first!r}")


def slug(name: str) -> str:
    """A variant's name as part of a path."""
    return name.replace(" ", "-").replace(",", "")


def world_options(world: World) -> dict[str, Any]:
    """Options of an evaluation that name a world."""
    return {"kinds": world.kinds, "held_out": world.held_out, "pairs_shown": world.pairs_shown}


def scenes_step(study: CompositionStudy, name: str, out: Path) -> Step:
    """The step that makes a variant's shards."""
    data = slug(study.data_of(name))
    return verb_step(f"{data}.scenes", "data scenes", study.options(name), out / "shards" / data)


def by_variant(names: list[str], scores: Scores, seeds: int, title: str) -> Table:
    """Scores as columns of means and intervals, a row for each variant."""
    rows = []
    for name in names:
        cells = [
            share_over_seeds(list(one[name].values())).shown(".3f") if name in one else ["", ""]
            for one in scores.values()
        ]
        if any(cell for cell, _ in cells):
            rows.append([name, *(part for cell in cells for part in cell)])
    head = ["variant", *(cell for label in scores for cell in (label, spread_title(seeds)))]
    return Table(head, rows, title=title)
