"""`make bench` reaches every benchmark; the figures themselves are not tested."""

import importlib
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"


def test_the_entry_point_knows_every_benchmark(monkeypatch):
    done = subprocess.run([sys.executable, str(FOLDER), "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__main__", "timing", "sizes", "device"}
    assert names
    for name in names:
        assert name in done.stderr
        assert callable(importlib.import_module(name).main)
