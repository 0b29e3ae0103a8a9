"""The study of unseen combinations on the smallest real runs: variants differ in one thing, and are asked the same."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.plans import chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.scenes.suite import suite
from ddt_lightning.scenes.world import World
from ddt_lightning.studies.composition import PLAIN, TABLES
from tests.inprocess import TINY_LM, read_study, run_here
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "base": {},
    "codes": {"pretrain": {"model": {"code_weight": 0.5}}},
    "plans, flips": {"scenes": {"plans": True, "flips": True}, "drawing": {"guidance": 1.0}},
    "12 kinds": {"scenes": {"kinds": 12}},
}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder: Path, **changed) -> str:
    few = {"data": {"packing": False, "val_samples": 8}}
    scoring = {"processes": 1, "steps": 1, "images": 1, "plan_length": 8}
    scenes = {"images": 16, "edits": 12, "questions": 12, "text": 12, "val": 8, "side": 16, "workers": 1}
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 2,
        "scenes": {**scenes, "held_out": "both"},
        "variants": VARIANTS,
        "settings": {"data": {"text_vocab_size": 400, **few["data"]}},
        "tokenizer": {"configs": ["stages/tok.yaml", "tests/smoke/tokenizer.yaml"], "steps": 2, "settings": {}},
        "renderer": {"configs": ["stages/renderer.yaml", "tests/smoke/renderer.yaml"], "steps": 2, "settings": {}},
        "instruct": {"configs": ["stages/instruct.yaml", TINY_LM[1]], "steps": 2, "settings": few},
        "tokenizers": {6: f"{folder}/a"},
        "coding": {"processes": 1},
        "drawing": {**scoring, "prompts": 2},
        "planning": {"samples": 1, "processes": 1, "prompts": 2, "plan_length": 8},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    tiny_tokenizer().save_pretrained(folder / "a" / "release" / "tokenizer")
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["study", "composition", "--config", write(folder), "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def test_variants_are_asked_for_the_same_held_out_combinations(done):
    runs = done / "out" / "runs"
    prompts = {}
    for name in ("base", "codes", "plans-flips", "12-kinds"):
        for part in ("mirror", "novel", "seen"):
            (results,) = (runs / name / "seed-0" / part).glob("results*.jsonl")
            prompts[name, part] = [json.loads(row)["prompt"] for row in results.read_text().splitlines()]
    world = World(held_out="both")
    for part, rows in (("mirror", suite(world=world)), ("novel", suite(world=world, split="novel"))):
        asked = prompts["base", part]
        assert set(asked) <= {row["prompt"] for row in rows} and len(asked) == (12 if part == "mirror" else 2)
        assert all(prompts[name, part] == asked for name in ("codes", "plans-flips", "12-kinds"))
    seen = {row["prompt"] for row in suite(True, World(12, "both"))}
    assert set(prompts["12-kinds", "seen"]) <= seen and prompts["12-kinds", "seen"] != prompts["base", "seen"]


def test_variants_differ_in_one_thing(done):
    out = done / "out"
    facts = {name: json.loads((out / "shards" / name / "world.json").read_text())
             for name in ("base", "plans-flips", "12-kinds")}  # fmt: skip
    assert sorted(path.name for path in (out / "shards").iterdir()) == sorted(facts)  # codes has the shards of base
    assert {**facts["base"], "plans": True, "flips": True} == facts["plans-flips"]
    assert {**facts["base"], "kinds": 12} == facts["12-kinds"]
    texts = {
        name: (out / "runs" / name / "seed-0" / "pretrain" / "config.yaml").read_text() for name in ("base", "codes")
    }
    assert (
        texts["codes"].replace("runs/codes", "runs/base").replace("code_weight: 0.5", "code_weight: 0.0")
        == texts["base"]
    )
    marks = [json.loads((out / "tokens" / name / "tokens.json").read_text()) for name in facts]
    assert marks[0]["tokenizer"] == marks[1]["tokenizer"] == tiny_tokenizer().fingerprint() != marks[2]["tokenizer"]
    assert marks[2]["world"]["kinds"] == 12
    assert (out / "tokenizers" / "12-kinds" / "renderer" / "release" / "renderer").is_dir()


def test_tables_begin_with_pairs_and_places(done):
    out = done / "out"
    content = json.loads((out / "findings.json").read_text())
    first, change = content["tables"][:2]
    assert first["head"][1::2] == ["pairs", "places, mirror", "places, novel", "all tags"]
    assert [row[0] for row in first["rows"]] == list(VARIANTS) and [row[0] for row in change["rows"]] == list(VARIANTS)[
        1:
    ]
    assert {table["title"] for table in content["tables"]} > set(TABLES)
    cards = {
        part: read_cards(out / "runs" / "plans-flips" / "seed-0" / part) for part in ("mirror", "novel", "plan-novel")
    }
    scores = content["numbers"]["scores"]
    assert scores["pairs"]["plans, flips"]["0"] == cards["mirror"]["t2i/shapes_geneval/two_object"]["value"]
    assert scores["places, novel"]["plans, flips"]["0"] == cards["novel"]["t2i/novel/shapes_geneval/position"]["value"]
    planned = cards["plan-novel"]["plan/novel/right/position"]["value"]
    assert scores["places planned, novel"] == {"plans, flips": {"0": planned}}
    assert (out / "study.png").is_file()
    text = (out / "study.md").read_text()
    assert PLAIN.split(";")[0][:60] in text.replace("\n", " ")


def test_what_pays_is_what_is_certain(done):
    study = read_study("composition", done / "study.yaml")
    found = {
        "pairs": {
            "base": {0: 0.1, 1: 0.2, 2: 0.3},
            "codes": {0: 0.6, 1: 0.71, 2: 0.8},
            "12 kinds": {0: 0.9, 1: 0.0, 2: 0.2},
        },
        "places, novel": {"base": {0: 0.8, 1: 0.8, 2: 0.8}, "codes": {0: 0.5, 1: 0.51, 2: 0.5}},
    }
    rows = {row[0]: row for row in study.changes(found, 3).rows}
    assert rows["codes"][-2:] == ["pairs", "places, novel"] and rows["codes"][1] == "+0.503"
    assert rows["12 kinds"][-2:] == ["", ""] and rows["plans, flips"][1:3] == ["", ""]


def test_a_finished_study_runs_nothing_and_planning_writes_nothing(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chains, "running", lambda step, record, log: pytest.fail(step.name))
    study = read_study("composition", done / "study.yaml")
    assert chains.run_chains(study.plan(done / "out"), done / "out") == {}
    main(["study", "composition", "--config", str(done / "study.yaml"), "--out", str(tmp_path / "x"), "--plan", "true"])
    assert capsys.readouterr().out.count("seed 0:") == 4 and not (tmp_path / "x").exists()
    other = replace(study, variants={**VARIANTS, "codes": {"pretrain": {"model": {"code_weight": 1.0}}}})
    done_now = [chains.is_done(done / "out", run) for run in other.plan(done / "out")]
    assert done_now == [True, False, True, True]


@pytest.mark.parametrize("overlay", [[], ["--config", "stages/study-composition-kinds.yaml"]])
def test_the_shipped_study_is_made_of_runs(tmp_path, overlay):
    study = read_study("composition", "stages/study-composition.yaml", *overlay)
    assert all(study.options(name)["plans"] for name in study.variants if name != "no plans")
    runs = study.plan(tmp_path)
    assert len(runs) == 3 * len(study.variants) and len({run.name for run in runs}) == len(runs)
    seen = {}
    for run in runs:
        for step, mark in zip(run.steps, fingerprints(run), strict=True):
            assert seen.setdefault(step.name, mark) == mark  # steps that several chains share are the same
    for run in runs[: len(study.variants)]:
        for step in study.checked(run):
            chains.check(step, run.name)


def test_errors_name_the_option(tmp_path):
    for changed, message in (
        ({"variants": {}}, "`variants` is empty"),
        ({"variants": {"base": {"data": {}}}}, r"`variants\.base` \(data\)"),
        ({"variants": {"base": {}, "few": {"scenes": {"held_out": "mirror"}}}}, r"`variants\.few` shows in training"),
        ({"variants": {"base": {}, "most": {"scenes": {"pairs_shown": 0.95}}}}, r"`variants\.most` shows in training"),
        ({"tokenizer": {"steps": 2}}, "`tokenizer`"),
        ({"renderers": {12: "x"}}, r"`renderers` \(12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study("composition", write(tmp_path, **changed))
