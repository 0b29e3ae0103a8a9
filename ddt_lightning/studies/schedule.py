"""An ablation: short tokenizer runs over axes of settings, all measured on the same held-out images.

In: a study, read from YAML: the `ddt-fit` configuration that every run starts from, and axes, each a mapping from the
name of a variant to an overlay of that configuration; the first variant of every axis is the reference. Out, in one
folder: `variants/NAME.yaml` (overlays), `runs/NAME/seed-N/` (a training run with its `eval/`), and
chains.py's records. A run that is finished is not run again while its configuration, code and libraries stay;
a killed one goes on.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from ddt_lightning.plans import chains
from ddt_lightning.plans.chains import check, is_done
from ddt_lightning.plans.fingerprint import CLI
from ddt_lightning.plans.recipes import Overlay, overlaid
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.settings import merge, read_yaml

REFERENCE = "reference"
NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Study:
    """What is compared, and how.

    Args:
        title: what the table and the pictures are headed with.
        configs: YAML files of `ddt-fit tokenizer` that every run starts from, merged in order; also the process layout.
        axes: {axis: {variant: overlay}}; the first variant of each axis is the reference. No two axes set one option.
        settings: overlay of every run, below the variants.
        steps: optimizer steps of every run.
        seeds: of every variant; the images that are measured stay the same.
        grid: one axis at a time from the reference, or the full product of the axes.
        evaluation: options of `ddt eval reconstruction`.
    """

    title: str
    configs: list[str]
    axes: dict[str, dict[str, Overlay]]
    settings: Overlay = field(default_factory=dict)
    steps: int = 600
    seeds: list[int] = field(default_factory=lambda: [0])
    grid: Literal["one", "full"] = "one"
    evaluation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` ({self.steps}) must be at least 1.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` ({self.seeds}) must name each seed once, and at least one.")
        if self.grid not in ("one", "full"):
            raise ValueError(f"`grid` ({self.grid}) must be one or full.")
        owner: dict[str, str] = {}
        for axis, variants in self.axes.items():
            if not variants:
                raise ValueError(f"`axes.{axis}` has no variant; the first is the reference.")
            for name in (axis, *variants):
                if not NAME.fullmatch(name):
                    raise ValueError(
                        f"`axes.{axis}`: {name!r} is part of a file name; use letters, digits, _, . and -."
                    )
            for option in {option for overlay in variants.values() for option in options_of(overlay)}:
                for other, set_by in owner.items():
                    nested = f"{option}.".startswith(f"{other}.") or f"{other}.".startswith(f"{option}.")
                    if set_by != axis and nested:
                        raise ValueError(
                            f"`axes.{axis}` and `axes.{set_by}` both set {option}: it can only follow one."
                        )
                owner[option] = axis

    @classmethod
    def read(cls, path: str, changed: dict[str, Any], axes: list[str] | None = None, images: int | None = None) -> Self:
        """A study from a YAML file.

        Args:
            path: the file.
            changed: fields to replace; those that are None stay.
            axes: which axes to keep; None for all.
            images: how many images to measure on, instead of the file's.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it does not describe a study.
        """
        values = read_yaml([path])
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{path} has no option {unknown[0]!r}; a study has {', '.join(sorted(known))}.")
        if missing := [name for name in ("title", "configs", "axes") if not values.get(name)]:
            raise ValueError(f"{path} lacks `{missing[0]}`.")
        found = values["axes"]
        if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
            raise ValueError(f"{path}: `axes` is a mapping from axes to mappings from variants to overlays.")
        if absent := [axis for axis in axes or [] if axis not in found]:
            raise ValueError(f"`--axes` ({absent[0]}) is none of {', '.join(found)}.")
        kept = {
            str(axis): {str(name): overlay or {} for name, overlay in variants.items()}
            for axis, variants in found.items()
            if axes is None or axis in axes
        }
        replaced = {name: value for name, value in changed.items() if value is not None}
        if images is not None:
            replaced["evaluation"] = {**values.get("evaluation", {}), "images": images}
        return cls(**{**values, "axes": kept, **replaced})


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


def plan(study: Study) -> list[Variant]:
    """All combinations of a study, the reference first."""
    first = {axis: next(iter(variants)) for axis, variants in study.axes.items()}
    if study.grid == "full":
        products = itertools.product(*study.axes.values())
        combinations = [dict(zip(study.axes, names, strict=True)) for names in products]
    else:
        others = [{**first, axis: name} for axis, names in study.axes.items() for name in list(names)[1:]]
        combinations = [first, *others]
    found = []
    for choices in combinations:
        differs = [f"{axis}-{name}" for axis, name in choices.items() if name != first[axis]]
        steps: Overlay = {"trainer": {"max_steps": study.steps}}
        overlay = overlaid(steps, study.settings, *(study.axes[axis][name] for axis, name in choices.items()))
        found.append(Variant("+".join(differs) or REFERENCE, choices, overlay))
    return found


def chosen(variants: list[Variant], only: list[str] | None) -> list[Variant]:
    """The variants to run now.

    Raises:
        ValueError: a name is not in the plan.
    """
    names = [variant.name for variant in variants]
    if unknown := [name for name in only or [] if name not in names]:
        raise ValueError(f"`--only` ({unknown[0]}) is none of {', '.join(names)}.")
    return [variant for variant in variants if only is None or variant.name in only]


def training(study: Study, variant: Variant, seed: int, out: Path) -> Step:
    """The step that trains one run."""
    file = str(out / "variants" / f"{variant.name}.yaml")
    words = [word for config in (*study.configs, file) for word in ("--config", config)]
    folder = out / "runs" / variant.name / f"seed-{seed}"
    command = [CLI, "fit", "tokenizer", *words, "--run_dir", str(folder), "--seed_everything", str(seed)]
    files = {file: yaml.safe_dump(variant.overlay, sort_keys=False)}
    return Step(f"{variant.name}.{seed}.train", f"train {study.steps} steps", [command], folder, files)


def measuring(study: Study, variant: Variant, seed: int, out: Path) -> Step:
    """The step that measures a trained run."""
    from ddt_lightning.tokens.tokenizer import TokenizerConfig

    folder = out / "runs" / variant.name / f"seed-{seed}"
    words = ["eval", "reconstruction", "--model", str(folder), "--out", str(folder / "eval")]
    settings = read_yaml(study.configs)
    merge(settings, variant.overlay)
    total = settings.get("model", {}).get("tokenizer", {}).get("tokens", TokenizerConfig.tokens)
    options = {"tokens": sorted({total * part // 4 for part in range(4)}), **study.evaluation}
    for name, value in options.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    command = [CLI, *words]
    return Step(f"{variant.name}.{seed}.eval", "measure", [command], folder / "eval")


def chain_of(study: Study, variant: Variant, seed: int, out: Path) -> Chain:
    """Training and measuring of a run."""
    steps = [training(study, variant, seed, out), measuring(study, variant, seed, out)]
    return Chain(f"{variant.name}, seed {seed}", f"{study.steps} steps", steps)


def check_variant(study: Study, variant: Variant, out: Path) -> None:
    """Read a variant's settings as its run will, without running it.

    Raises:
        ValueError: naming the variant, where they make no run.
    """
    for step in (training(study, variant, study.seeds[0], out), measuring(study, variant, study.seeds[0], out)):
        check(step, f"variant {variant.name}")


def run_all(study: Study, variants: list[Variant], out: Path) -> dict[str, str]:
    """Run what is not done; a run that fails does not stop the others.

    Args:
        study: the study.
        variants: those to run.
        out: folder of everything written.

    Returns:
        What went wrong, by variant and seed.

    Raises:
        ValueError: the settings of a variant make no run; nothing has been run then.
    """
    runs, waiting = [], {}
    for seed in study.seeds:
        for variant in variants:
            runs.append(chain_of(study, variant, seed, out))
            if not is_done(out, runs[-1]):
                waiting[variant.name] = variant
    for variant in waiting.values():
        check_variant(study, variant, out)
    return chains.run_chains(runs, out)
