"""`ddt run evidence`: every study on the run of `make demo` or `make photos`, as a plan of command lines.

spatial tokenizers (VQGAN, VAR: the same data, the same bits) -> progressive -> interpolate -> order; of scenes also
distances -> scaling -> text -> against; of photos with classes an encoder of their own -> distances -> classes; report.
Everything lies in the run's folder, and its report shows it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.fingerprint import CLI
from ddt_lightning.plans.photos import photos_of
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import STARTING, fit_step, layout, overlaid, words_of
from ddt_lightning.plans.step import Record, Step

Until = Literal[
    "vqgan", "var", "progressive", "prompted", "interpolate", "order", "encoder", "distances", "classes", "scaling",
    "text", "against", "evidence",
]  # fmt: skip
SHOWN = 4  # prompts whose drawings are followed, where the run's own are taken


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run that is studied, and what spatial tokenizers of equal bits are trained on.

    Args:
        run: its folder.
        made_by: the command that makes it.
        last: its last step of training.
        overlay: YAML file that names the photos that the run was trained on; null for scenes, in the run's `shards/`.
        classes: whether the captions are names of classes.
        views: crops of each training image that are encoded.
        spatial: {vqgan, var: overlay} of the spatial tokenizers, where they are not those of their YAML.
        spatial_steps: optimizer steps of each of them.
        prompts: whose drawings are followed from their first tokens; the first ones of the run's own if empty.
        sampling: options of drawing.
        seconds: {step: relative cost of it, of vqgan and var that of an optimizer step}; how long the steps really
            take is measured while they run.
    """

    CONFIG: ClassVar[str] = "stages/evidence-scenes.yaml"

    run: str
    made_by: str
    last: str
    overlay: str | None = None
    classes: bool = False
    views: int = 1
    spatial: dict[str, Any] = field(default_factory=dict)
    spatial_steps: int = 1000
    prompts: list[str] = field(default_factory=list)
    sampling: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float]

    def shards(self) -> tuple[list[str], list[str]]:
        """Image shards of training, and held-out ones."""
        if self.overlay is None:
            return [f"{self.run}/shards/images-train-*.tar"], [f"{self.run}/shards/images-val-*.tar"]
        data = photos_of(self.overlay)
        return data["shards"], data["val_shards"]


def spatial_step(sizes: Evidence, kind: str) -> Step:
    """The step that trains a spatial tokenizer on the run's images, and encodes them."""
    run, (train, held_out) = Path(sizes.run), sizes.shards()
    configs = [f"stages/{kind}.yaml", *([] if sizes.overlay is None else [sizes.overlay]), *layout()]
    always = {"trainer": {"max_steps": sizes.spatial_steps}, "data": {"shards": train, "val_shards": held_out}}
    trained = fit_step(kind, "tokenizer", configs, overlaid(sizes.spatial.get(kind, {}), always), 0, run, run / kind)
    encode = [CLI, "encode", "--tokenizer", f"{run}/{kind}", "--shards"]
    commands = [
        *trained.commands,
        [*encode, json.dumps(train), "--out", f"{run}/{kind}/tokens/train", f"--views={sizes.views}"],
        [*encode, json.dumps(held_out), "--out", f"{run}/{kind}/tokens/val"],
    ]
    about = f"train a {kind.upper()} of equal bits, {sizes.spatial_steps} steps, and encode"
    return replace(trained, about=about, commands=commands)


def distances(sizes: Evidence, encoder: str, drawing: list[str]) -> Step:
    """The step that measures reconstructions and drawings of the models by distances between sets of pictures."""
    run, (_, held_out) = Path(sizes.run), sizes.shards()
    reference = [] if sizes.overlay is None else ["--reference", json.dumps(held_out), "--encoder", encoder]

    def measure(model: str, name: str, *words: str) -> list[str]:
        out = f"{run}/distances/{name}"
        return [CLI, "eval", "distribution", "--model", f"{run}/{model}", *reference, *words, "--out", out]

    commands = [
        measure("model", "ddt"),
        measure("model", "ddt", "--made", "drawings", *drawing),
        measure("model", "ddt-diffusion", "--renderer=none"),
        measure("vqgan", "vqgan"),
        measure("var", "var"),
    ]
    return Step("distances", "measure reconstructions and drawings", commands, run / "distances")


