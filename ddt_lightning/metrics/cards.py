"""Evaluation cards: a score with everything one needs to know to compare it.

A card file is `{key: card}`. A card holds `value`, its 95 % `interval`, `n` (images, edits or answers measured) and the
`protocol` in words. The scores of a file share `asked` (samples asked for), `seed`, `weights` (hashes of the model and
of scoring networks given as files), `settings` and `versions`. Only some cards hold `unreadable` (samples of shards
that could not be read), `scorers` (hashes of scoring networks given as folders) and values beside the score:
`unchanged`, a baseline, and `tokenizer`, an upper bound. `flat` turns a folder of card files into the flat
`metrics.json`.
"""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ddt_lightning import __version__
from ddt_lightning.atomic import write_json
from ddt_lightning.metrics.intervals import NORMAL, around_mean, wilson

Card = dict[str, Any]


def mean_card(values: Sequence[float] | Sequence[bool], protocol: str) -> Card:
    """The mean of independent `values` with its 95 % interval: Wilson's for yes/no values, the normal one for others.

    Raises:
        ValueError: where there are no values.
    """
    if len(values) == 0:
        raise ValueError(f"Nothing was measured: {protocol}")
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if np.isin(numbers, (0.0, 1.0)).all():
        return card(mean, count, protocol, wilson(int(numbers.sum()), count))
    return card(mean, count, protocol, around_mean(numbers, NORMAL) if count > 1 else None)


def mean_card_by_type(values: Sequence[float] | Sequence[bool], protocol: str, types: Sequence[str]) -> Card:
    """`mean_card` of all values, and `by_type`: the mean of the values of each type."""
    groups: dict[str, list[float]] = {}
    for name, value in zip(types, values, strict=True):
        groups.setdefault(name, []).append(float(value))
    means = {name: sum(group) / len(group) for name, group in groups.items()}
    return {**mean_card(values, protocol), "by_type": means}


def card(value: float, n: int, protocol: str, interval: Sequence[float] | None = None) -> Card:
    """A score that was summarised elsewhere, or (without interval, `n` 1) a setting kept beside the scores."""
    # A bootstrap of equal values may miss their mean in the last digit.
    spread = None if interval is None else [min(float(interval[0]), value), max(float(interval[1]), value)]
    return {"value": float(value), "interval": spread, "n": n, "protocol": protocol}


def versions() -> dict[str, str]:
    """The versions a score may depend on."""
    found = {"ddt_lightning": __version__, "python": platform.python_version()}
    names = ("torch", "transformers", "diffusers", "torchmetrics", "torch-fidelity", "numpy", "scipy", "pillow")
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def file_hashes(files: dict[str, str | None]) -> dict[str, str]:
    """Sixteen hex digits of the SHA-256 of each file that is named.

    Raises:
        FileNotFoundError: naming the option of a file that does not exist.
    """
    found = {}
    for option, path in files.items():
        if path is not None:
            if not Path(path).is_file():
                raise FileNotFoundError(f"`--{option}` ({path}) does not exist: name a file of weights.")
            with Path(path).open("rb") as file:
                found[option] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return found


def write_cards(path: Path, cards: dict[str, Card], shared: dict[str, Any]) -> None:
    """Write `{key: card}`; `shared` (seed, weights, settings) and the versions are added to every card."""
    everything = {**shared, "versions": versions()}
    write_json(path, {key: {**value, **everything} for key, value in cards.items()})


def write_made(path: Path, facts: dict[str, Any], start: float) -> dict[str, Any]:
    """Write the card of a network or map that a study made, with the time it took and the versions; returns the card.

    Args:
        path: the file.
        facts: what else it says.
        start: `time.process_time()` when the study began.
    """
    spent = {"processor_seconds": round(time.process_time() - start)}
    made = {**facts, **spent, "version": __version__, "versions": versions()}
    write_json(path, made)
    return made


def read_cards(folder: Path) -> dict[str, Card]:
    """All cards of a folder of card files.

    Raises:
        ValueError: where two files disagree on a key, such as a decode setting.
    """
    found: dict[str, Card] = {}
    origin: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(c, dict) and "value" in c for c in content.values()):
            continue  # another kind of JSON file
        for key, value in content.items():
            if key in found and found[key]["value"] != value["value"]:
                raise ValueError(
                    f"{origin[key]} and {path} disagree on {key} ({found[key]['value']} and {value['value']}): "
                    "run the evaluations with the same settings."
                )
            found[key], origin[key] = value, path
    return found


def flat(folder: str | Path) -> dict[str, float]:
    """`{key: value}` of all cards of a folder, as in `metrics.json`."""
    return {key: float(value["value"]) for key, value in read_cards(Path(folder)).items()}
