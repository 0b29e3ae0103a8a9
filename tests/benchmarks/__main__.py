"""`make bench`: every benchmark of this folder, one table each."""

import importlib
from pathlib import Path

import torch

torch.set_num_threads(1)
for path in sorted(Path(__file__).parent.glob("*.py")):
    if path.stem not in ("__main__", "timing"):
        importlib.import_module(f"tests.benchmarks.{path.stem}").main()
