"""`ddt run demo`: the whole flow on rendered scenes, as a plan of command lines.

scenes -> tokenizer -> renderer -> tokens -> pretrain -> instruct -> rl -> eval -> report, all inside one folder. Every
step is what a user would type. The language model plans in words before it draws; it learns to draw from images that
the tokenizer reconstructs rightly, and practises with a reward after instruction tuning.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.fingerprint import CLI
from ddt_lightning.plans.progress import minutes, say
from ddt_lightning.plans.recipes import (
    CONFIGS,
    STARTING,
    assemble_model,
    collect_metrics,
    fit,
    mixed_precision,
    practice_of,
    select_tokens,
    tokenizer_start,
    words_of,
)
from ddt_lightning.plans.step import Step

Until = Literal["scenes", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "rl", "eval", "report"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Sizes of a demo.

    Args:
        run: folder of everything.
        images: captioned training scenes.
        groups: further ones, of two things of a kind in one place relative to a third.
        edits: training edits.
        edits_in_words: training edits without images, planned from a plan of the source.
        questions: training questions.
        questions_in_words: conversations of training questions without images, about a layout in words.
        kinds_in_words: how many kinds of shapes edits and questions in words speak of; images show the first 6.
        text: text-only lines.
        val: held-out samples of each kind.
        tokenizer_steps: optimizer steps of the tokenizer.
        renderer_steps: optimizer steps of its one-step decoder.
        pretrain_steps: optimizer steps of the language model's pretraining.
        instruct_steps: optimizer steps of its instruction tuning.
        formats: shares of its samples: draw, describe, edit, answer, and converse for edits and questions in words.
        plans: write a plan with every scene, said both ways, so that the language model plans before it draws.
        answer_plans: write a plan with every question, so that the language model says what it sees before it answers
            or describes.
        even_edits: training edits of one, two and three shapes are equally frequent; without it most have one.
        select: tune on the images and edits alone whose ids decode to what their plans say.
        rl_steps: optimizer steps of practice with a reward; 0 for none.
        rl_prompts: what it asks for, as `data.prompts` of the stage takes it.
        prompt_images: images per prompt of the suite.
        evaluated: held-out images, edits, questions and captions that are scored.
        seconds: {step: relative cost of a scene, an optimizer step or a scored sample}; how long the steps really take
            is measured while they run.
    """

    CONFIG: ClassVar[str] = "stages/demo.yaml"

    run: str
    images: int
    groups: int
    edits: int
    edits_in_words: int
    questions: int
    questions_in_words: int
    kinds_in_words: Literal[6, 12, 18]
    text: int
    val: int
    tokenizer_steps: int
    renderer_steps: int
    pretrain_steps: int
    instruct_steps: int
    formats: dict[str, float]
    plans: bool
    answer_plans: bool
    even_edits: bool
    select: bool
    rl_steps: int
    rl_prompts: list[Literal["seen", "groups", "edits"]]
    prompt_images: int
    evaluated: int
    seconds: dict[str, float]


