"""`make demo`: the whole flow on rendered scenes, as a plan of command lines.

scenes -> tokenizer -> renderer -> tokens -> pretrain -> instruct -> eval -> report, all inside one folder. Every step
is what a user would type. A step is skipped only when the fingerprint of its configuration, code, library versions and
input steps is the one it finished with; a killed call goes on where it was.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ddt_lightning.atomic import write_json
from ddt_lightning.metrics.cards import flat
from ddt_lightning.plans.chains import run_chains
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import assemble_model, fit, mixed_precision, tokenizer_start
from ddt_lightning.plans.step import Chain, Record, Step


@dataclass(frozen=True)
class Mode:
    """Sizes of a demo.

    Args:
        folder: run folder.
        images: captioned training scenes.
        edits: training edits.
        questions: training questions.
        text: text-only lines.
        val: held-out samples of each kind.
        steps: optimizer steps of tokenizer, renderer, pretrain and instruct.
        prompt_images: images per prompt of the suite.
        evaluated: held-out images, edits, questions and captions that are scored.
        seconds: what each step took on two idle cores; the source of "left".
    """

    folder: str
    images: int
    edits: int
    questions: int
    text: int
    val: int
    steps: tuple[int, int, int, int]
    prompt_images: int
    evaluated: int
    seconds: tuple[int, ...]


NAMES = ("scenes", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "eval", "report")
MODES = {
    "default": Mode("runs/demo", 24_000, 8_000, 6_000, 4_000, 512, (2000, 400, 3500, 2500), 4, 200,
                    (41, 860, 134, 64, 420, 365, 85, 6)),
    "quick": Mode("runs/demo-quick", 256, 64, 64, 64, 32, (20, 8, 12, 8), 1, 8, (10, 30, 15, 15, 20, 20, 40, 5)),
    "long": Mode("runs/demo-long", 90_000, 30_000, 24_000, 10_000, 512, (6_000, 1_000, 8_000, 8_000), 4, 200,
                 (90, 1365, 181, 190, 924, 984, 90, 5)),
}  # fmt: skip


def plan(mode: Mode) -> list[Step]:
    """The steps of a demo, in order."""
    run = Path(mode.folder)
    shards, tokens, model = run / "shards", run / "tokens", run / "model"
    ddt = "ddt_lightning.cli"
    sizes = [f"--{name}={getattr(mode, name)}" for name in ("images", "edits", "questions", "text", "val")]
    kinds = json.dumps([f"{shards}/{kind}-*.tar" for kind in ("images", "edits", "questions")])
    encode = [ddt, "encode", "--tokenizer", f"{run}/tokenizer", "--shards", kinds, "--out", f"{tokens}"]
    n = mode.evaluated
    scored = [f"--images={n}", f"--edits={n}", f"--questions={n}", f"--captions={n}"]
    evaluate = [ddt, "eval", "all", "--model", f"{model}", *scored]
    held_out = [*evaluate, "--out", f"{run}/eval", f"--prompt_images={mode.prompt_images}"]
    seen = [*evaluate, "--out", f"{run}/eval/seen", "--seen=true", f"--prompt_images={max(1, mode.prompt_images // 2)}"]
    steps = [f"--trainer.max_steps={count}" for count in mode.steps]
    images = [
        "--data.shards",
        json.dumps([f"{shards}/images-train-*.tar"]),
        "--data.val_shards",
        json.dumps([f"{shards}/images-val-*.tar"]),
    ]
    precision = mixed_precision()
    return [
        Step("scenes", "render shards of scenes, edits and questions",
             [[ddt, "data", "scenes", "--out", f"{shards}", *sizes]],
             shards, cost=mode.seconds[0]),
        Step("tokenizer", f"train the tokenizer, {mode.steps[0]} steps",
             [fit("tokenizer", "--config", "stages/tok.yaml", "--run_dir", f"{run}/tokenizer",
                   *images, *tokenizer_start(mode.steps[0]), *precision, steps[0])],
             run / "tokenizer", cost=mode.seconds[1]),
        Step("renderer", f"train its one-step decoder, {mode.steps[1]} steps",
             [fit("renderer", "--config", "stages/renderer.yaml", "--run_dir", f"{run}/renderer",
                   "--model.tokenizer", f"{run}/tokenizer", *images, *precision, steps[1])],
             run / "renderer", cost=mode.seconds[2]),
        Step("tokens", "encode images, edits and questions", [encode],
             tokens, cost=mode.seconds[3]),
        Step("pretrain", f"pretrain the language model, {mode.steps[2]} steps",
             [fit("pretrain", "--config", "stages/pretrain.yaml", "--run_dir", f"{run}/pretrain",
                   "--data.shards", json.dumps([f"{tokens}/images-train-*.tar"]),
                   "--data.val_shards", json.dumps([f"{tokens}/images-val-*.tar"]),
                   "--data.text_shards", json.dumps([f"{shards}/text-train-*.tar"]),
                   "--data.texts", json.dumps([f"{tokens}/edits-train-*.tar", f"{tokens}/questions-train-*.tar"]),
                   "--model.codebook", f"{run}/tokenizer", *precision, steps[2])],
             run / "pretrain", cost=mode.seconds[4]),
        Step("instruct", f"instruction tuning, {mode.steps[3]} steps",
             [fit("instruct", "--config", "stages/instruct.yaml", "--run_dir", f"{run}/instruct",
                   "--init_from", f"{run}/pretrain", "--data.vocab", f"{run}/pretrain/vocab",
                   "--data.images", json.dumps([f"{tokens}/images-train-*.tar"]),
                   "--data.edits", json.dumps([f"{tokens}/edits-train-*.tar"]),
                   "--data.questions", json.dumps([f"{tokens}/questions-train-*.tar"]), *precision, steps[3])],
             run / "instruct", cost=mode.seconds[5]),
        Step("eval", "draw, edit, describe, answer, and score all of it", [held_out, seen],
             run / "eval", before=partial(assemble_model, run, "instruct"), cost=mode.seconds[6]),
        Step("report", "write report.html", [[ddt, "report", f"{run}"]], run / "report.html",
             before=partial(collect_metrics, run), cost=mode.seconds[7]),
    ]  # fmt: skip


def collect_metrics(run: Path) -> dict[str, float]:
    """`metrics.json`: the value of every evaluation card, and the time of every step.

    Keys that begin with `seen/` are of combinations that training shows, all others of held-out ones.
    """
    metrics = flat(run / "eval")
    seen = flat(run / "eval" / "seen")
    metrics |= {f"seen/{key}": value for key, value in seen.items() if not key.startswith("decode/")}
    times = {name: Record(run, name).seconds for name in NAMES}
    metrics |= {f"time/{name}_s": round(seconds, 1) for name, seconds in times.items() if seconds}
    metrics["time/total_s"] = round(sum(times.values()), 1)
    write_json(run / "metrics.json", dict(sorted(metrics.items())))
    return metrics


def demo(mode: Mode, until: str) -> None:
    """Run a demo up to a step."""
    run = Path(mode.folder)
    steps = plan(mode)
    steps = steps[: [step.name for step in steps].index(until) + 1]

    if failed := run_chains([Chain("demo", "the whole flow", steps)], run):
        raise RuntimeError(failed["demo"])
    if until == "report":
        say(f"{run}/report.html is ready; {minutes(collect_metrics(run)['time/total_s'])} in all.")


def main() -> None:
    """Entry point of the Makefile's targets."""
    parser = argparse.ArgumentParser(prog="ddt_lightning.plans.demo", description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="default", help="sizes: quick proves the flow, long is better")
    parser.add_argument("--until", choices=[s.name for s in plan(MODES["quick"])], default="report", help="last step")
    args = parser.parse_args()
    try:
        demo(MODES[args.mode], args.until)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"demo: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
