"""Sampling by class through tokenizers: equal runs but for the ids, the same classes drawn, distances side by side."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.plans import chains
from ddt_lightning.shards.write import write_shards
from tests.command_lines import parse_plan
from tests.inprocess import TINY_LM, read_study, run_here
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
CLASSES = ["cat", "dog", "ship"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def pack(folder: Path, name: str, number: int) -> str:
    rng, samples = np.random.default_rng(number), []
    for n in range(number):
        held = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(held, "PNG")
        samples.append({"__key__": f"{n:05d}", "png": held.getvalue(), "txt": CLASSES[n % 3]})
    write_shards(folder, name, samples, 10_000)
    return f"{folder}/{name}-*.tar"


def write(folder: Path, **changed) -> str:
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 2,
        "jobs": 2,
        "tokenizers": {name: {"tokenizer": f"{folder}/{name}", "tokens": f"{folder}/{name}/tokens"} for name in "ab"},
        "classes": f"{folder}/classes.txt",
        "reference": [f"{folder}/val-*.tar"],
        "images": 40,
        "shown": 2,
        "drawing": {"temperature": 1.0, "steps": 1},
        "settings": {"data": {"text_vocab_size": 300, "packing": False, "val_samples": 8}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    parts = {"train": pack(folder, "train", 48), "val": pack(folder, "val", 42)}
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for seed, name in enumerate("ab"):
        tiny_tokenizer(seed=seed).save_pretrained(folder / name / "release" / "tokenizer")
        for part, shards in parts.items():
            words = ["--shards", shards, "--out", f"{folder}/{name}/tokens/{part}", "--processes", "1"]
            main(["encode", "--tokenizer", f"{folder}/{name}", *words])
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["study", "classes", "--config", write(folder), "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def test_tokenizers_side_by_side(done):
    out = done / "out"
    scores = read_study("classes", done / "study.yaml").collect(out)
    (distance,) = (key for key in scores if key.startswith("FD"))
    assert not any(key.startswith("decode/") for key in scores)  # settings are no scores
    for name in "ab":
        run = out / "runs" / name / "seed-0"
        cards = read_cards(run / "eval-distance")
        assert scores[distance][name] == {0: cards[f"t2i/{distance}"]["value"]}
        drawn = [json.loads(line) for line in (run / "pictures" / "results.jsonl").read_text().splitlines()]
        assert [one["prompt"] for one in drawn] == [name for name in CLASSES for _ in range(2)]
        assert drawn[0]["temperature"] == 1.0
    content = json.loads((out / "findings.json").read_text())
    row = next(row for row in content["tables"][0]["rows"] if row[0] == distance)
    one, other = (scores[distance][name][0] for name in "ab")
    assert row[1] == f"{one:.3f}" and row[3] == f"{other:.3f}" and row[5] == f"{other - one:+.3f}"
    with Image.open(out / "classes.png") as grid:
        assert grid.width > 4 * 112 and grid.height > 3 * 112  # two drawings of each tokenizer, a row a class
    texts = [(out / "runs" / name / "seed-0/pretrain/config.yaml").read_text() for name in "ab"]
    assert texts[0].replace(f"{done}/a", "T").replace("/runs/a/", "") == texts[1].replace(f"{done}/b", "T").replace(
        "/runs/b/", ""
    )


def test_a_finished_study_runs_nothing(done, monkeypatch):
    started = []
    monkeypatch.setattr(chains, "running", lambda step, record, log: started.append(step.name))
    study, out = read_study("classes", done / "study.yaml"), done / "out"
    assert chains.run_chains(study.plan(out), out) == {} and started == []
    main(["report", str(out)])
    text = (out / "report.html").read_text()
    assert "<h3>small</h3>" in text and "data:image/png" in text


def test_what_a_study_must_say(done):
    with pytest.raises(ValueError, match="`tokenizers` is empty"):
        read_study("classes", write(done, tokenizers={}))
    with pytest.raises(ValueError, match=r"`tokenizers\.a` must be \{tokenizer, tokens\}"):
        read_study("classes", write(done, tokenizers={"a": {"tokens": "x"}}))
    write(done)


def test_the_shipped_study_is_made_of_runs(tmp_path, monkeypatch, ddt_data):
    """Its commands parse, on shards of the names that `make photos` and `make evidence` give them."""
    monkeypatch.setenv("DDT_DATA", str(ddt_data))
    shipped = read_study("classes", "stages/study-classes.yaml")
    there = {}
    for name, parts in shipped.tokenizers.items():
        there[name] = {**parts, "tokens": f"{tmp_path}/{parts['tokens']}"}
        for part in ("train", "val"):
            folder = tmp_path / parts["tokens"] / part
            folder.mkdir(parents=True)
            (folder / f"cifar10-{part}-000000.tar").write_bytes(b"")
    runs = replace(shipped, tokenizers=there).plan(tmp_path / "out")
    assert [run.name for run in runs] == ["ddt, seed 0", "vqgan, seed 0"]
    steps = [step for run in runs for step in run.steps]
    configs = parse_plan([step for step in steps if step.name.endswith("train")], monkeypatch)
    assert configs["ddt.0.train"].data.t2i == 0.9 and configs["vqgan.0.train"].model.codebook == "runs/cifar10/vqgan"
    parse_plan([step for step in steps if not step.name.endswith("train")], monkeypatch)
