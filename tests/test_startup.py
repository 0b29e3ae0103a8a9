"""Modules that a first picture does not wait for."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import tiny_model

HEAVY = (
    "lightning", "diffusers", "torchmetrics", "torch_fidelity", "torchvision", "matplotlib", "webdataset", "scipy",
    "sympy", "triton", "torch._dynamo", "torch.distributed.fsdp", "transformers.modeling_utils", "accelerate", "pandas",
)  # fmt: skip
CODE = """
import json, sys
from ddt_lightning.cli import main
main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
"""


def test_drawing_imports_nothing_heavy(tmp_path):
    model = tiny_model(tmp_path / "model")
    call = ["generate", "a red circle", "--model", str(model), "--out", str(tmp_path / "drawn"), "--steps", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", CODE, *call], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in imported and (tmp_path / "drawn" / "00000.png").is_file()
    assert imported.isdisjoint(HEAVY), imported & set(HEAVY)
