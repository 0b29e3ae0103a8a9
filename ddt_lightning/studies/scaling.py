"""`ddt study scaling`: one recipe at several sizes, each scored at some shares of its training.

A size is trained once per seed; its checkpoints at, say, 50, 75 and 100 % of the tokens are released and scored:
cross-entropy of held-out rows, and drawings of the same prompts (all prompts of shapes-GenEval with `score`). The law
is fitted to the nats per held-out image id, against parameters outside the embeddings and image ids seen. Checkpoints
on the way have not had their learning rate lowered to the end, and those of one run are not independent: the exponent
of the tokens is that of this recipe, and its interval is too narrow. Source: DDT-LLaMA's project page, 2B and 8B models
at 50, 75 and 100 % of the training tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.intervals import over_seeds, spread_title
from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.fingerprint import CLI, inputs_mark, weights_mark
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.settings import read_yaml
from ddt_lightning.studies import powerlaw
from ddt_lightning.studies.base import Study, check_renderer, token_facts, token_sets, validations

OVERALL, LAYOUT = "t2i/shapes_geneval/overall", "t2i/colour_layout/overall"
PLAIN = (
    "Large language models get better in a predictable way with more parameters and more data; this shows whether a "
    "model of image tokens does so too, in how well it guesses tokens and in what it draws."
)


@dataclass(frozen=True)
class Point:
    """One checkpoint of one run.

    Args:
        size: name of the size.
        seed: of the run.
        percent: of the training.
        parameters: outside embedding and head.
        ids: image ids seen until then.
        loss: held-out nats per scored token.
        image_loss: held-out nats per image id.
        score: shapes-GenEval, overall; None where it was not asked for.
        layout: the same rules whatever the shape; None likewise.
    """

    size: str
    seed: int
    percent: int
    parameters: int
    ids: int
    loss: float
    image_loss: float
    score: float | None
    layout: float | None


@dataclass(frozen=True, kw_only=True)
class ScalingStudy(Study[list[Point]]):
    """Sizes of one recipe.

    Args:
        sizes: {name: overlay} with what differs, usually `model.network`; small to large.
        percents: of the steps, at which checkpoints are scored; the last is 100.
        shards: folder of token shards (images-train-*.tar, images-val-*.tar), in place of those of `settings`.
        tokenizer: run or folder of the image tokenizer that made the ids, whose codes the rows start from; `none` or
            null starts them from noise and draws nothing.
        renderer: run or folder of this tokenizer's renderer; `none` or null draws by diffusion.
        score: draw all prompts of the suite rather than one for each tag.
        evaluation: further options of `ddt eval t2i`.
    """

    CONFIG: ClassVar[str] = "stages/study-scaling.yaml"

    sizes: dict[str, Overlay] = field(default_factory=dict)
    percents: list[int] = field(default_factory=lambda: [50, 75, 100])
    shards: str | None = None
    tokenizer: str | None = None
    renderer: str | None = None
    score: bool = False
    evaluation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("tokenizer", "renderer"):
            if getattr(self, part) == "none":
                object.__setattr__(self, part, None)
        if len(self.sizes) < 2:
            raise ValueError(f"`sizes` ({', '.join(self.sizes)}) must name at least two sizes of a model.")
        if sorted(set(self.percents)) != self.percents or self.percents[0] < 1 or self.percents[-1] != 100:
            raise ValueError(f"`percents` ({self.percents}) must rise, from 1 at least to 100.")
        if any(self.steps * percent % 100 for percent in self.percents):
            raise ValueError(f"`steps` ({self.steps}) must give whole numbers at {self.percents} %.")
        if self.score and self.tokenizer is None:
            raise ValueError("`tokenizer` (null) is needed to draw, with `score`: name the run that made the ids.")
        if self.renderer is not None and self.tokenizer is None:
            raise ValueError(f"`renderer` ({self.renderer}) draws the ids of `tokenizer` (null): name both or neither.")

    @property
    def marks(self) -> list[int]:
        """The steps at which checkpoints are scored."""
        return [self.steps * percent // 100 for percent in self.percents]

    @property
    def overlay(self) -> Overlay:
        """The settings, with the token shards of `shards`."""
        return overlaid(self.settings, {} if self.shards is None else {"data": token_sets({"": self.shards})[""]})

    @property
    def data(self) -> dict[str, Any]:
        """The data of all runs, as configs and settings have it."""
        found: dict[str, Any] = overlaid(read_yaml(self.configs), self.overlay).get("data", {})
        return found

    def chain_of(self, size: str, seed: int, out: Path) -> Chain:
        """Training of one size, release of each checkpoint, then their drawings.

        Raises:
            FileNotFoundError: shards or the renderer are missing.
        """
        from ddt_lightning.callbacks.snapshots import snapshot  # which imports Lightning

        folder = out / "runs" / size / f"seed-{seed}"
        every = math.gcd(*self.marks)
        own = overlaid(read_yaml(self.configs), self.overlay).get("trainer", {}).get("callbacks") or []
        kept = {"class_path": "ddt_lightning.callbacks.snapshots.Snapshots", "init_args": {"steps": self.marks}}
        always = {"max_steps": self.steps, "val_check_interval": every, "callbacks": [*own, kept]}
        start = {"model": {"codebook": self.tokenizer}}
        overlay = overlaid(start, self.overlay, self.sizes[size], {"trainer": always})
        marks = " ".join(inputs_mark(self.data[option], f"data.{option}") for option in ("shards", "val_shards"))
        train = fit_step(f"{size}.{seed}.train", "pretrain", self.configs, overlay, seed, out, folder / "run", marks)
        drawn_by = "" if self.renderer is None else weights_mark(find_part("renderer", self.renderer))
        steps, drawn = [train], []
        for percent, mark in zip(self.percents, self.marks, strict=True):
            at = folder / f"at-{percent}"
            checkpoint = snapshot(folder / "run", mark)
            words = train.commands[0][3 : train.commands[0].index("--run_dir")]
            command = [CLI, "fit", "pretrain", *words, "--run_dir", str(at), "--seed_everything", str(seed)]
            # a run that is at its last step already trains nothing and writes its release
            command += ["--ckpt_path", str(checkpoint), f"--trainer.max_steps={mark}"]
            # with the vocabulary of the run, which counts as a change of its settings
            command += ["--data.vocab", str(folder / "run" / "vocab"), "--resume_with_changes", "true"]
            steps.append(Step(f"{size}.{seed}.at-{percent}", "release a checkpoint", [command], at, train.files))
            if self.tokenizer is not None and (self.score or seed == self.seeds[0]):
                few = {} if self.score else {"prompts": 2, "images": 1}  # the baselines need two of a tag
                options = {"model": str(at), "tokenizer": self.tokenizer, "renderer": self.renderer, "chat": False}
                options |= few | self.evaluation
                drawn.append(verb_step(f"{size}.{seed}.draw-{percent}", "eval t2i", options, at / "eval", drawn_by))
        about = f"{self.steps} steps, scored at {', '.join(map(str, self.percents))} %"
        return Chain(f"{size}, seed {seed}", about, [*steps, *drawn])

    def plan(self, out: Path) -> list[Chain]:
        """All runs, seed by seed."""
        missing = [option for option in ("shards", "val_shards") if not self.data.get(option)]
        if missing:
            raise ValueError(f"`settings.data.{missing[0]}` is missing: name token shards, e.g. as `--shards`.")
        if self.renderer is not None:
            check_renderer(self.renderer, token_facts(self.data["shards"], "data.shards")["tokenizer"])
        return [self.chain_of(size, seed, out) for seed in self.seeds for size in self.sizes]

    def collect(self, out: Path) -> list[Point]:
        """The checkpoints of the finished runs."""
        data = self.data
        shares = [float(data.get(name, 0.0)) for name in ("t2i", "i2t", "image_only", "text_only")]
        per_step = data["batch_size"] * sum(shares[:3]) / sum(shares) * token_facts(data["shards"], "data.shards")["K"]
        found = []
        for size in self.sizes:
            for seed in self.seeds:
                if not is_done(out, self.chain_of(size, seed, out)):
                    continue
                folder = out / "runs" / size / f"seed-{seed}"
                losses, image_losses = (validations(folder / "run", f"val/{name}") for name in ("loss", "image_loss"))
                for percent, mark in zip(self.percents, self.marks, strict=True):
                    at = folder / f"at-{percent}"
                    cards = read_cards(at / "eval") if self.score else {}
                    scores = [float(cards[name]["value"]) if self.score else None for name in (OVERALL, LAYOUT)]
                    count, ids = parameters(at / "release"), round(mark * per_step)
                    found.append(Point(size, seed, percent, count, ids, losses[mark], image_losses[mark], *scores))
        return found

    def draw(self, found: list[Point], out: Path) -> None:
        """`study.png`, and `grid.png` where checkpoints drew."""
        from ddt_lightning.studies import scaling_figures

        scaling_figures.draw(self, found, out)

    def findings(self, found: list[Point], failed: dict[str, str]) -> Findings:
        """Tables of the checkpoints and of the law."""
        rows = []
        for size in self.sizes:
            for percent in self.percents:
                here = [one for one in found if (one.size, one.percent) == (size, percent)]
                if not here:
                    continue
                cells = [size, f"{percent} %", f"{here[0].parameters:,}", f"{here[0].ids:,}", str(len(here))]
                cells += [f"{over_seeds([one.loss for one in here]).value:.4f}"]
                cells += over_seeds([one.image_loss for one in here]).shown(".4f")
                for score in ("layout", "score"):
                    values = [value for one in here if (value := getattr(one, score)) is not None]
                    cells += over_seeds(values).shown(".3f") if values else ["", ""]
                rows.append(cells)
        spread = spread_title(len(self.seeds))
        head = ["size", "trained", "parameters", "image ids", "seeds", "loss", "image loss", spread]
        head += ["colour and layout", spread, "shapes-GenEval", spread]
        tables, fitted = [Table(head, rows, names=2)], law(found)
        if fitted is not None:
            exponents = [[name, f"{value:.4f}", f"{fitted.intervals[name][0]:.4f} to {fitted.intervals[name][1]:.4f}"]
                         for name, value in fitted.exponents.items()]  # fmt: skip
            title = f"image loss = {fitted.constant:.3f} x parameters^-a x ids^-b, {fitted.points} points, "
            title += f"residual {100 * fitted.residual:.2f} %"
            tables.append(Table(["factor", "exponent", "95 %"], exponents, title=title))
        explained = (
            "Losses in nats per held-out token and per held-out image id; parameters outside the embeddings. The law "
            "is a least-squares line through logarithms, its interval from the covariance. Checkpoints on the way "
            "still had a high learning rate, and those of one run hang together, so the interval is too narrow. "
            "shapes-GenEval comes from a classical checker on rendered shapes and is not GenEval; colour and layout "
            "is the same with any shape taken as right. Other intervals are over seeds."
        )
        pictures = {
            "study.png": "Held-out loss against image ids seen and against parameters, dotted the fitted law; with "
            "scores, drawings that have colour and layout right.",
            "grid.png": "The same prompts drawn by every size at every checkpoint.",
        }
        numbers = {"points": [asdict(one) for one in found], "law": None if fitted is None else asdict(fitted)}
        return Findings("scaling", self.title, PLAIN, explained, tables, pictures, numbers, failed)


def parameters(release: Path) -> int:
    """Weights of a released model outside embedding and head."""
    from safetensors import safe_open

    count = 0
    with safe_open(release / "lm" / "model.safetensors", framework="np") as file:
        for name in file.keys():
            if "embed_tokens" not in name and "lm_head" not in name:
                count += math.prod(file.get_slice(name).get_shape())
    return count


def law(points: Sequence[Point]) -> powerlaw.PowerLaw | None:
    """The power law through all checkpoints; None where they do not fix one."""
    factors = {"parameters": [float(one.parameters) for one in points], "image ids": [float(one.ids) for one in points]}
    try:
        return powerlaw.fit(factors, [one.image_loss for one in points])
    except ValueError:
        return None
