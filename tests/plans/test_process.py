"""Steps as processes: a stopped plan stops what it runs, and lets it save what it has."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddt_lightning.plans.step import Record
from tests.test_workers import heed_interrupts

ROOT = Path(__file__).parents[2]
CHILD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    time.sleep(0.3)
    (folder / "saved").write_text("all of it")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
(folder / "started").touch()
time.sleep(60)
"""
CALLER = """
import pathlib, sys
from ddt_lightning.plans.chains import run_chains
from ddt_lightning.plans.step import Chain, Step
folder = pathlib.Path(sys.argv[1])
step = Step("s", "wait", [["waiting_child", str(folder)]], folder / "s")
run_chains([Chain("all", "", [step])], folder)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_caller_stops_its_command(number, tmp_path):
    (tmp_path / "waiting_child.py").write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    words = [sys.executable, "-c", CALLER, str(tmp_path)]
    caller = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    until(lambda: (tmp_path / "started").exists() and Record(tmp_path, "s").seconds > 0)
    caller.send_signal(number)
    caller.communicate()
    if number != signal.SIGKILL:
        assert (tmp_path / "saved").exists()  # it was waited for
    until(lambda: (tmp_path / "saved").exists() and (tmp_path / "saved").read_text() == "all of it")
    known = json.loads((tmp_path / "steps" / "s.json").read_text())
    assert not known["done"] and known["seconds"] > 0


def until(happened) -> None:
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")
