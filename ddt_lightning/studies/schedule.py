"""`ddt study schedule`: short tokenizer runs over axes of settings, all measured on the same held-out images.

In: a study, read from YAML: the `ddt-fit` configuration that every run starts from, and axes, each a mapping from the
name of a variant to an overlay of that configuration; the first variant of every axis is the reference. Out, in one
folder: `variants/NAME.yaml` (overlays), `runs/NAME/seed-N/` (a training run with its `eval/`), and
chains.py's records. A run that is finished is not run again while its configuration, code and libraries stay;
a killed one goes on.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ddt_lightning.plans.chains import is_done
from ddt_lightning.plans.recipes import Overlay, fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.settings import read_yaml
from ddt_lightning.studies.base import Study
from ddt_lightning.studies.schedule_table import REFERENCE, Outcome, outcome, rows

PLAIN = (
    "Short runs of the tokenizer that differ in a few settings, measured on the same images: they show with which "
    "settings the decoder rebuilds images best from as many tokens."
)
NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Variant:
    """One combination of the axes.

    Args:
        name: of its files: what differs from the reference.
        choices: {axis: variant}.
        overlay: of the study's configuration.
    """

    name: str
    choices: dict[str, str]
    overlay: Overlay


def options_of(overlay: Overlay, before: str = "") -> Iterator[str]:
    """The dotted names of everything that an overlay sets."""
    for key, value in overlay.items():
        if isinstance(value, dict):
            yield from options_of(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


@dataclass(frozen=True, kw_only=True)
class ScheduleStudy(Study[list[Outcome]]):
    """Short tokenizer runs over axes of settings. `configs` are those of `ddt-fit tokenizer`.

    Args:
        axes: {axis: {variant: overlay}}; the first variant of each axis is the reference. No two axes set one option.
        vary: names of the axes to vary; the others stay as the configs have them. Null varies all.
        grid: one axis at a time from the reference, or the full product of the axes.
        only: names of variants to run now; the table shows all that are done.
        evaluation: options of `ddt eval reconstruction`.
        images: held-out images to measure on, in place of those of `evaluation`.
    """

    CONFIG: ClassVar[str] = "stages/study-schedule.yaml"
    STAGE: ClassVar[str] = "tokenizer"
    """Stage of `ddt-fit` that is trained."""

    axes: dict[str, dict[str, Overlay | None]]
    vary: list[str] | None = None
    grid: Literal["one", "full"] = "one"
    only: list[str] | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    images: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.axes:
            raise ValueError("`axes` is empty: name one at least, {axis: {variant: overlay}}.")
        if absent := [axis for axis in self.vary or [] if axis not in self.axes]:
            raise ValueError(f"`vary` ({absent[0]}) is none of {', '.join(self.axes)}.")
        owner: dict[str, str] = {}
        for axis, variants in self.axes.items():
            if not variants:
                raise ValueError(f"`axes.{axis}` has no variant; the first is the reference.")
            for name in (axis, *variants):
                if not NAME.fullmatch(str(name)):  # YAML reads 32 as a number
                    raise ValueError(
                        f"`axes.{axis}`: {name!r} is part of a file name; use letters, digits, _, . and -."
                    )
            for option in {option for overlay in variants.values() for option in options_of(overlay or {})}:
                for other, set_by in owner.items():
                    nested = f"{option}.".startswith(f"{other}.") or f"{other}.".startswith(f"{option}.")
                    if set_by != axis and nested:
                        raise ValueError(
                            f"`axes.{axis}` and `axes.{set_by}` both set {option}: it can only follow one."
                        )
                owner[option] = axis

    @property
    def varied(self) -> dict[str, dict[str, Overlay]]:
        """The axes that are varied, as {axis: {variant: overlay}}."""
        return {axis: {str(name): overlay or {} for name, overlay in variants.items()}
                for axis, variants in self.axes.items() if self.vary is None or axis in self.vary}  # fmt: skip

    def variants(self) -> list[Variant]:
        """All combinations of the varied axes, the reference first."""
        axes = self.varied
        first = {axis: next(iter(variants)) for axis, variants in axes.items()}
        if self.grid == "full":
            products = itertools.product(*axes.values())
            combinations = [dict(zip(axes, names, strict=True)) for names in products]
        else:
            others = [{**first, axis: name} for axis, names in axes.items() for name in list(names)[1:]]
            combinations = [first, *others]
        found = []
        for choices in combinations:
            differs = [f"{axis}-{name}" for axis, name in choices.items() if name != first[axis]]
            steps: Overlay = {"trainer": {"max_steps": self.steps}}
            overlay = overlaid(steps, self.settings, *(axes[axis][name] for axis, name in choices.items()))
            found.append(Variant("+".join(differs) or REFERENCE, choices, overlay))
        return found

    @property
    def inputs(self) -> str:
        """Mark of the weights that every run reads; empty for none."""
        return ""

    def measuring(self, variant: Variant) -> dict[str, Any]:
        """Options of the evaluation of a variant that the study does not set: prefixes of the tokens."""
        from ddt_lightning.tokens.tokenizer import TokenizerConfig

        settings = overlaid(read_yaml(self.configs), variant.overlay)
        total = settings.get("model", {}).get("tokenizer", {}).get("tokens", TokenizerConfig.tokens)
        return {"tokens": sorted({total * part // 4 for part in range(4)})}

    def chain_of(self, variant: Variant, seed: int, out: Path) -> Chain:
        """Training and measuring of one run."""
        name, folder = f"{variant.name}.{seed}", out / "runs" / variant.name / f"seed-{seed}"
        train = fit_step(
            f"{name}.train", self.STAGE, self.configs, variant.overlay, seed, out, folder, inputs=self.inputs
        )
        options = {"model": str(folder), **self.measuring(variant), **self.evaluation}
        options |= {} if self.images is None else {"images": self.images}
        choices = ", ".join(f"{axis} {choice}" for axis, choice in variant.choices.items())
        measure = verb_step(f"{name}.eval", "eval reconstruction", options, folder / "eval")
        return Chain(f"{variant.name}, seed {seed}", f"{self.steps} steps, {choices}", [train, measure])

    def plan(self, out: Path) -> list[Chain]:
        """The runs of the variants in `only`, seed by seed.

        Raises:
            ValueError: there is no such variant.
        """
        variants = self.variants()
        names = [variant.name for variant in variants]
        if unknown := [name for name in self.only or [] if name not in names]:
            raise ValueError(f"`only` ({unknown[0]}) is none of {', '.join(names)}.")
        chosen = [variant for variant in variants if self.only is None or variant.name in self.only]
        return [self.chain_of(variant, seed, out) for seed in self.seeds for variant in chosen]

    def collect(self, out: Path) -> list[Outcome]:
        """The finished variants, in the order of the plan."""
        found = []
        for variant in self.variants():
            runs = {seed: self.chain_of(variant, seed, out) for seed in self.seeds}
            runs = {seed: run for seed, run in runs.items() if is_done(out, run)}
            if runs:
                found.append(outcome(variant.name, variant.choices, runs, out))
        return found

    def draw(self, found: list[Outcome], out: Path) -> None:
        """`study.png` and `pictures.png`."""
        from ddt_lightning.studies import schedule_figures

        if found:
            schedule_figures.chart(self.title, found, out / "study.png")
            schedule_figures.pictures(found, out)

    def measured_on(self, found: list[Outcome]) -> str:
        """The images behind the scores, and what intervals are over."""
        images = self.images or self.evaluation.get("images", 256)
        source = ", ".join(self.evaluation.get("shards", [])) or "held-out scenes"
        seeds = {len(one.seeds) for one in found}
        over = (
            "Intervals are over these images: another seed of the training may differ by more."
            if seeds <= {1}
            else f"Means over {' or '.join(map(str, sorted(seeds)))} seeds; of two, both values are shown."
        )
        return f"of {images} images ({source}), the same for all. {over}"

    def findings(self, found: list[Outcome], failed: dict[str, str]) -> Findings:
        """One table, and the records of all variants."""
        explained = (
            f"{self.steps} steps each; PSNR in dB and SSIM {self.measured_on(found)} "
            "Error: of the x0 seen in one step from x_t at low, mid and high noise, with the tokens visible there. "
            "Codes: share in use."
        )
        pictures = {
            "study.png": "PSNR of each variant, and by the number of first tokens that the decoder is given.",
            "pictures.png": "The same held-out images, reconstructed by each variant.",
        }
        table = Table(*rows(list(self.varied), found), names=len(self.varied))
        numbers = {"outcomes": [asdict(one) for one in found]}
        return Findings("schedule", self.title, PLAIN, explained, [table], pictures, numbers, failed)
