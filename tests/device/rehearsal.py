"""Every stage and every verb once, on the CPU or on the second device: `python -m tests.device.rehearsal ...`.

`prepare FOLDER` writes what all of them read; `run FOLDER DEVICE NAME ...` does the named steps, each into
`FOLDER/DEVICE/NAME`, and says in `FOLDER/DEVICE/outcomes.json` how each ended: nothing, or an error and where it arose.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ddt_lightning import cli

SECOND = "second"  # `second.NAME`; its import registers the device, after which a process cannot fork and train

STAGES = ("ddt", "vqgan", "var", "renderer", "pretrain", "instruct", "rl")
CONFIGS = {"ddt": ("tokenizer", "tok", "tokenizer"), "vqgan": ("tokenizer", "vqgan", "vqgan"),
           "var": ("tokenizer", "var", "var"), "renderer": ("renderer", "renderer", "renderer"),
           "pretrain": ("pretrain", "pretrain", "language"), "instruct": ("instruct", "instruct", "language"),
           "rl": ("rl", "rl", "rl"), "distances": ("tokenizer", "tok", "tokenizer"),
           "drawings": ("pretrain", "pretrain", "language")}  # fmt: skip
"""Stage, its configuration and its overlay of tiny sizes, by step."""
VERBS = ("generate", "edit", "describe", "ask", "reconstruct", "encode", "eval reconstruction", "study progressive")
SIDE = 16
FEW = ["--batch", "4", "--steps", "2"]
ALONE = ["--processes", "1"]


def prepare(folder: Path) -> None:
    """Scenes as shards, a tiny model, and the token shards that its tokenizer makes."""
    from ddt_lightning.images import to_png
    from ddt_lightning.scenes.suite import suite
    from ddt_lightning.shards.images import read_images
    from tests.tiny import taught_tokenizer, tiny_model

    tiny_model(folder / "model", tokenizer=taught_tokenizer(SIDE))
    call("data", "scenes", "--out", folder / "shards", "--images", 24, "--edits", 12, "--questions", 12, "--text", 12,
         "--val", 8, "--side", SIDE, "--workers", 1)  # fmt: skip
    call("encode", "--tokenizer", folder / "model", "--shards", f"{folder}/shards/[eiq]*.tar", "--out",
         folder / "tokens", "--device", "cpu", *ALONE)  # fmt: skip
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in suite()[::60]))
    (folder / "picture.png").write_bytes(
        to_png(next(iter(read_images([f"{folder}/shards/images-val-*.tar"]))).images[0])
    )


def call(*words: object) -> None:
    """One command line of `ddt`."""
    cli.main([str(word) for word in words])


def stage_options(step: str, folder: Path) -> list[str]:
    """Options that a stage's data and weights need."""
    shards, tokens, model = folder / "shards", folder / "tokens", folder / "model"
    kinds = ("images", "edits", "questions")
    images = [f"--data.shards=[{shards}/images-train-*.tar]", f"--data.val_shards=[{shards}/images-val-*.tar]"]
    chats = [f"--data.{part}{kind}=[{tokens}/{kind}-{name}-*.tar]" for kind in kinds
             for part, name in (("", "train"), ("val_", "val"))]  # fmt: skip
    ids = [f"--model.codebook={model}", f"--data.shards=[{tokens}/images-train-*.tar]",
           f"--data.val_shards=[{tokens}/images-val-*.tar]", f"--data.texts=[{shards}/text-train-*.tar]"]  # fmt: skip
    sizes = "--model.network={width: 16, depth: 1, heads: 2, kv_heads: 2, ffn_width: 32, max_length: 256}"
    start = [f"--init_from={model}", f"--data.vocab={model}/vocab", sizes]
    return {
        "ddt": [], "vqgan": images, "var": [],
        "distances": ["--config", "stages/fid.yaml", "--trainer.limit_val_batches=1"],
        "renderer": [f"--model.tokenizer={model}", *images],
        "pretrain": ids,
        "drawings": ["--config", "stages/geneval.yaml", f"--trainer.callbacks.prompts={folder}/prompts.jsonl",
                     f"--trainer.callbacks.release={model}", *ids],
        "instruct": [*start, *chats],
        "rl": [*start, f"--model.tokenizer={model}"],
    }[step]  # fmt: skip


def fit_words(step: str, folder: Path, run: Path) -> list[str]:
    """The command line of a tiny run of a stage."""
    stage, config, smoke = CONFIGS[step]
    files = ["--config", f"stages/{config}.yaml", "--config", f"tests/smoke/{smoke}.yaml"]
    return [stage, *files, "--run_dir", str(run), *stage_options(step, folder)]


