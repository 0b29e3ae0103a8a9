"""Steps, command lines and options that several plans share."""

import functools
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddt_lightning.atomic import write_json
from ddt_lightning.metrics.cards import flat
from ddt_lightning.plans.fingerprint import CLI
from ddt_lightning.plans.step import Record, Step
from ddt_lightning.settings import merge

Overlay = dict[str, Any]
CONFIGS = {
    "tokenizer": "stages/tok.yaml",
    "renderer": "stages/renderer.yaml",
    "pretrain": "stages/pretrain.yaml",
    "instruct": "stages/instruct.yaml",
    "rl": "stages/rl.yaml",
}
STARTING = 8.0  # cost of starting a command, in the seconds that the YAML of a plan counts in


def overlaid(*parts: Overlay) -> Overlay:
    """Overlays merged in order, into a new one."""
    merged: Overlay = {}
    for part in parts:
        merge(merged, json.loads(json.dumps(part)))  # a copy: merging fills nested mappings
    return merged


def fit_step(
    name: str,
    stage: str,
    configs: Sequence[str],
    overlay: Overlay,
    seed: int,
    out: Path,
    folder: Path,
    inputs: str = "",
) -> Step:
    """The step that trains one model, with the overlay that it reads.

    Args:
        name: of the step and of the overlay.
        stage: of `ddt-fit`.
        configs: YAML files below the overlay.
        overlay: what this run says beyond them.
        seed: of the run.
        out: the plan's folder, whose `variants/` holds the overlay.
        folder: the run's.
        inputs: marks of the shards and weights that it reads.
    """
    file = str(out / "variants" / f"{name}.yaml")
    words = [word for config in (*configs, file) for word in ("--config", config)]
    command = [CLI, "fit", stage, *words, "--run_dir", str(folder), "--seed_everything", str(seed)]
    files = {file: yaml.safe_dump(overlay, sort_keys=False)}
    return Step(name, f"train {name}", [command], folder, files, inputs)


def verb_step(name: str, verb: str, options: Mapping[str, Any], folder: Path, inputs: str = "") -> Step:
    """The step of a `ddt` verb that writes `folder`.

    Args:
        name: of the step.
        verb: e.g. `eval t2i`.
        options: of the verb; those that are None are left out.
        folder: what the verb writes, given as its `--out`.
        inputs: marks of the shards and weights that it reads.
    """
    words = [*verb.split(), "--out", str(folder)]
    for option, value in options.items():
        if value is not None:
            words += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    return Step(name, verb, [[CLI, *words]], folder, inputs=inputs)


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def layout() -> list[str]:
    """YAML files that say how many processes train: two where there are two cores."""
    return ["stages/cpu2.yaml"] if (os.cpu_count() or 1) > 1 else []


def fit(stage: str, configs: Sequence[str], run_dir: Path, *options: str) -> list[str]:
    """A `ddt-fit` command line, with the layout of processes behind the first YAML file.

    Args:
        stage: of `ddt-fit`.
        configs: YAML files, merged in order.
        run_dir: folder of the run.
        options: further words.
    """
    first, *others = configs
    words = [word for config in (first, *layout(), *others) for word in ("--config", config)]
    return [CLI, "fit", stage, *words, "--run_dir", str(run_dir), *options]


def processor_flags() -> set[str]:
    """Features of the processor, as Linux names them."""
    facts = Path("/proc/cpuinfo")
    return set(facts.read_text().split()) if facts.is_file() else set()


@functools.cache
def bf16_pays() -> bool:
    """Whether products in bf16 take less time than in fp32 on this processor.

    Measured, on one thread, because the flag does not say: of two processors with `avx512_bf16` one takes half the time
    and the other twice. Both are far from the bound, so that the answer, which is part of a plan's fingerprints, is the
    same at every call.
    """
    if not {"avx512_bf16", "amx_bf16"} & processor_flags():
        return False
    import torch

    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    factors = {dtype: (torch.ones(1536, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)) for dtype in best}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(20):
        for dtype, (a, b) in factors.items():
            started = time.perf_counter()
            torch.mm(a, b)  # as large as those of a small transformer
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    torch.set_num_threads(threads)
    return best[torch.bfloat16] < best[torch.float32] / 1.2


def mixed_precision() -> list[str]:
    """Options of a stage trained by muon, where bf16 makes a step on this processor faster."""
    if not bf16_pays():
        return []
    return ["--trainer.precision=bf16-mixed", "--model.optim.orthogonalise_in=bfloat16"]


def tokenizer_start(steps: int) -> list[str]:
    """Options for the start of a tokenizer's run of `steps` steps, as in stages/tok.yaml.

    The warm-up is shorter only where the whole run is short; the power of the times falls over half of the run.
    """
    return [
        f"--model.tokenizer.quantizer.warmup_steps={min(250, steps // 4)}",
        f"--model.tokenizer.times.fall_steps={steps // 2}",
    ]


def select_tokens(run: Path, rewards: str, *options: str, kinds: Sequence[str] = ("images", "edits")) -> list[str]:
    """The command line that keeps those training images and edits whose ids decode to what a reward finds right.

    Args:
        run: folder with the runs of `tokenizer` and `renderer` and with `tokens/`; `tokens/right/` is written.
        rewards: of `ddt data select`.
        options: further words.
        kinds: of the shards that are read.
    """
    shards = json.dumps([f"{run}/tokens/{kind}-train-*.tar" for kind in kinds])
    words = [CLI, "data", "select", "--tokenizer", f"{run}/tokenizer", "--renderer", f"{run}/renderer"]
    return [*words, "--shards", shards, "--rewards", rewards, *options, "--out", f"{run}/tokens/right"]


def practice_of(run: Path) -> list[str]:
    """Options of practice with a reward after instruction tuning, with the parts of the run in a folder."""
    return [
        *("--init_from", f"{run}/instruct", "--data.vocab", f"{run}/instruct/release/vocab"),
        *("--model.tokenizer", f"{run}/tokenizer", "--model.renderer", f"{run}/renderer"),
    ]


def assemble_model(run: Path, language: str) -> None:
    """`run/model/`: all parts of a model side by side, as `Pipeline.from_pretrained` reads them.

    Args:
        run: folder with the runs of `tokenizer`, `renderer` and a language stage.
        language: the stage whose language model is taken.
    """
    folder = run / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("tokenizer", "renderer"):
        shutil.copytree(run / part / "release" / part, folder / part)
    for part in ("lm", "vocab"):
        shutil.copytree(run / language / "release" / part, folder / part)


def collect_metrics(run: Path, names: Sequence[str], others: Sequence[str] = ("seen",)) -> dict[str, float]:
    """`metrics.json`: the value of every evaluation card, and the time of every step.

    Keys of the other evaluations begin with their name, e.g. `seen/` for combinations that training shows; all others
    are of held-out ones.

    Args:
        run: folder of everything.
        names: of the steps.
        others: folders of other evaluations, below `eval/`.
    """
    metrics = flat(run / "eval")
    for other in others:
        found = flat(run / "eval" / other)
        metrics |= {f"{other}/{key}": value for key, value in found.items() if not key.startswith("decode/")}
    times = {name: Record(run, name).seconds for name in names}
    metrics |= {f"time/{name}_s": round(seconds, 1) for name, seconds in times.items() if seconds}
    metrics["time/total_s"] = round(sum(times.values()), 1)
    write_json(run / "metrics.json", dict(sorted(metrics.items())))
    return metrics
