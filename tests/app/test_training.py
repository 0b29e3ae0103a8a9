"""The train tab's reading of runs."""

import os

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ddt-lightning[app]'")

from ddt_lightning.app.training import changed, find_runs, page
from ddt_lightning.images import save_png


def test_runs_are_found_newest_first_and_no_deeper_than_three(tmp_path):
    for age, name in enumerate(["demo/tokenizer", "demo/pretrain", "alone", "a/b/c", "a/b/c/d"]):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "metrics.csv").write_text("step,loss\n")
        os.utime(tmp_path / name / "metrics.csv", (1000 - age, 1000 - age))
    assert find_runs(tmp_path) == ["demo/tokenizer", "demo/pretrain", "alone", "a/b/c"]
    assert find_runs(tmp_path / "nowhere") == []


def test_curves_and_newest_grids_are_shown(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("step,train/loss,val/loss,train/flow\n0,3,,0.5\n10,2,2.5,0.4\n")
    for step in (100, 200, 300, 400, 500):
        save_png(tmp_path / "samples" / f"step-{step:06d}.png", np.full((8, 8, 3), step % 256, np.uint8))
    html = page(tmp_path)
    assert html.count("<svg") == 2 and html.index("loss") < html.index("flow")
    assert [f"step-{step:06d}</figcaption>" in html for step in (100, 200, 500)] == [False, True, True]
    before = changed(tmp_path, "run")
    os.utime(table, (1, 1))
    assert changed(tmp_path, "run") != before


def test_a_run_without_lines_says_so(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n")
    assert "has logged nothing yet" in page(tmp_path)
