"""What a study's runner starts as processes, run in this one: each process would spend seconds on imports."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddt_lightning.cli import load, main, parse
from ddt_lightning.plans.step import Record, Step
from ddt_lightning.shards.write import pack_ids, write_shards, write_tokens_json

TINY_LM = ["stages/pretrain.yaml", "tests/smoke/language.yaml"]


def run_here(step: Step, record: Record, log: Path) -> Iterator[None]:
    """`running` without new processes."""
    for module, *words in step.commands:
        assert module == "ddt_lightning.cli"
        lines = io.StringIO()
        try:
            with contextlib.redirect_stderr(lines):
                main(words)
        except SystemExit as stop:
            raise RuntimeError(lines.getvalue()) from stop
    record.seconds += 1.0
    record.write()
    return iter(())


def read_study(name: str, config: str | Path, *words: str) -> Any:
    """The study that `ddt study NAME --config CONFIG` runs."""
    return parse(f"study {name}", load(f"study {name}"), ["--config", str(config), *words])["study"]


def token_shards(folder: Path, ids: np.ndarray, *, codes: int, tokenizer: str = "abc123", val: int = 16) -> Path:
    """`images-{train,val}-000000.tar` of ids `[N, K]` with a caption each; the last `val` are held out."""
    samples = [{"__key__": f"{n:06d}", "ids.npy": pack_ids(one, codes), "txt": f"picture {n % 5} of {n % 3}"}
               for n, one in enumerate(ids)]  # fmt: skip
    write_shards(folder, "images-train", samples[:-val], 10_000)
    write_shards(folder, "images-val", samples[-val:], 10_000)
    fields = {"tokenizer": tokenizer, "K": ids.shape[1], "codebook_size": codes, "order": "fine_to_coarse"}
    write_tokens_json(folder, **fields, transform="16 px, centre", source="made up")
    return folder