def plan(sizes: Demo) -> list[Step]:
    """The steps of a demo, in order."""
    run = Path(sizes.run)
    shards, tokens, model = run / "shards", run / "tokens", run / "model"
    if sizes.select and not sizes.plans:
        raise ValueError(f"`select` (true) needs `plans` ({sizes.plans}): images are judged by their plans.")
    if sizes.answer_plans and not sizes.plans:
        raise ValueError(f"`answer_plans` (true) needs `plans` ({sizes.plans}): descriptions take those of the images.")
    in_words = {kind: n for kind in ("edits_in_words", "questions_in_words") if (n := getattr(sizes, kind))}
    if bool(in_words) != bool(sizes.formats.get("converse")):
        raise ValueError(
            f"`edits_in_words` ({sizes.edits_in_words}) and `questions_in_words` ({sizes.questions_in_words}) are "
            f"drawn by `formats.converse` ({sizes.formats.get('converse')}): give a share and one of them, or neither."
        )
    if sizes.rl_steps and not sizes.rl_prompts:
        raise ValueError(f"`rl_steps` ({sizes.rl_steps}) need `rl_prompts` ([]): name what they ask for, such as seen.")
    scenes = sizes.images + sizes.groups + sizes.edits + sizes.questions
    units = {
        "scenes": scenes + sum(in_words.values()),
        "tokenizer": sizes.tokenizer_steps,
        "renderer": sizes.renderer_steps,
        "tokens": scenes,
        "pretrain": sizes.pretrain_steps,
        "instruct": sizes.instruct_steps,
        **({"rl": sizes.rl_steps} if sizes.rl_steps else {}),
        "eval": sizes.evaluated,
        "report": 1,
    }

    def step(
        name: str, about: str, *commands: list[str], folder: Path, before: Callable[[], object] | None = None
    ) -> Step:
        cost = STARTING * len(commands) + sizes.seconds.get(name, 1.0) * units[name]
        return Step(name, about, commands, folder, before=before, cost=cost)

    def train(stage: str, about: str, *words: str) -> Step:
        steps = units[stage]
        faster = [] if stage == "rl" else mixed_precision()  # for stages trained by muon
        command = fit(stage, [CONFIGS[stage]], run / stage, *words, *faster, f"--trainer.max_steps={steps}")
        return step(stage, f"{about}, {steps} steps", command, folder=run / stage)

    def these(*kinds: str, part: str = "train", made: Path = tokens) -> str:
        return json.dumps([f"{made}/{kind}-{part}-*.tar" for kind in kinds])

    images = [
        "--data.shards",
        these("images", made=shards),
        "--data.val_shards",
        these("images", part="val", made=shards),
    ]
    made = ("images", "groups", "edits", "edits_in_words", "questions", "questions_in_words", "text", "val")
    counts = [f"--{name}={getattr(sizes, name)}" for name in made]
    written = [f"--kinds_in_words={sizes.kinds_in_words}"] if in_words else []
    written += ["--plans=true", "--both_ways=true"] if sizes.plans else []
    written += [f"--{name}=true" for name in ("answer_plans", "even_edits") if getattr(sizes, name)]
    captioned = ["images", *(["groups"] if sizes.groups else [])]
    kinds = [f"{shards}/{kind}-*.tar" for kind in (*captioned, "edits", "questions")]
    scored = [f"--{name}={sizes.evaluated}" for name in ("images", "edits", "questions", "captions")]
    evaluate = [CLI, "eval", "all", "--model", f"{model}", *scored]
    held_out = [*evaluate, "--out", f"{run}/eval", f"--prompt_images={sizes.prompt_images}"]
    seen = [*evaluate, "--out", f"{run}/eval/seen", "--seen=true"]
    seen += [f"--prompt_images={max(1, sizes.prompt_images // 2)}"]
    right = tokens / "right" if sizes.select else tokens
    choose = select_tokens(run, '{"ddt_lightning.rl.rewards.plan_right": 1.0}', kinds=(*captioned, "edits"))
    # A plan has as many ids as an image, so that text needs less weight than where it is answers alone.
    lighter = ["--model.text_weight=2"] if sizes.plans else []
    shares = words_of({f"data.{name}": share for name, share in sizes.formats.items()})
    if in_words:
        shares += ["--data.conversations", these(*in_words, made=shards)]
    judge: list[list[str]] = []
    planned = ["--plan=auto", "--temperature=0"] if sizes.plans else []  # what a prompt leaves open, the plan varies
    chosen = [*planned, "--guidance=1"] if sizes.plans or sizes.rl_steps else []  # practice is without guidance
    held_out, seen = [*held_out, *chosen], [*seen, *chosen]
    if sizes.plans:
        judge = [
            [CLI, "eval", "plan", "--model", f"{model}", "--out", f"{run}/eval", f"--samples={sizes.prompt_images}"],
            [CLI, "eval", "plan", "--model", f"{model}", "--out", f"{run}/eval/seen", "--seen=true", "--samples=1"],
        ]
    if in_words:
        spoken = [CLI, "eval", "words", "--model", f"{model}"]
        spoken += [f"--{kind}={sizes.evaluated}" for kind in ("edits", "questions")]
        judge += [[*spoken, "--out", f"{run}/eval"], [*spoken, "--out", f"{run}/eval/seen", "--seen=true"]]
    if sizes.groups:
        grouped = [CLI, "eval", "t2i", "--split=groups", "--model", f"{model}", *chosen]
        judge += [[*grouped, "--out", f"{run}/eval"], [*grouped, "--out", f"{run}/eval/seen", "--seen=true"]]
    watched = ["held_out" if prompts == "seen" else f"held_out_{prompts}" for prompts in sizes.rl_prompts]
    asked = ["--data.prompts", json.dumps(sizes.rl_prompts), "--data.val_prompts", json.dumps(watched)]
    if "edits" in sizes.rl_prompts:
        asked += ["--model.rewards", '{"ddt_lightning.rl.rewards.shapes_or_edit": 1.0}']
    practice = [train("rl", "practice with a reward", *practice_of(run), *asked)] if sizes.rl_steps else []
    return [
        step(
            "scenes",
            "render shards of scenes, edits and questions",
            [CLI, "data", "scenes", "--out", f"{shards}", *counts, *written],
            folder=shards,
        ),
        train("tokenizer", "train the tokenizer", *images, *tokenizer_start(sizes.tokenizer_steps)),
        train("renderer", "train its one-step decoder", "--model.tokenizer", f"{run}/tokenizer", *images),
        step(
            "tokens",
            "encode images, edits and questions",
            [CLI, "encode", "--tokenizer", f"{run}/tokenizer", "--shards", json.dumps(kinds), "--out", f"{tokens}"],
            *([choose] if sizes.select else []),
            folder=tokens,
        ),
        train(
            "pretrain",
            "pretrain the language model",
            *("--data.shards", these("images"), "--data.val_shards", these("images", part="val")),
            *("--data.text_shards", these("text", made=shards)),
            *("--data.texts", json.dumps([f"{tokens}/{kind}-train-*.tar" for kind in ("edits", "questions")])),
            *("--model.codebook", f"{run}/tokenizer"),
        ),
        train(
            "instruct",
            "instruction tuning",
            *("--init_from", f"{run}/pretrain", "--data.vocab", f"{run}/pretrain/vocab"),
            *("--data.images", these(*captioned, made=right), "--data.edits", these("edits", made=right)),
            *("--data.questions", these("questions"), *lighter, *shares),
        ),
        *practice,
        step(
            "eval",
            "draw, edit, describe, answer, and score all of it",
            held_out,
            seen,
            *judge,
            folder=run / "eval",
            before=partial(assemble_model, run, "rl" if sizes.rl_steps else "instruct"),
        ),
        step(
            "report",
            "write report.html",
            [CLI, "report", f"{run}"],
            folder=run / "report.html",
            before=partial(collect_metrics, run, list(units)),
        ),
    ]


def demo(*, sizes: Demo, until: Until = "report") -> None:
    """Run the whole flow on rendered scenes: data, tokenizer, language model, evaluation, report.

    The same call goes on where it was stopped; a step that is done is not run again while nothing that it depends on
    has changed.

    Args:
        sizes: of the demo.
        until: last step.

    Raises:
        ChildProcessError: a step failed.
    """
    run, steps = Path(sizes.run), plan(sizes)
    names = [step.name for step in steps]
    run_to_end(steps, run, until)
    if until == "report":
        spent = collect_metrics(run, names)["time/total_s"]
        say(f"{run}/report.html is ready; {minutes(spent)} in all.")
