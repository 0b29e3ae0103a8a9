"""Tokenizers against each other on the smallest real runs: everything equal but the ids, and the same questions."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.plans import chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.shards.read import Columns, read_shard
from ddt_lightning.shards.texts import captions
from ddt_lightning.studies import against as study_of
from tests.inprocess import TINY_LM, read_study, run_here
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
TAGS = {"single object", "two object", "counting", "colors", "position", "color attr"}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder: Path, **changed) -> str:
    data = {"data": {"packing": False, "val_samples": 8}}
    scoring = {"processes": 1, "steps": 1}
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 2,
        "tokenizers": {"a": f"{folder}/a", "b": f"{folder}/b"},
        "shards": f"{folder}/shards",
        "settings": {"data": {"text_vocab_size": 400, **data["data"]}},
        "instruct": {"configs": ["stages/instruct.yaml", TINY_LM[1]], "steps": 2, "settings": data},
        "coding": {"processes": 1},
        "drawing": {"images": 1, "prompts": 2, **scoring},
        "editing": {"edits": 4, **scoring},
        "distance": {"images": 70, **scoring},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    for seed, name in enumerate("ab"):
        tiny_tokenizer(seed=seed).save_pretrained(folder / name / "release" / "tokenizer")
    sizes = ["--images=16", "--edits=12", "--questions=12", "--text=12", "--val=8", "--side=16", "--workers=1"]
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["data", "scenes", "--out", str(folder / "shards"), *sizes])
            main(["study", "against", "--config", write(folder), "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def test_runs_differ_in_their_ids_alone(done):
    out = done / "out"
    for stage in ("pretrain", "instruct"):
        texts = [(out / "runs" / name / "seed-0" / stage / "config.yaml").read_text() for name in "ab"]
        if stage == "pretrain":  # rows start from the tokenizer's own codes
            codebooks = [yaml.safe_load(text)["model"]["codebook"] for text in texts]
            assert [Path(folder).name for folder in codebooks] == ["a", "b"]
            texts = [text.replace(folder, "C") for text, folder in zip(texts, codebooks, strict=True)]
        assert texts[0].replace(f"{out}/tokens/a", "T").replace(f"{out}/runs/a", "R") == texts[1].replace(
            f"{out}/tokens/b", "T"
        ).replace(f"{out}/runs/b", "R")
    marks = [json.loads((out / "tokens" / name / "tokens.json").read_text())["tokenizer"] for name in "ab"]
    assert marks == [tiny_tokenizer(seed=seed).fingerprint() for seed in (0, 1)] and marks[0] != marks[1]
    asked = []
    for name in "ab":
        run = out / "runs" / name / "seed-0"
        prompts = [item["prompt"] for item in json.loads((run / "eval-t2i/samples/t2i.json").read_text())]
        edits = [item["instruction"] for item in json.loads((run / "eval-edit/samples/edit.json").read_text())]
        asked.append([prompts, edits])
    assert asked[0] == asked[1] and len(asked[0][0]) == 12


def test_the_table_is_side_by_side(done):
    out = done / "out"
    scores = read_study("against", done / "study.yaml").collect(out).scores
    assert {key.removeprefix("drawing: ") for key in scores if key.startswith("drawing")} == TAGS | {
        "overall",
        "colour and layout",
    }
    assert "editing: all kinds" in scores
    for name in "ab":
        cards = read_cards(out / "runs" / name / "seed-0" / "eval-t2i")
        assert scores["drawing: counting"][name] == {0: cards["t2i/shapes_geneval/counting"]["value"]}
        cards = read_cards(out / "runs" / name / "seed-0" / "eval-edit")
        assert scores["editing: all kinds"][name] == {0: cards["edit/exact_match"]["value"]}
        assert scores["upper bound: editing"][name] == {0: cards["edit/ceiling_tokenizer"]["value"]}
        assert scores["L1 error: outside the edited region"][name] == {0: cards["edit/kept_l1"]["value"]}
        (key,) = (key for key in scores if key.startswith("distance: FD"))
        cards = read_cards(out / "runs" / name / "seed-0" / "eval-distance")
        assert scores[key][name] == {0: cards[key.replace("distance: ", "t2i/")]["value"]}
    content = json.loads((out / "findings.json").read_text())
    assert content["numbers"]["bits"]["a"] == content["numbers"]["bits"]["b"] == pytest.approx(6 * 4.585, rel=1e-3)
    assert content["tables"][0]["head"][:5] == ["score", "a", "95 %", "b", "95 %"]
    with Image.open(out / "draw.png") as drawn, Image.open(out / "edit.png") as edited:
        assert drawn.height > 12 * 112 and edited.width > drawn.width  # prompts by tokenizer; source and target beside
    assert (out / "study.png").is_file()


def test_a_finished_study_runs_nothing_and_another_tokenizer_encodes_again(done, monkeypatch):
    started = []
    monkeypatch.setattr(chains, "running", lambda step, record, log: started.append(step.name))
    study = read_study("against", done / "study.yaml")
    out = done / "out"
    assert chains.run_chains(study.plan(out), out) == {} and started == []
    swapped = replace(study, tokenizers={"a": study.tokenizers["b"], "b": study.tokenizers["b"]})
    changed = [chains.is_done(out, run) for run in (*swapped.encodings(out), *swapped.plan(out))]
    assert changed == [False, True, False, True]


def test_a_renderer_draws_and_trains_nothing_again(done, tmp_path):
    study, out = read_study("against", done / "study.yaml"), done / "out"
    weights = tmp_path / "renderer" / "release" / "renderer" / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="--renderer"):
        replace(study, renderers={"a": f"{tmp_path}/renderer"}).plan(out)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1")
    (weights.parent / "config.json").write_text("{}")
    marks = []
    for named in ({}, {"a": f"{tmp_path}/renderer"}, {"a": f"{tmp_path}/renderer"}):
        runs = replace(study, renderers=named).plan(out)
        marks.append([mark for run in runs for mark in fingerprints(run)])
        words = [step.commands[0] for run in runs for step in run.steps]
        assert ["--renderer" in words[n] for n in range(12)] == [bool(named) and 3 <= n < 6 for n in range(12)]
        weights.write_bytes(b"other weights")
    again = [[one != other for one, other in zip(marks[0], changed, strict=True)] for changed in marks[1:]]
    assert again == [[3 <= n < 6 for n in range(12)]] * 2 and marks[1] != marks[2]


def test_unequal_bits_are_refused(done):
    study = read_study("against", done / "study.yaml")
    facts = done / "out" / "tokens" / "b" / "tokens.json"
    before = facts.read_text()
    facts.write_text(before.replace('"codebook_size": 24', '"codebook_size": 96'))
    try:
        with pytest.raises(ValueError, match=r"`tokenizers\.b` spends 40 bits on an image, the first one 28"):
            study.prepare(done / "out")
        replace(study, bits_tolerance=0.5).prepare(done / "out")
        assert study.bits_of(done / "out")["b"] > 39
    finally:
        facts.write_text(before)


def test_report_and_errors(done, tmp_path, capsys):
    main(["report", str(done / "out")])
    text = Path(capsys.readouterr().out.strip()).read_text()
    assert study_of.PLAIN in text and text.count("data:image/png") == 3
    for changed, message in (
        ({"tokenizers": {"a": "x"}}, "at least two"),
        ({"orders": {"c": "raster"}}, "`orders`"),
        ({"renderers": {"c": "runs/renderer"}}, "`renderers`"),
        ({"instruct": {"steps": 2}}, "`instruct`"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study("against", write(tmp_path, **changed))
    study = read_study("against", write(tmp_path, shards=f"{done}/shards"))
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        study.encodings(tmp_path / "out")


OVERLAYS = {"plain": [], "planned": ["--config", "stages/study-against-plans.yaml"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_shipped_studies_are_made_of_runs(done, tmp_path, overlay):
    words = [*OVERLAYS[overlay], "--shards", f"{done}/shards"]
    study = read_study("against", "stages/study-against.yaml", *words)
    assert set(study.renderers) < set(study.tokenizers)
    study = replace(study, tokenizers={"ddt": f"{done}/a", "vqgan": f"{done}/b"}, renderers={})
    for run in study.plan(tmp_path):
        named = [step.name.split(".")[-1] for step in run.steps]
        selected, practised = (["select"], ["rl"]) if overlay == "planned" else ([], [])
        assert named == ["encode", *selected, "pretrain", "instruct", *practised, "t2i", "edit", "distance"]
        for step in run.steps:
            chains.check(step, run.name)
        last = f"{tmp_path}/runs/{run.name.replace(', seed ', '/seed-')}/{(practised or ['instruct'])[0]}"
        assert all(last in step.commands[0] for step in run.steps[-3:])


def test_practice_goes_on_from_the_tuned_model_of_the_same_tokenizer(done, tmp_path):
    practice = {"configs": ["stages/rl.yaml"], "steps": 5, "settings": {"data": {"batch_size": 4}}}
    study = read_study("against", write(tmp_path, shards=f"{done}/shards", rl=practice))
    study = replace(study, tokenizers={"a": f"{done}/a", "b": f"{done}/b"})
    for name, run in zip("ab", study.plan(tmp_path), strict=True):
        (step,) = [step for step in run.steps if step.name.endswith(".rl")]
        ((_, text),) = step.files.items()
        said, tuned = yaml.safe_load(text), f"{tmp_path}/runs/{name}/seed-0/instruct"
        assert said["init_from"] == tuned and said["data"]["vocab"] == f"{tuned}/release/vocab"
        assert said["model"]["tokenizer"] == f"{done}/{name}" and said["trainer"]["max_steps"] == 5
        assert said["data"]["batch_size"] == 4
    (tmp_path / "r").mkdir()
    for part, written in (("config.json", b"{}"), ("model.safetensors", b"1")):
        (tmp_path / "r" / part).write_bytes(written)
    drawn = replace(study, renderers={"a": f"{tmp_path}/r"}).plan(tmp_path)
    marks = [[step.inputs for step in run.steps if step.name.endswith(".rl")] for run in drawn]
    assert marks[0] != [""] and marks[1] == [""]  # practice draws by the renderer
    with pytest.raises(ValueError, match=r"`rl` \(steps\) must have configs, settings and steps"):
        replace(study, rl={"steps": 5})


def even(images, prompts):
    """A reward that a known share of the samples earns: those with an even number of letters in their text."""
    return [float(len(prompt["prompt"]) % 2 == 0) for prompt in prompts]


def test_tuning_sees_the_images_and_edits_that_earn_the_reward(done, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "running", run_here)
    given = {"shards": f"{done}/shards", "select": {f"{__name__}.even": 1.0}}
    study = read_study("against", write(tmp_path, **given))
    study = replace(study, tokenizers={"a": f"{done}/a", "b": f"{done}/b"})
    encode, select = replace(study, coding={"views": 2, "processes": 1}).encoding("a", tmp_path)
    assert "--views" in encode.commands[0] and "--views" not in select.commands[0]
    assert all("--processes" in step.commands[0] for step in (encode, select))
    study.prepare(tmp_path)
    assert "Tuning saw" in study.findings(study.collect(tmp_path), {}).explained
    for name, run in zip("ab", study.plan(tmp_path), strict=True):
        read = {}
        for stage, part in (("pretrain", "shards"), ("instruct", "images"), ("instruct", "edits")):
            (text,) = run.steps[{"pretrain": 2, "instruct": 3}[stage]].files.values()
            (read[part],) = yaml.safe_load(text)["data"][part]
        assert read["shards"] == f"{tmp_path}/tokens/{name}/images-train-*.tar"
        assert read["edits"] == f"{tmp_path}/tokens/{name}-right/edits-train-*.tar"
        kept, every = (captions_in(read[part]) for part in ("images", "shards"))
        assert kept == [text for text in every if len(text) % 2 == 0] and 0 < len(kept) < len(every)


def captions_in(pattern: str) -> list[str]:
    """First captions of the samples of token shards."""
    shards = sorted(Path(pattern).parent.glob(Path(pattern).name))
    records = [record for shard in shards for record in read_shard(str(shard), {})]
    return [captions(record, Columns(), json.loads(record["json"]))[0] for record in records]
