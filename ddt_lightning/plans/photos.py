"""`ddt run photos`: the flow on photos, as a plan of command lines: CIFAR-10 by class, Flickr8k by caption, or others.

tokenizer -> renderer -> tokens -> pretrain -> eval -> draw -> describe -> report, all inside one folder; `DDT_DATA`
names the folder of the shards (`data/README.md`).
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.fingerprint import CLI
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import (
    CONFIGS,
    STARTING,
    assemble_model,
    fit,
    mixed_precision,
    tokenizer_start,
    words_of,
)
from ddt_lightning.plans.step import Record, Step
from ddt_lightning.settings import read_yaml

Until = Literal["tokenizer", "renderer", "tokens", "pretrain", "eval", "draw", "describe", "report"]


@dataclass(frozen=True, kw_only=True)
class PhotoRun:
    """A set of photos, and the sizes of a run on it.

    Args:
        run: folder of everything.
        overlay: YAML file of the tokenizer stage that names the photos: `data.shards`, `val_shards`, `image_size`.
        views: crops of each training photo that are encoded.
        formats: shares of the language model's formats.
        classes: json file with the names of the photos' classes, which are drawn; null where photos have captions.
        prompts: what is drawn where there are no classes.
        tokenizer_steps: optimizer steps of the tokenizer.
        renderer_steps: optimizer steps of its one-step decoder.
        pretrain_steps: optimizer steps of the language model.
        drawn: pictures of each prompt or class.
        evaluated: held-out photos that are reconstructed, and those that are captioned, and scored.
        sampling: options of `ddt generate`.
        seconds: {step: relative cost of it, of trainings that of an optimizer step}; how long the steps really take is
            measured while they run.
    """

    CONFIG: ClassVar[str] = "stages/photos-cifar10.yaml"

    run: str
    overlay: str
    views: int
    formats: dict[str, float]
    classes: str | None = None
    prompts: list[str] = field(default_factory=list)
    tokenizer_steps: int
    renderer_steps: int
    pretrain_steps: int
    drawn: int
    evaluated: int
    sampling: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        if (self.classes is None) == (not self.prompts):
            raise ValueError("name either `classes` (a json file) or `prompts` (a list): what is drawn.")


def photos_of(overlay: str) -> dict[str, Any]:
    """The data settings of an overlay of the tokenizer stage.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it does not name photos.
    """
    data: dict[str, Any] = read_yaml([overlay]).get("data") or {}
    if missing := [name for name in ("shards", "val_shards", "image_size") if not data.get(name)]:
        raise ValueError(f"`overlay` ({overlay}) lacks `data.{missing[0]}`.")
    return data


def prompts(sizes: PhotoRun) -> str:
    """Prompts to draw: a class or a caption on each line.

    Raises:
        FileNotFoundError: `classes` does not exist.
    """
    if sizes.classes is None:
        return "".join(f"{prompt}\n" for prompt in sizes.prompts)
    file = Path(os.path.expandvars(sizes.classes))
    if not file.is_file():
        raise FileNotFoundError(
            f"`classes` ({sizes.classes}) does not exist: `DDT_DATA` names the folder of the photos."
        )
    return "".join(f"{name}\n" for name in json.loads(file.read_text(encoding="utf-8")))


def plan(sizes: PhotoRun) -> list[Step]:
    """The steps of a run in order.

    Raises:
        FileNotFoundError: the overlay or the names of the classes are missing.
        ValueError: the overlay does not name photos.
    """
    run, data = Path(sizes.run), photos_of(sizes.overlay)
    tokens, model, pictures = run / "tokens", run / "model", run / "pictures"
    train, held_out = json.dumps(data["shards"]), json.dumps(data["val_shards"])
    units = {stage: getattr(sizes, f"{stage}_steps") for stage in ("tokenizer", "renderer", "pretrain")}

    def step(name: str, about: str, *commands: list[str], folder: Path, files: dict[str, str] | None = None,
             before: Callable[[], object] | None = None) -> Step:  # fmt: skip
        cost = STARTING * len(commands) + sizes.seconds.get(name, 1.0) * units.get(name, 1)
        return Step(name, about, commands, folder, files or {}, before=before, cost=cost)

    def training(stage: str, about: str, *words: str, configs: Sequence[str] = ()) -> Step:
        steps = units[stage]
        options = [*words, *mixed_precision(), f"--trainer.max_steps={steps}"]
        command = fit(stage, [CONFIGS[stage], *configs], run / stage, *options)
        return step(stage, f"{about}, {steps} steps", command, folder=run / stage)

    encode = [CLI, "encode", "--tokenizer", f"{run}/tokenizer", "--shards"]
    classes = ["--classes", os.path.expandvars(sizes.classes)] if sizes.classes else []
    start = tokenizer_start(sizes.tokenizer_steps)
    return [
        training("tokenizer", "train the tokenizer", *start, configs=[sizes.overlay]),
        training("renderer", "train its one-step decoder", "--model.tokenizer", f"{run}/tokenizer",
                 *words_of({f"data.{name}": value for name, value in data.items()})),
        step("tokens", "encode the photos",
             [*encode, train, "--out", f"{tokens}/train", f"--views={sizes.views}"],
             [*encode, held_out, "--out", f"{tokens}/val"], folder=tokens),
        training("pretrain", "train the language model",
                 "--data.shards", json.dumps([f"{tokens}/train/*.tar"]),
                 "--data.val_shards", json.dumps([f"{tokens}/val/*.tar"]),
                 *words_of({f"data.{name}": share for name, share in sizes.formats.items()}),
                 "--model.codebook", f"{run}/tokenizer"),
        step("eval", "reconstruct held-out photos",
             [CLI, "eval", "reconstruction", "--model", f"{model}", "--shards", held_out,
              f"--images={sizes.evaluated}", "--out", f"{run}/eval"],
             folder=run / "eval", before=partial(assemble_model, run, "pretrain")),
        step("draw", "draw each class" if classes else "draw some captions",
             [CLI, "generate", f"{run}/prompts.txt", *classes, "--chat=false", f"--images={sizes.drawn}",
              *words_of(sizes.sampling), "--model", f"{model}", "--out", f"{pictures}"],
             folder=pictures, files={f"{run}/prompts.txt": prompts(sizes)}),
        step("describe", "describe photos of the evaluation, and score captions",
             [CLI, "describe", f"{run}/eval/samples/reconstruction", "--chat=false", "--model", f"{model}",
              "--out", f"{run}/descriptions"],
             [CLI, "eval", "caption", "--model", f"{model}", "--shards", held_out, "--chat=false",
              f"--captions={sizes.evaluated}", "--out", f"{run}/eval"],
             folder=run / "descriptions"),
        step("report", "write report.html", [CLI, "report", f"{run}"], folder=run / "report.html"),
    ]  # fmt: skip


def photos(*, sizes: PhotoRun, until: Until = "report") -> None:
    """Run the flow on photos: tokenizer, language model, evaluation, drawings by class or caption, report.

    The same call goes on where it was stopped; a step that is done is not run again while nothing that it depends on
    has changed.

    Args:
        sizes: of the run.
        until: last step.

    Raises:
        ValueError: `DDT_DATA` is not set.
        FileNotFoundError: it does not hold the shards.
        ChildProcessError: a step failed.
    """
    from ddt_lightning.shards.read import expand

    data, run = photos_of(sizes.overlay), Path(sizes.run)
    shards = [*data["shards"], *data["val_shards"]]
    if any("DDT_DATA" in pattern for pattern in shards) and not os.environ.get("DDT_DATA"):
        raise ValueError("`DDT_DATA` is not set: name the folder that holds the shards, see data/README.md.")
    expand(shards, "DDT_DATA")
    steps = plan(sizes)
    run_to_end(steps, run, until)
    if until == "report":
        spent = sum(Record(run, step.name).seconds for step in steps)
        say(f"{run}/report.html, {run}/pictures and {run}/descriptions are ready; {minutes(spent)} in all.")