def plan(sizes: Evidence) -> list[Step]:
    """The steps in order.

    Raises:
        FileNotFoundError: the overlay or the run's prompts are missing.
    """
    run, (train, held_out) = Path(sizes.run), sizes.shards()
    scenes = sizes.overlay is None
    tokens = {"ddt": f"{run}/tokens", "vqgan": f"{run}/vqgan/tokens", "var": f"{run}/var/tokens"}
    models = ["--models", f"ddt={run}/model", f"vqgan={run}/vqgan", f"var={run}/var"]
    images = [] if scenes else ["--shards", json.dumps(held_out)]
    drawing = [] if scenes else ["--chat=false", *words_of(sizes.sampling)]
    encoder = f"{run}/encoder/encoder.safetensors"
    prompts = sizes.prompts or (run / "prompts.txt").read_text(encoding="utf-8").splitlines()[:SHOWN]

    def study(name: str, about: str, verb: str, *words: str, result: str = "findings.json") -> Step:
        # the result alone is removed where something changed: the study itself knows which of its runs are still good
        command = [CLI, "study", verb, *words, "--out", f"{run}/{name}"]
        return Step(name, about, [command], run / name / result)

    def pairs(option: str, folders: Mapping[str, str]) -> list[str]:
        return [f"--{option}", *(f"{name}={folder}" for name, folder in folders.items())]

    prompted = study("prompted", "the same of drawings", "progressive", *models, "--prompts", f"{run}/prompted.txt",
                     *drawing)  # fmt: skip
    every = [
        spatial_step(sizes, "vqgan"),
        spatial_step(sizes, "var"),
        study("progressive", "decode images from their first tokens", "progressive", *models, *images),
        replace(prompted, files={f"{run}/prompted.txt": "".join(f"{prompt}\n" for prompt in prompts)}),
        study("interpolate", "put tokens of one image into another", "interpolate", *models, *images),
        study("order", "language models of ids in other orders", "order", *pairs("sets", tokens),
              f"--text={str(scenes).lower()}"),
    ]  # fmt: skip
    if sizes.classes:
        every += [
            study("encoder", "train an encoder for distances between these photos", "encoder", "--shards",
                  json.dumps(train), "--val_shards", json.dumps(held_out), "--steps=2000", result="encoder.json"),
            distances(sizes, encoder, drawing),
            study("classes", "the same language model on ids of DDT and VQGAN", "classes"),
        ]  # fmt: skip
    if scenes:
        every += [
            distances(sizes, encoder, drawing),
            study("scaling", "language models of three sizes", "scaling", "--shards", tokens["ddt"], "--tokenizer",
                  f"{run}/tokenizer", "--renderer", f"{run}/renderer", "--score=true"),
            study("text", "text beside image ids", "text",
                  *pairs("sets", {"ddt": tokens["ddt"], "vqgan": tokens["vqgan"]})),
            study("against", "the same language model on ids of DDT and VQGAN", "against",
                  *pairs("tokenizers", {"ddt": f"{run}/tokenizer", "vqgan": f"{run}/vqgan"}),
                  *pairs("renderers", {"ddt": f"{run}/renderer"}), "--shards", f"{run}/shards"),
        ]  # fmt: skip
    every += [Step("evidence", "write report.html", [[CLI, "report", f"{run}"]], run / "report.html")]
    units = dict.fromkeys(("vqgan", "var"), sizes.spatial_steps)
    return [
        replace(one, cost=STARTING * len(one.commands) + sizes.seconds.get(one.name, 1.0) * units.get(one.name, 1))
        for one in every
    ]


def made(sizes: Evidence) -> str:
    """The fingerprint of the run that is studied.

    Raises:
        FileNotFoundError: it has not been made, or not to its end.
    """
    run = Path(sizes.run)
    record = Record(run, sizes.last)
    if not record.done or not (run / "model").is_dir():
        raise FileNotFoundError(f"{run} has no finished model: run `{sizes.made_by}` first.")
    return record.fingerprint


def evidence(*, sizes: Evidence, until: Until = "evidence") -> None:
    """Run every study on a finished run of `make demo` or `make photos`, and show them in its report.

    The same call goes on where it was stopped; a step that is done is not run again while nothing that it depends on
    has changed.

    Args:
        sizes: of the studies.
        until: last step.

    Raises:
        FileNotFoundError: there is no run to study.
        ValueError: `until` is not a step on this run.
        ChildProcessError: a step failed.
    """
    run, mark = Path(sizes.run), made(sizes)
    first, *others = plan(sizes)
    steps = [replace(first, inputs=mark), *others]
    run_to_end(steps, run, until)
    if until == "evidence":
        spent = sum(Record(run, step.name).seconds for step in steps)
        say(f"{run}/report.html is ready; {minutes(spent)} for all studies.")
