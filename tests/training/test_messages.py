"""What a run prints: a few lines about itself, and nothing of its libraries."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.data import has_len_all_ranks

from ddt_lightning.training.messages import named_data, quiet_libraries

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml"]


def printed(run: Path, *words: str) -> list[str]:
    """Everything a `ddt-fit` call writes to the terminal, line by line; times as 0:00:00 and counts as 1,000."""
    call = [sys.executable, "-m", "ddt_lightning.cli", "fit", "tokenizer", *TINY, "--run_dir", str(run), *words]
    done = subprocess.run(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    text = re.sub(r"\d:\d\d:\d\d", "0:00:00", done.stdout)
    return re.sub(r"\d+(,\d{3})+", "1,000", text).splitlines()


def test_a_run_says_what_it_is_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    assert printed(run, "--trainer.max_steps=2") == [
        f"ddt-fit tokenizer: writes to {run}",
        "  data: scenes, rendered on the fly",
        "  model: 1,000 trained parameters, 1,000 frozen",
        "  steps 1 to 2, batches of 8; 1 x cpu, 32-true",
        f"ddt-fit tokenizer: trained to step 2 in 0:00:00; weights in {run}/release",
    ]
    assert printed(run) == [
        f"ddt-fit tokenizer: writes to {run}, goes on after step 2",
        "  data: scenes, rendered on the fly",
        "  model: 1,000 trained parameters, 1,000 frozen",
        "  steps 3 to 4, batches of 8; 1 x cpu, 32-true",
        f"ddt-fit tokenizer: trained to step 4 in 0:00:00; weights in {run}/release",
    ]
    assert printed(run) == [
        f"ddt-fit tokenizer: writes to {run}, goes on after step 4",
        f"ddt-fit tokenizer: nothing left to train in 0:00:00; weights in {run}/release",
    ]


def test_a_run_without_validation_is_no_reason_for_a_warning():
    """But training on nothing is: an empty loader of another kind."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries()
        for nothing in ([], ()):
            assert has_len_all_ranks(nothing, SingleDeviceStrategy(torch.device("cpu")))
    assert ["`tuple`" in str(one.message) for one in caught] == [True]


def test_data_are_named_by_their_options():
    shards = {"shards": ["a-*.tar", "b.tar"], "texts": ["c.tar"], "val_shards": ["d.tar"], "weights": None, "edits": []}
    assert named_data(shards) == "shards a-*.tar, b.tar; texts c.tar"
    assert named_data({"prompts": "seen", "batch_size": 4}) == "prompts seen"
    assert named_data({"shards": None, "image_size": 64}) == "scenes, rendered on the fly"
