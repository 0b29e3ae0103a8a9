"""`make photos`: the flow on photos, as a plan of command lines: CIFAR-10 by class, or Flickr8k by caption.

tokenizer -> renderer -> tokens -> pretrain -> eval -> draw -> describe -> report, all inside one folder; `DDT_DATA`
names the folder of the shards (`data/README.md`). A killed call goes on where it was, and a step is skipped while
nothing it depends on has changed (`plans/step.py`).
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from ddt_lightning.plans.chains import run_chains
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import assemble_model, fit, mixed_precision, tokenizer_start
from ddt_lightning.plans.step import Chain, Record, Step


@dataclass(frozen=True)
class Photos:
    """A set of photos, and the sizes of a run on it.

    Args:
        overlay: of the tokenizer stage.
        train: its shards.
        val: held-out shards.
        image_size: side in pixels.
        augment: of training photos for the renderer, as the overlay's for the tokenizer.
        views: crops of each training photo that are encoded.
        formats: shares of the language model's formats.
        classes: file with the names of its classes, below `DDT_DATA`; None where photos have captions.
        prompts: what is drawn where there are no classes.
        tokenizer_steps: optimizer steps.
        renderer_steps: optimizer steps.
        pretrain_steps: optimizer steps.
        drawn: pictures of each prompt or class.
        evaluated: held-out photos that are reconstructed, and those that are captioned, and scored.
        seconds: an estimate for each step of the plan, for two idle cores.
    """

    overlay: str
    train: str
    val: str
    image_size: int
    augment: str
    views: int
    formats: dict[str, float]
    classes: str | None
    prompts: tuple[str, ...]
    tokenizer_steps: int
    renderer_steps: int
    pretrain_steps: int
    drawn: int
    evaluated: int
    seconds: tuple[int, ...]


SETS = {
    "cifar10": Photos(
        "data/cifar10.yaml", "${DDT_DATA}/cifar10/cifar10-train-*.tar.gz", "${DDT_DATA}/cifar10/cifar10-val-*.tar.gz",
        32, "flip", 4, {"t2i": 0.9, "i2t": 0.1, "text_only": 0.0}, "cifar10/classes.json", (),
        4000, 1000, 4000, 8, 500, (1100, 195, 125, 650, 45, 6, 20, 5),
    ),
    "flickr8k": Photos(
        "data/flickr8k.yaml", "${DDT_DATA}/flickr8k_64/flickr8k64-train-*.tar.gz",
        "${DDT_DATA}/flickr8k_64/flickr8k64-val-*.tar.gz",
        64, "crop_flip", 4, {"t2i": 0.5, "i2t": 0.4, "text_only": 0.1}, None,
        ("A dog runs through the grass .", "A man climbs a rock .", "Two children play in the snow .",
         "A girl in a red shirt jumps into a pool .", "A man rides a bike on a dirt road .",
         "A surfer rides a wave .", "A black dog swims in the water .", "People walk in a city at night ."),
        8000, 1500, 5000, 4, 500, (2600, 350, 65, 1000, 50, 5, 17, 5),
    ),
}  # fmt: skip

SAMPLING = ("--temperature=1", "--guidance=3")  # colder, as shapes are drawn, photos are mostly a plain background
SIZES = [field.name for field in fields(Photos) if field.type is int and field.name not in ("image_size", "views")]


def plan(photos: Photos, run: Path, data: Path) -> list[Step]:
    """The steps of a run in order.

    Args:
        photos: what is trained on, and how long.
        run: folder of everything.
        data: what `DDT_DATA` names.
    """
    tokens, model, pictures = run / "tokens", run / "model", run / "pictures"
    ddt = "ddt_lightning.cli"
    images = [
        *("--data.shards", json.dumps([photos.train]), "--data.val_shards", json.dumps([photos.val])),
        *(f"--data.image_size={photos.image_size}", f"--data.augment={photos.augment}"),
    ]
    encode = [ddt, "encode", "--tokenizer", f"{run}/tokenizer", "--shards"]
    classes = ["--classes", f"{data / photos.classes}"] if photos.classes else []
    held_out = ["--shards", photos.val, f"--images={photos.evaluated}"]
    score = [ddt, "eval", "caption", "--model", f"{model}", "--shards", photos.val, "--chat=false",
             f"--captions={photos.evaluated}", "--out", f"{run}/eval"]  # fmt: skip
    seconds = iter(photos.seconds)
    return [
        Step("tokenizer", f"train the tokenizer, {photos.tokenizer_steps} steps",
             [fit("tokenizer", "--config", "stages/tok.yaml", "--config", photos.overlay, "--run_dir",
                  f"{run}/tokenizer", *tokenizer_start(photos.tokenizer_steps), *mixed_precision(),
                  f"--trainer.max_steps={photos.tokenizer_steps}")],
             run / "tokenizer", cost=next(seconds)),
        Step("renderer", f"train its one-step decoder, {photos.renderer_steps} steps",
             [fit("renderer", "--config", "stages/renderer.yaml", "--run_dir", f"{run}/renderer", "--model.tokenizer",
                  f"{run}/tokenizer", *images, *mixed_precision(),
                  f"--trainer.max_steps={photos.renderer_steps}")],
             run / "renderer", cost=next(seconds)),
        Step("tokens", "encode the photos",
             [[*encode, photos.train, "--out", f"{tokens}/train", f"--views={photos.views}"],
              [*encode, photos.val, "--out", f"{tokens}/val"]],
             tokens, cost=next(seconds)),
        Step("pretrain", f"train the language model, {photos.pretrain_steps} steps",
             [fit("pretrain", "--config", "stages/pretrain.yaml", "--run_dir", f"{run}/pretrain",
                  "--data.shards", json.dumps([f"{tokens}/train/*.tar"]),
                  "--data.val_shards", json.dumps([f"{tokens}/val/*.tar"]),
                  *(f"--data.{name}={share}" for name, share in photos.formats.items()),
                  "--model.codebook", f"{run}/tokenizer", *mixed_precision(),
                  f"--trainer.max_steps={photos.pretrain_steps}")],
             run / "pretrain", cost=next(seconds)),
        Step("eval", "reconstruct held-out photos",
             [[ddt, "eval", "reconstruction", "--model", f"{model}", *held_out, "--out", f"{run}/eval"]],
             run / "eval", before=partial(assemble_model, run, "pretrain"), cost=next(seconds)),
        Step("draw", "draw each class" if classes else "draw some captions",
             [[ddt, "generate", f"{run}/prompts.txt", *classes, "--chat=false", f"--images={photos.drawn}",
               *SAMPLING, "--model", f"{model}", "--out", f"{pictures}"]],
             pictures, {f"{run}/prompts.txt": prompts(photos, data)}, cost=next(seconds)),
        Step("describe", "describe photos of the evaluation, and score captions",
             [[ddt, "describe", f"{run}/eval/samples/reconstruction", "--chat=false", "--model", f"{model}",
               "--out", f"{run}/descriptions"], score],
             run / "descriptions", cost=next(seconds)),
        Step("report", "write report.html", [[ddt, "report", f"{run}"]], run / "report.html", cost=next(seconds)),
    ]  # fmt: skip


def prompts(photos: Photos, data: Path) -> str:
    """A class or a caption on each line."""
    names = json.loads((data / photos.classes).read_text()) if photos.classes else photos.prompts
    return "".join(f"{name}\n" for name in names)


def train(photos: Photos, run: Path, until: str) -> None:
    """Run the plan up to a step.

    Raises:
        ValueError: `DDT_DATA` is not set.
        FileNotFoundError: it does not hold the shards.
        RuntimeError: a step failed.
    """
    from ddt_lightning.shards.read import expand

    if not os.environ.get("DDT_DATA"):
        raise ValueError("`DDT_DATA` is not set: name the folder that holds the shards, see data/README.md.")
    expand([photos.train, photos.val], "DDT_DATA")
    data = Path(os.environ["DDT_DATA"])
    steps = plan(photos, run, data)
    steps = steps[: [step.name for step in steps].index(until) + 1]

    if failed := run_chains([Chain("photos", "the flow on photos", steps)], run):
        raise RuntimeError(failed["photos"])
    if until == "report":
        spent = sum(Record(run, step.name).seconds for step in steps)
        say(f"{run}/report.html, {run}/pictures and {run}/descriptions are ready; {minutes(spent)} in all.")


def main() -> None:
    """Entry point of the Makefile's target."""
    parser = argparse.ArgumentParser(prog="ddt_lightning.plans.photos", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", choices=SETS, default="cifar10", help="which photos")
    parser.add_argument("--run", type=Path, help="folder of everything; runs/PHOTOS if not given")
    names = ["tokenizer", "renderer", "tokens", "pretrain", "eval", "draw", "describe", "report"]
    parser.add_argument("--until", choices=names, default="report", help="last step")
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, help="in place of the set's own")
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    try:
        train(replace(SETS[args.photos], **sizes), args.run or Path("runs") / args.photos, args.until)
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"photos: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
