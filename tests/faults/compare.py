"""Two folders of runs, bit for bit: everything but measurements of time and the name of the folder."""

import csv
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.faults.watch import journal, read

TIMES = ("throughput.csv",)
"""Files that say how long something took, which no two runs agree on."""
COUNTERS = "loops"
"""Lightning's counters in a checkpoint, which say whether it was saved at the end of the last step or of the run."""
OLDER = ("last-before.ckpt", "last-damaged.ckpt")
"""Checkpoints that a run does not go on from, and whose step depends on where it was killed."""


def differences(whole: Path, other: Path) -> list[str]:
    """Where the second run is not the first; the files that are the same on both sides are not named."""
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name not in (*TIMES, *OLDER)}
        for run in (whole, other)
    ]
    found = [f"{name} is {'missing' if name in names[0] else 'left over'}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        one, two = (contents(run / name, run) for run in (whole, other))
        found += [f"{name}{place}" for place in unequal(one, two)]
    return found


def contents(path: Path, run: Path) -> Any:
    """What a file says; a folder's own name is left out of it."""
    if path.suffix == ".ckpt":
        found = torch.load(path, map_location="cpu", weights_only=True)
        return without_name({key: value for key, value in found.items() if key != COUNTERS}, run)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text().replace(str(run), "RUN"))
    return path.read_bytes().replace(str(run).encode(), b"RUN")


def without_name(value: Any, run: Path) -> Any:
    """A reading whose texts do not name the folder."""
    if isinstance(value, dict):
        return {key: without_name(inner, run) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_name(inner, run) for inner in value]
    return value.replace(str(run), "RUN") if isinstance(value, str) else value


def unequal(one: Any, two: Any, place: str = "") -> list[str]:
    """Places at which two readings differ; tensors by their bits."""
    if isinstance(one, dict) and isinstance(two, dict):
        missing = [f"{place}[{key!r}] is on one side only" for key in [*(one.keys() ^ two.keys())]]
        return missing + [
            more for key in one if key in two for more in unequal(one[key], two[key], f"{place}[{key!r}]")
        ]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [more for n, pair in enumerate(zip(one, two, strict=True)) for more in unequal(*pair, f"{place}[{n}]")]
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape
        if same and torch.equal(bits(one), bits(two)):
            return []
        return [f"{place} by {(one.double() - two.double()).abs().max():.2g}" if same else f"{place} in shape or kind"]
    if isinstance(one, float) and isinstance(two, float) and one != one and two != two:
        return []
    if one == two and type(one) is type(two):
        return []
    return [f"{place}: {shorten(one)} and {shorten(two)}"]


def bits(x: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: nan equals nan, and -0 is not 0."""
    return x.detach().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x.reshape(-1)


def shorten(value: Any) -> str:
    """A value as one would print it, cut where it is long."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def other_batches(whole: Path, other: Path, processes: int) -> list[str]:
    """Steps for which a process of the second run ever took another batch than the first run did."""
    found = []
    for rank in range(processes):
        expected = {line["step"]: line["batch"] for line in read(journal(whole, rank)) if line["at"] == "step"}
        for line in read(journal(other, rank)):
            if line["at"] == "step" and expected.get(line["step"]) != line["batch"]:
                found.append(f"process {rank} took another batch for step {line['step']}")
    return found
