"""Twenty steps of every stage give the losses that were recorded once: a change of the code changes no number.

All stages train anew, one after another in one process of one thread: the renderer and the language model build on the
DDT tokenizer, instruction tuning on the language model. Losses agree to 1e-4 everywhere, and to the last bit on the
kind of processor that they were recorded on. `python tests/test_golden_losses.py` records them, which only an intended
change of training is a reason for.
"""

import csv
import json
import math
import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# All that is known of the package: its commands, its configurations, and where a run writes its losses.
DDT, FIT = (Path(sys.executable).parent / name for name in ("ddt", "ddt-fit"))
ROOT = Path(__file__).parents[1]
STAGES, SMOKE = ROOT / "stages", ROOT / "tests" / "smoke"
METRICS, TRAIN_LOSS, VAL_LOSS = "metrics.csv", "train/loss", "val/loss"

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
NAMES = ["ddt", "vqgan", "var", "renderer", "pretrain", "instruct"]
STEPS = 20
TOLERANCE = 1e-4

# What moves the sums of a run from here to there: it takes one thread, sees no GPU, and downloads nothing.
ALONE = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


def call(script: Path, *words: str) -> None:
    """Run a console script in this process: the imports of each would take longer than its training."""
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as left:
        if left.code:
            raise


def fit(stage: str, run: Path, config: str, smoke: str, *more: str) -> None:
    """Twenty steps of a stage into the folder `run`, every loss logged, one validation at the end."""
    whole = [f"--{name}={STEPS}" for name in
             ("trainer.max_steps", "model.optim.total_steps", "trainer.val_check_interval",
              "checkpoint.every_n_train_steps")]  # fmt: skip
    fixed = ["--seed_everything=0", "--trainer.precision=32-true", "--trainer.log_every_n_steps=1", "--data.workers=0"]
    configs = ["--config", str(STAGES / f"{config}.yaml"), "--config", str(SMOKE / f"{smoke}.yaml")]
    call(FIT, stage, *configs, "--run_dir", str(run), *whole, *fixed, *more)


def train(folder: Path) -> None:
    """All six runs, each in the folder of its name, and the shards they read."""
    shards, tokens = folder / "shards", folder / "tokens"
    tokenizer, pretrained = folder / "ddt", folder / "pretrain"
    call(DDT, "data", "scenes", "--out", str(shards), "--images", "32", "--edits", "16", "--questions", "16",
         "--text", "16", "--val", "8", "--side", "16", "--workers", "1")  # fmt: skip
    images = [f"--data.shards=[{shards}/images-train-*.tar]", f"--data.val_shards=[{shards}/images-val-*.tar]"]

    # scenes drawn on the fly for two of the image stages, shards for the others: both ways of reading are covered
    fit("tokenizer", tokenizer, "tok", "tokenizer")
    fit("tokenizer", folder / "vqgan", "vqgan", "vqgan", *images)
    fit("tokenizer", folder / "var", "var", "var")
    fit("renderer", folder / "renderer", "renderer", "renderer", f"--model.tokenizer={tokenizer}", *images)

    kinds = ("images", "edits", "questions")
    shown = ",".join(f"{shards}/{kind}-*.tar" for kind in kinds)
    call(DDT, "encode", "--tokenizer", str(tokenizer), "--shards", f"[{shown}]", "--out", str(tokens),
         "--processes", "1", "--device", "cpu")  # fmt: skip
    val = f"--data.val_shards=[{tokens}/images-val-*.tar]"
    ids = [f"--data.shards=[{tokens}/images-train-*.tar]", val, f"--data.texts=[{shards}/text-train-*.tar]"]
    fit("pretrain", pretrained, "pretrain", "language", f"--model.codebook={tokenizer}", *ids)
    chats = [f"--data.{kind}=[{tokens}/{kind}-train-*.tar]" for kind in kinds]
    chats += [f"--data.val_{kind}=[{tokens}/{kind}-val-*.tar]" for kind in kinds]
    start = [f"--init_from={pretrained}", f"--data.vocab={pretrained}/vocab"]
    fit("instruct", folder / "instruct", "instruct", "language", *start, *chats)


def losses_of(run: Path) -> dict[str, list[float]]:
    """The losses of a run as its table has them, which is every digit."""
    with (run / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in (TRAIN_LOSS, VAL_LOSS)}


def trained(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Losses of all six runs by name, trained in a process of their own: other tests leave no trace in it."""
    words = [sys.executable, "-P", str(Path(__file__).resolve()), str(folder)]
    done = subprocess.run(words, env={**os.environ, **ALONE}, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: losses_of(folder / name) for name in NAMES}


def identity() -> dict[str, str]:
    """What decides the last bits of a sum: the processor and the libraries that calculate."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().split("\n\n")[0].splitlines() if table.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    # a virtual machine may give several generations one name, so that family and model count, too
    named = [facts[name] for name in ("model name", "cpu family", "model") if name in facts]
    return {
        "machine": platform.machine(),
        "processor": " / ".join(named) or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_recorded_ones(name, found, golden):
    recorded = golden["losses"][name]
    assert [len(recorded[kind]) for kind in (TRAIN_LOSS, VAL_LOSS)] == [STEPS, 1]
    assert all(map(math.isfinite, recorded[TRAIN_LOSS] + recorded[VAL_LOSS]))
    assert found[name].keys() == recorded.keys()
    for kind, losses in recorded.items():
        assert found[name][kind] == pytest.approx(losses, rel=TOLERANCE, abs=0), kind
    if identity() == golden["identity"]:
        assert found[name] == recorded


def record() -> None:
    """Train and write the losses."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        losses = trained(Path(folder))
    GOLDEN.write_text(json.dumps({"identity": identity(), "losses": losses}, indent=1) + "\n")


if __name__ == "__main__":
    train(Path(sys.argv[1])) if len(sys.argv) > 1 else record()
