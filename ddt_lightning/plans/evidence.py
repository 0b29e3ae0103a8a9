"""`make evidence`: every study on the run of `make demo` or `make photos`, as a plan of command lines.

spatial tokenizers (VQGAN, VAR: the same data, the same bits) -> progressive -> interpolate -> order; of scenes also
distances -> scaling -> text -> against; of photos with classes an encoder of their own -> distances -> classes; report.
Everything lies in the run's folder, and its report shows it. A killed call goes on where it was; a step is skipped
while nothing it depends on has changed (`plans/step.py`).
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ddt_lightning.plans import demo, photos
from ddt_lightning.plans.chains import run_chains
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import fit
from ddt_lightning.plans.step import Chain, Record, Step


@dataclass(frozen=True)
class Ground:
    """A run that is studied, and what spatial tokenizers of equal bits are trained on.

    Args:
        folder: of the run.
        made_by: the command that makes it.
        last: its last step of training.
        train: image shards.
        val: held-out image shards.
        views: crops of each training image that are encoded.
        options: of the spatial tokenizers, by kind, where they are not those of their YAML.
        prompts: whose drawings are followed from their first tokens; the first ones of the run's own if empty.
        scenes: whether there are the texts, edits and questions that some studies need.
        classes: whether the captions are names of classes.
        seconds: an estimate for each step of the plan, for two idle cores.
    """

    folder: str
    made_by: str
    last: str
    train: str
    val: str
    views: int
    options: dict[str, tuple[str, ...]]
    prompts: tuple[str, ...]
    scenes: bool
    classes: bool
    seconds: dict[str, int]


def of_photos(name: str, vqgan: tuple[str, ...], var: tuple[str, ...], seconds: dict[str, int]) -> Ground:
    """The run of `make photos PHOTOS=name`."""
    chosen = photos.SETS[name]
    data = ("--config", chosen.overlay, "--model.tokenizer=null")  # the overlay's tokenizer is DDT
    options = {"vqgan": (*data, *vqgan), "var": (*data, *var)}
    return Ground(f"runs/{name}", f"make photos PHOTOS={name}", "pretrain", chosen.train, chosen.val, chosen.views,
                  options, (), False, chosen.classes is not None, seconds)  # fmt: skip


DEMO = demo.MODES["default"].folder
SHOWN = 4
RESULTS = {"encoder": "encoder.json"}
NETS = "{patch: 2, channels: [64, 112], layers: 1}"  # of 32 pixels: down to the 8 x 8 of the YAML's 64 pixels
GROUNDS = {
    "scenes": Ground(
        DEMO, "make demo", "instruct", f"{DEMO}/shards/images-train-*.tar", f"{DEMO}/shards/images-val-*.tar", 1,
        {"vqgan": (), "var": ()},
        ("a photo of a red circle", "a photo of two blue squares", "a photo of a green star and a yellow ring",
         "a photo of three purple triangles"),
        True, False,
        {"vqgan": 610, "var": 660, "progressive": 300, "prompted": 90, "interpolate": 70, "order": 4200,
         "distances": 200, "scaling": 1500, "text": 700, "against": 2800, "evidence": 10},
    ),
    "cifar10": of_photos(
        "cifar10",
        ("--model.vqgan.grid=[8,8]", "--model.vqgan.latent_size=32", f"--model.vqgan.nets={NETS}"),
        ("--model.var.scales=[1,1,1,2,3,4,4,4]", "--model.var.latent_size=32", f"--model.var.nets={NETS}"),
        {"vqgan": 510, "var": 520, "progressive": 300, "prompted": 60, "interpolate": 60, "order": 4300, "encoder": 300,
         "distances": 250, "classes": 2000, "evidence": 10},
    ),
    "flickr8k": of_photos(
        "flickr8k", ("--model.vqgan.grid=[8,8]",), ("--model.var.scales=[1,1,1,2,3,4,4,4]",),
        {"vqgan": 640, "var": 690, "progressive": 300, "prompted": 60, "interpolate": 60, "order": 4300,
         "evidence": 10},
    ),
}  # fmt: skip


def plan(ground: Ground, steps: int) -> list[Step]:
    """The steps in order.

    Args:
        ground: what is studied.
        steps: of each spatial tokenizer.
    """
    ddt, run = "ddt_lightning.cli", Path(ground.folder)
    tokens = {"ddt": f"{run}/tokens", "vqgan": f"{run}/vqgan/tokens", "var": f"{run}/var/tokens"}
    models = ["--models", f"ddt={run}/model", f"vqgan={run}/vqgan", f"var={run}/var"]
    images = ["--data.shards", json.dumps([ground.train]), "--data.val_shards", json.dumps([ground.val])]
    held_out = [] if ground.scenes else ["--shards", ground.val]
    encoder = f"{run}/encoder/encoder.safetensors"
    drawing = [] if ground.scenes else ["--chat=false", *photos.SAMPLING]

    def spatial(kind: str) -> Step:
        encode = [ddt, "encode", "--tokenizer", f"{run}/{kind}", "--shards"]
        commands = [
            fit("tokenizer", "--config", f"stages/{kind}.yaml", *ground.options[kind], *images,
                f"--trainer.max_steps={steps}", "--run_dir", f"{run}/{kind}"),
            [*encode, ground.train, "--out", f"{tokens[kind]}/train", f"--views={ground.views}"],
            [*encode, ground.val, "--out", f"{tokens[kind]}/val"],
        ]  # fmt: skip
        about = f"train a {kind.upper()} of equal bits, {steps} steps, and encode"
        return Step(kind, about, commands, run / kind, cost=ground.seconds[kind])

    def study(name: str, about: str, verb: str, *words: str, files: dict[str, str] | None = None) -> Step:
        command = [ddt, "study", verb, *words, "--out", f"{run}/{name}"]
        # the result alone is removed where something changed: the study itself knows which of its runs are still good
        return Step(name, about, [command], run / name / RESULTS.get(verb, "findings.json"), files or {},
                    cost=ground.seconds[name])  # fmt: skip

    def distance(folder: str, name: str, *words: str) -> list[str]:
        reference = [] if ground.scenes else ["--reference", ground.val, "--encoder", encoder]
        return [ddt, "eval", "distribution", "--model", folder, *reference, *words, "--out", f"{run}/distances/{name}"]

    def sets(*names: str) -> str:
        return f"--sets=[{','.join(f'{name}={tokens[name]}' for name in names)}]"

    every = [
        spatial("vqgan"),
        spatial("var"),
        study("progressive", "decode images from their first tokens", "progressive", *models, *held_out),
        study("prompted", "the same of drawings", "progressive", *models, "--prompts", f"{run}/prompted.txt", *drawing,
              files={f"{run}/prompted.txt": prompts(ground)}),
        study("interpolate", "put tokens of one image into another", "interpolate", *models, *held_out),
        study("order", "language models of ids in other orders", "order", sets(*tokens),
              f"--text={str(ground.scenes).lower()}"),
    ]  # fmt: skip
    if ground.classes:
        every += [study("encoder", "train an encoder for distances between these photos", "encoder", "--shards",
                        ground.train, "--val_shards", ground.val, "--steps=2000")]  # fmt: skip
    if ground.scenes or ground.classes:
        words = ["--made", "drawings", *drawing]
        commands = [distance(f"{run}/model", "ddt"), distance(f"{run}/model", "ddt", *words),
                    distance(f"{run}/model", "ddt-diffusion", "--renderer=none"),
                    *(distance(f"{run}/{kind}", kind) for kind in ("vqgan", "var"))]  # fmt: skip
        every += [Step("distances", "measure reconstructions and drawings", commands, run / "distances",
                       cost=ground.seconds["distances"])]  # fmt: skip
    if ground.classes:
        every += [study("classes", "the same language model on ids of DDT and VQGAN", "classes")]
    if ground.scenes:
        compared = [f"--tokenizers=[ddt={run}/tokenizer,vqgan={run}/vqgan]", f"--renderers=[ddt={run}/renderer]"]
        every += [
            study("scaling", "language models of three sizes", "scaling", "--shards", tokens["ddt"], "--tokenizer",
                  f"{run}/tokenizer", "--renderer", f"{run}/renderer", "--score=true"),
            study("text", "text beside image ids", "text", sets("ddt", "vqgan")),
            study("against", "the same language model on ids of DDT and VQGAN", "against", *compared, "--shards",
                  f"{run}/shards"),
        ]  # fmt: skip
    report = Step(
        "evidence",
        "write report.html",
        [[ddt, "report", f"{run}"]],
        run / "report.html",
        cost=ground.seconds["evidence"],
    )
    return [*every, report]


def prompts(ground: Ground) -> str:
    """What is drawn, a line each; of photos the first prompts of the run."""
    listed = Path(ground.folder) / "prompts.txt"
    lines = ground.prompts or (listed.read_text().splitlines()[:SHOWN] if listed.is_file() else ())
    return "".join(f"{line}\n" for line in lines)


def made(ground: Ground) -> str:
    """Fingerprint of the run that is studied.

    Raises:
        FileNotFoundError: it has not been made, or not to its end.
    """
    run = Path(ground.folder)
    record = Record(run, ground.last)
    if not record.done or not (run / "model").is_dir():
        raise FileNotFoundError(f"{run} has no finished model: run `{ground.made_by}` first.")
    return record.fingerprint


def prove(ground: Ground, steps: int, until: str) -> None:
    """Run the plan up to a step.

    Raises:
        FileNotFoundError: there is no run to study.
        RuntimeError: a step failed.
    """
    run, before = Path(ground.folder), made(ground)
    todo = plan(ground, steps)
    todo[0] = replace(todo[0], inputs=before)
    todo = todo[: [step.name for step in todo].index(until) + 1]

    if failed := run_chains([Chain("evidence", "all studies", todo)], run):
        raise RuntimeError(failed["evidence"])
    if until == "evidence":
        spent = sum(Record(run, step.name).seconds for step in todo)
        say(f"{run}/report.html is ready; {minutes(spent)} for all studies.")


def main() -> None:
    """Entry point of the Makefile's target."""
    parser = argparse.ArgumentParser(prog="ddt_lightning.plans.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--on", choices=GROUNDS, default="scenes", help="what is studied")
    parser.add_argument("--spatial_steps", type=int, default=1000, help="optimizer steps of VQGAN and of VAR")
    names = [step.name for step in plan(GROUNDS["scenes"], 1)]
    parser.add_argument("--until", choices=names, default="evidence", help="last step")
    args = parser.parse_args()
    try:
        prove(GROUNDS[args.on], args.spatial_steps, args.until)
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"evidence: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
