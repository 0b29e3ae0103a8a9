"""Arrays that are measured once and kept in a folder, by a hash of what they depend on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddt_lightning.atomic import whole_file
from ddt_lightning.inputs import progress
from ddt_lightning.plans.fingerprint import code_mark, fingerprint, own_modules
from ddt_lightning.plans.step import Step, open_record

Arrays = dict[str, np.ndarray]


def measured(
    out: Path, name: str, facts: Mapping[str, Any], rows: int, batch: int,
    make: Callable[[slice], Arrays],
) -> Arrays:  # fmt: skip
    """The arrays that `make` gives for all rows; batches that lie in `out` from an equal call are not made again.

    Args:
        out: the study's folder.
        name: of the measurement in it.
        facts: everything else the arrays depend on, as JSON.
        rows: how many.
        batch: rows at a time.
        make: what to do with some of the rows; the code of its module, and of what that imports, counts.
    """
    key = json.dumps({**facts, "rows": rows, "batch": batch}, sort_keys=True)
    step = Step(name, "measure", [[key]], out / "measured" / name, inputs=code_mark(own_modules(make)))
    record = open_record(out, step, fingerprint(step, ""))
    record.write()
    step.folder.mkdir(parents=True, exist_ok=True)
    parts: list[Arrays] = []
    for start in progress(range(0, rows, batch), name):
        path = step.folder / f"part-{start:06d}.npz"
        if not path.is_file():
            with whole_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **make(slice(start, min(start + batch, rows))))
        with np.load(path) as part:
            parts.append(dict(part))
    record.done = True
    record.write()
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
