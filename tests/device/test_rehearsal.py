"""Dress rehearsal: every stage and every verb on a second device gives what it gives on the CPU."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.device.rehearsal import STAGES, VERBS

ROOT = Path(__file__).parents[2]
ALONE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
TOLERANCE = 2e-5
FIRST = ("ddt", "rl", "edit", "encode")
"""Stages and verbs that are rehearsed by the fast tests; the others take a minute more."""
OF_THE_RUN = ("device", "versions", "seconds", "time", "at")
"""Entries of records that say how, where and when."""


def process(*words: object) -> subprocess.Popen:
    """A rehearsal in a process of its own, for the device changes torch for good."""
    command = [sys.executable, "-m", "tests.device.rehearsal", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ALONE}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def finished(started: subprocess.Popen) -> None:
    said, _ = started.communicate(timeout=3600)  # a hang, not a busy machine
    assert started.returncode == 0, said[-3000:]


def both(folder: Path, *names: str) -> dict[str, Any]:
    """Outcomes of steps on the second device, after the same steps on the CPU succeeded."""
    finished(process("prepare", folder))
    for one in [process("run", folder, device, *names) for device in ("cpu", "second")]:
        finished(one)
    outcomes = {device: json.loads((folder / device / "outcomes.json").read_text()) for device in ("cpu", "second")}
    assert outcomes["cpu"] == dict.fromkeys(names)
    return outcomes["second"]


def differences(folder: Path) -> list[str]:
    """Files and entries in which the second device's results are not the CPU's."""
    found, (here, there) = [], (folder / "cpu", folder / "second")
    names = [
        sorted(str(path.relative_to(side)) for path in side.rglob("*") if path.is_file()) for side in (here, there)
    ]
    if names[0] != names[1]:
        found.append(f"files: {sorted(set(names[0]) ^ set(names[1]))}")
    for name in sorted(set(names[0]) & set(names[1]) - {"outcomes.json"}):
        one, two = contents(here / name, "/cpu/"), contents(there / name, "/second/")
        found += [f"{name} {place}" for place in unequal(one, two)]
    return found


def contents(path: Path, part: str) -> Any:
    """What a file says, as numbers where it holds any; None for kinds that are not compared."""
    if path.name == "throughput.csv":  # times
        return None
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [
                {key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)
            ]
    if path.suffix == ".safetensors":  # the bias of keys has no gradient but the rounding of one
        return {name: value for name, value in load_file(path).items() if not name.endswith("to_k.bias")}
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).astype(int)
    if path.suffix == ".json":
        return json.loads(path.read_text().replace(part, "/"))
    if path.suffix == ".jsonl":
        return [json.loads(line.replace(part, "/")) for line in path.read_text().splitlines()]
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        return {name: np.asarray(Image.open(io.BytesIO(data))).astype(int) if name.endswith(".png") else data.hex()
                for name, data in members.items()}  # fmt: skip
    return None


def unequal(one: Any, two: Any, place: str = "") -> list[str]:
    """Places at which two readings differ by more than rounding."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [more for key in one if key not in OF_THE_RUN for more in unequal(one[key], two[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [more for n, pair in enumerate(zip(one, two, strict=True)) for more in unequal(*pair, f"{place}[{n}]")]
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and one.shape == two.shape:
        close = np.abs(one - two).max(initial=0) <= 1 if one.dtype == int else np.allclose(
            one, two, rtol=TOLERANCE, atol=TOLERANCE)  # fmt: skip
        return [] if close else [f"{place} by {np.abs(one - two).max()}"]
    if isinstance(one, float) and isinstance(two, float | int):
        close = math.isclose(one, two, rel_tol=1e-4, abs_tol=TOLERANCE) or (one != one and two != two)
        return [] if close else [f"{place} {one} {two}"]
    return [] if one == two else [f"{place} {str(one)[:60]} {str(two)[:60]}"]


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_stages_and_verbs(tmp_path, first):
    """Each stage trains, validates, saves, goes on from its checkpoint and releases; each verb does its job."""
    stages, verbs = ([name for name in names if (name in FIRST) == first] for names in (STAGES, VERBS))
    outcomes = both(tmp_path, *stages, *verbs, "mixed")
    found = outcomes.pop("mixed")
    assert found.startswith("MixedDevices") and "tokenizer.py" in found  # a planted mistake is seen, and where it is
    assert outcomes == dict.fromkeys([*stages, *verbs])
    assert all((tmp_path / "second" / stage / "release").is_dir() for stage in stages)
    shutil.rmtree(tmp_path / "cpu" / "mixed")
    shutil.rmtree(tmp_path / "second" / "mixed")
    assert differences(tmp_path) == []


@pytest.mark.slow
def test_other_verbs_and_callbacks_that_measure(tmp_path):
    names = ["distances", "drawings", "plan", "decode", "eval t2i", "eval caption", "eval vqa", "eval edit",
             "eval distribution", "eval tokens", "study interpolate"]  # fmt: skip
    assert both(tmp_path, *names) == dict.fromkeys(names)
    assert differences(tmp_path) == []


@pytest.mark.slow
def test_stages_in_half_precision(tmp_path):
    """Autocast of the device, by CUDA's lists, beside the CPU's, which computes other operations in float32."""
    names = [f"{stage} half" for stage in STAGES]
    assert both(tmp_path, *names) == dict.fromkeys(names)
    for name in names:
        one, two = (contents(tmp_path / side / name / "metrics.csv", "") for side in ("cpu", "second"))
        losses = [[row["train/loss"] for row in rows if row["train/loss"] is not None] for rows in (one, two)]
        assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=0.05), name