def train(step: str, folder: Path, run: Path, device: str, *, half: bool = False) -> None:
    """Two steps with a validation, a third in a second call that continues the first, and the release.

    `half`: products in bfloat16, by the autocast of the device.
    """
    stage, *words = [*fit_words(step, folder, run), f"--trainer.accelerator={device}"]
    if device == SECOND:
        words += [f"--trainer.strategy={device}"]
    if half:
        settings = {"precision": "bf16-mixed", "device": device}
        plugin = {"class_path": "lightning.pytorch.plugins.precision.MixedPrecision", "init_args": settings}
        words += [f"--trainer.plugins={json.dumps(plugin)}"]
    for steps in (2, 3):
        cli.fit(stage, [*words, f"--trainer.max_steps={steps}"])


def mixed(folder: Path, out: Path, device: str) -> None:
    """A stage whose noise was left on the CPU."""
    from ddt_lightning.stages.tokenizer import TokenizerModule
    from ddt_lightning.tokens.tokenizer import Draws

    right = TokenizerModule.draws

    def wrong(*args: Any) -> Draws:
        draws = right(*args)
        return replace(draws, noise=draws.noise.cpu())

    with patch.object(TokenizerModule, "draws", wrong):
        train("ddt", folder, out / "mixed", device)


def verbs(folder: Path, out: Path, device: str) -> dict[str, Callable[[], None]]:
    """Every verb that a device matters to, by name."""
    model, tokens = folder / "model", folder / "tokens"
    shards = f"{folder}/shards"
    on = ["--model", model, "--device", device]
    picture = folder / "picture.png"

    def verb(name: str, *words: object) -> Callable[[], None]:
        return lambda: call(*words, "--out", out / name)

    def scored(kind: str, *words: object) -> Callable[[], None]:
        return verb(f"eval {kind}", "eval", kind, *words, *on, *FEW, *ALONE)

    def studied(kind: str, *words: object) -> Callable[[], None]:
        return verb(f"study {kind}", "study", kind, "--models", model, "--device", device, *words, *FEW)

    return {
        "generate": verb("generate", "generate", "a red circle above a blue square", *on, *FEW, "--images", 3),
        "plan": verb("plan", "generate", "a ring", *on, *FEW, "--plan", "auto", "--plan_length", 8),
        "edit": verb("edit", "edit", picture, "make the ring green", *on, *FEW),
        "describe": verb("describe", "describe", picture, *on, "--max_new_tokens", 6),
        "ask": verb("ask", "describe", picture, *on, "--question", "how many?", "--max_new_tokens", 6,
                    "--temperature", 1),
        "reconstruct": verb("reconstruct", "reconstruct", picture, *on, "--tokens", 2, 6, *FEW),
        "encode": verb("encode", "encode", "--tokenizer", model, "--shards", f"{shards}/[eiq]*-val-*.tar", "--device",
                       device, *ALONE),
        "decode": verb("decode", "decode", "--tokenizer", model, "--shards", f"{tokens}/images-val-*.tar", "--device",
                       device, *ALONE, *FEW),
        "eval reconstruction": scored("reconstruction", "--images", 4, "--prefix_images", 2, "--tokens", "[0,3]"),
        "eval t2i": scored("t2i", "--prompts", 2, "--images", 1),
        "eval caption": scored("caption", "--captions", 3),
        "eval vqa": scored("vqa", "--questions", 3),
        "eval edit": scored("edit", "--edits", 3),
        "eval distribution": scored("distribution", "--images", 20),
        "eval tokens": verb("eval tokens", "eval", "tokens", "--model", model, "--shards", f"{tokens}/images-val-*.tar",
                       "--device", device),
        "study progressive": studied("progressive", "--images", 3, "--points", 2, "--shown", 2),
        "study interpolate": studied("interpolate", "--pairs", 2, "--shown", 2),
    }  # fmt: skip


def attempt(step: Callable[[], None]) -> str | None:
    """None where a step succeeds; else its error and the lines of the package that led there."""
    try:
        step()
    except (Exception, SystemExit) as raised:
        error: BaseException = raised
        while error.__context__ is not None and type(error).__name__ != "MixedDevices":
            error = error.__context__  # the trainer fails again while it clears up
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "ddt_lightning" in f.filename]
        where = " <- ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
        return f"{type(error).__name__}: {str(error)[:400]} at {where}"
    return None


def run(folder: Path, device: str, names: list[str]) -> None:
    """The named steps."""
    if device == SECOND:
        from tests.device import second
        from tests.device.trainer import register

        second.use()
        register()
    os.environ["DDT_DEBUG"] = "1"
    out = folder / device
    out.mkdir(exist_ok=True)
    steps: dict[str, Callable[[], None]] = verbs(folder, out, device)
    for name in CONFIGS:
        steps[name] = lambda name=name: train(name, folder, out / name, device)
        steps[f"{name} half"] = lambda name=name: train(name, folder, out / f"{name} half", device, half=True)
    steps["mixed"] = lambda: mixed(folder, out, device)
    outcomes = {name: attempt(steps[name]) for name in names}
    (out / "outcomes.json").write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "prepare":
        prepare(Path(place))
    else:
        run(Path(place), rest[0], rest[1:])
        sys.stdout.flush()
        os._exit(0)
