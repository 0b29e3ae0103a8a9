"""`ddt run emoji`: the whole flow on emoji, as a plan of command lines.

shards -> judges -> tokenizer -> renderer -> tokens -> pretrain -> instruct -> rl -> eval -> draw -> report, all inside
one folder. Everything is measured on each held-out part of the emoji world, and on training pictures beside them.

The judges are two classifiers of attributes that differ in their seed. The teacher chooses what is learned and rewards
practice on combinations that training shows; the examiner alone scores drawings, so that no reward is its own measure.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.fingerprint import CLI, weights_mark
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
)
from ddt_lightning.plans.step import Step

Until = Literal[
    "shards", "judges", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "rl", "eval", "draw", "report"
]
EVALUATED = {"": "val-combination", "seen": "train", "concept": "val-concept", "style": "val-style"}
"""{folder below `eval/`: part of the shards}; the held-out combinations are what the report shows first."""
DRAWN = ("", "seen")
"""Those of which the examiner reads drawings and edits: held-out combinations, and training pictures."""
JUDGES = {"teacher": 0, "examiner": 1}
"""{folder below `judges/`: seed of the classifier}."""
TAKEN = {
    "tokenizer": {"tokenizer": "release/tokenizer"},
    "renderer": {"renderer": "release/renderer"},
    "pretrain": {"lm": "release/lm", "vocab": "vocab"},
}
"""{stage: {part of a trained model: its place in a run of the stage}}, for a run that starts from one."""


@dataclass(frozen=True, kw_only=True)
class EmojiRun:
    """Sizes of a run on emoji.

    Args:
        run: folder of everything.
        shards: shards of the pictures, see `ddt data emoji`.
        styles: noto, twemoji or openmoji.
        overlay: YAML file of the tokenizer stage.
        edits: training edits.
        questions: training questions.
        val: edits, and questions, of each held-out part.
        prompts: prompts of each part that are drawn.
        judge_steps: optimizer steps of each of the two classifiers.
        least: share of an image's or an edit's attributes that the teacher must read in its reconstruction for
            instruction tuning to learn it; 0 takes all.
        views: crops of each training picture that are encoded.
        crop_margin: how much larger than a crop the picture is.
        tokenizer_steps: optimizer steps of the tokenizer.
        renderer_steps: optimizer steps of its one-step decoder.
        pretrain_steps: optimizer steps of the language model's pretraining.
        instruct_steps: optimizer steps of its instruction tuning.
        rl_steps: optimizer steps of practice with the teacher's reward; 0 for none.
        drawn: pictures of each prompt.
        evaluated: pictures, edits, questions and captions of each part that are scored.
        lpips: torchvision's weights of AlexNet or VGG-16, for LPIPS of reconstructions; null leaves it out.
        start: a trained model, such as `emoji`, whose tokenizer and renderer are taken and whose language model learns
            on by instruction tuning; null trains all of them.
        seconds: {step: relative cost of it, of trainings that of an optimizer step}; how long the steps really take is
            measured while they run.
    """

    CONFIG: ClassVar[str] = "stages/emoji.yaml"

    run: str
    shards: list[str]
    styles: list[str]
    overlay: str
    edits: int
    questions: int
    val: int
    prompts: int
    judge_steps: int
    least: float
    views: int
    crop_margin: float
    tokenizer_steps: int
    renderer_steps: int
    pretrain_steps: int
    instruct_steps: int
    rl_steps: int
    drawn: int
    evaluated: int
    lpips: str | None = None
    start: str | None = None
    seconds: dict[str, float]


def evaluation(sizes: EmojiRun, folder: str, part: str) -> list[list[str]]:
    """Command lines that score reconstructions, edits, answers and captions of one part of the shards."""
    run = Path(sizes.run)
    out = ["--model", f"{run}/model", "--out", f"{run / 'eval' / folder}"]
    images, edits, questions = (f"{run}/shards/{kind}-{part}-*.tar" for kind in ("images", "edits", "questions"))
    lpips = ["--lpips", sizes.lpips] if sizes.lpips else []
    number = sizes.evaluated
    examined = []
    if folder in DRAWN:
        words = ["--classifier", weights_of(run, "examiner"), f"--number={number}"]
        copied = [] if part == "train" else ["--train", f"{run}/shards/images-train-*.tar"]
        examined = [[CLI, "eval", "emoji", "--shards", images, "--edits", edits, *words, *copied, *out]]
    return [
        *examined,
        [CLI, "eval", "reconstruction", "--shards", images, f"--images={number}", *lpips, *out],
        [CLI, "eval", "edit", "--shards", edits, f"--edits={number}", *out],
        [CLI, "eval", "vqa", "--shards", questions, f"--questions={number}", *out],
        [CLI, "eval", "caption", "--shards", images, f"--captions={number}", *out],
    ]


def taken(stage: str, source: str, run: Path) -> Step:
    """The step that takes the parts of a trained model that a stage would train, to where a run of it holds them.

    Raises:
        FileNotFoundError: the model lacks one of them.
    """
    found = {find_part(part, source, "--start"): run / stage / place for part, place in TAKEN[stage].items()}
    marks = " ".join(weights_mark(part) for part in found if any(part.glob("*.safetensors")))

    def take() -> None:
        for part, place in found.items():
            # the words of its training texts are no longer all that the model meets
            shutil.copytree(part, place, ignore=shutil.ignore_patterns("words.txt"))

    return Step(stage, f"take that of {source}", [], run / stage, inputs=marks, before=take)


def weights_of(run: Path, judge: str) -> str:
    """The file of a judge, see `JUDGES`."""
    return f"{run}/judges/{judge}/attributes.safetensors"


def plan(sizes: EmojiRun) -> list[Step]:
    """The steps of a run, in order."""
    run = Path(sizes.run)
    shards, tokens = run / "shards", run / "tokens"
    stages = ("tokenizer", "renderer", "pretrain", "instruct", "rl")
    units = {stage: getattr(sizes, f"{stage}_steps") for stage in stages}
    units["judges"] = len(JUDGES) * sizes.judge_steps

    def step(
        name: str, about: str, *commands: list[str], folder: Path, before: Callable[[], object] | None = None
    ) -> Step:
        cost = STARTING * len(commands) + sizes.seconds.get(name, 1.0) * units.get(name, 1)
        return Step(name, about, commands, folder, before=before, cost=cost)

    def train(stage: str, about: str, *words: str, configs: tuple[str, ...] = ()) -> Step:
        if sizes.start is not None and stage in TAKEN:
            return taken(stage, sizes.start, run)
        steps = units[stage]
        faster = [] if stage == "rl" else mixed_precision()  # for stages trained by muon
        options = [*words, *faster, f"--trainer.max_steps={steps}"]
        command = fit(stage, [CONFIGS[stage], *configs], run / stage, *options)
        return step(stage, f"{about}, {steps} steps", command, folder=run / stage)

    def these(made: Path, kind: str, part: str) -> str:
        return json.dumps([f"{made}/{kind}-{part}-*.tar"])

    def both(made: Path, kind: str, option: str, learned: Path | None = None) -> list[str]:
        return [
            f"--data.{option}", these(learned or made, kind, "train"), f"--data.val_{option}", these(made, kind, "val"),
        ]  # fmt: skip

    counts = [f"--{name}={getattr(sizes, name)}" for name in ("edits", "questions", "val", "prompts")]
    encode = [CLI, "encode", "--tokenizer", f"{run}/tokenizer", "--out", f"{tokens}", "--shards"]
    rest = [f"{shards}/{kind}-*.tar" for kind in ("images-val", "edits", "questions")]
    texts = [f"{tokens}/{kind}-train-*.tar" for kind in ("edits", "questions")]
    right, choose = tokens, []
    if sizes.least > 0:
        right = tokens / "right"
        taught = ["--judge", weights_of(run, "teacher"), f"--least={sizes.least}"]
        choose = [select_tokens(run, '{"ddt_lightning.rl.emoji_rewards.plan_attributes_right": 1.0}', *taught)]
    practice = []
    if sizes.rl_steps:
        words = [*practice_of(run), "--data.prompts", f"{shards}/prompts-train.jsonl"]
        words += ["--data.val_prompts", f"{shards}/prompts-val-combination.jsonl"]
        words += ["--model.rewards", '{"ddt_lightning.rl.emoji_rewards.attributes_right": 1.0}']
        words += ["--model.judge", weights_of(run, "teacher")]
        practice = [train("rl", "practise with the teacher's reward", *words)]
    return [
        step("shards", "pack pictures, edits and questions",
             [CLI, "data", "emoji", "--out", f"{shards}", "--shards", json.dumps(sizes.shards),
              "--styles", json.dumps(sizes.styles), *counts],
             folder=shards),
        step("judges", f"train two classifiers of attributes, {sizes.judge_steps} steps each",
             *([CLI, "study", "attributes", f"{shards}/images-train-*.tar",
                "--val_shards", f"{shards}/images-val-*.tar", "--out", f"{run}/judges/{name}",
                f"--steps={sizes.judge_steps}", f"--seed={seed}"] for name, seed in JUDGES.items()),
             folder=run / "judges"),
        train("tokenizer", "train the tokenizer", *both(shards, "images", "shards"),
              *tokenizer_start(sizes.tokenizer_steps), configs=(sizes.overlay,)),
        train("renderer", "train its one-step decoder", "--model.tokenizer", f"{run}/tokenizer",
              *both(shards, "images", "shards")),
        step("tokens", "encode pictures, edits and questions",
             [*encode, these(shards, "images", "train"), f"--views={sizes.views}",
              f"--crop_margin={sizes.crop_margin}"],
             [*encode, json.dumps(rest)], *choose, folder=tokens),
        train("pretrain", "pretrain the language model", *both(tokens, "images", "shards"),
              "--data.texts", json.dumps(texts), "--data.t2i=0.75", "--data.i2t=0.25", "--data.text_only=0",
              "--model.codebook", f"{run}/tokenizer"),
        train("instruct", "instruction tuning", "--init_from", f"{run}/pretrain",
              "--data.vocab", f"{run}/pretrain/vocab", *both(tokens, "images", "images", right),
              *both(tokens, "edits", "edits", right), *both(tokens, "questions", "questions"),
              "--model.text_weight=2"),  # a plan has nearly as many ids as an image
        *practice,
        step("eval", "reconstruct, edit, answer, describe, and score all of it",
             *(words for folder, part in EVALUATED.items() for words in evaluation(sizes, folder, part)),
             folder=run / "eval", before=partial(assemble_model, run, "rl" if sizes.rl_steps else "instruct")),
        step("draw", "draw prompts of each part",
             [CLI, "generate", f"{shards}/prompts.jsonl", f"--images={sizes.drawn}", "--model", f"{run}/model",
              "--out", f"{run}/pictures"],
             folder=run / "pictures"),
        step("report", "write report.html", [CLI, "report", f"{run}"], folder=run / "report.html",
             before=partial(collect_metrics, run, list(sizes.seconds), [part for part in EVALUATED if part])),
    ]  # fmt: skip


def emoji(*, sizes: EmojiRun, until: Until = "report") -> None:
    """Run the whole flow on emoji: shards with held-out parts, tokenizer, language model, evaluation, drawings, report.

    The same call goes on where it was stopped; a step that is done is not run again while nothing that it depends on
    has changed.

    Args:
        sizes: of the run.
        until: last step.

    Raises:
        FileNotFoundError: the shards of the pictures are missing, or `start` lacks a part.
        ValueError: `DDT_DATA` is not set.
        ChildProcessError: a step failed.
    """
    from ddt_lightning.shards.read import expand

    run, steps = Path(sizes.run), plan(sizes)
    expand(sizes.shards, "--shards")
    run_to_end(steps, run, until)
    if until == "report":
        spent = collect_metrics(run, [step.name for step in steps], [part for part in EVALUATED if part])
        say(f"{run}/report.html and {run}/pictures are ready; {minutes(spent['time/total_s'])} in all.")
