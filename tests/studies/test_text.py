"""The study of text beside images: equal text in every condition, one text tokenizer, paired changes."""

import json
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml

from ddt_lightning.cli import main
from ddt_lightning.plans import chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.settings import read_yaml
from ddt_lightning.shards.tokens import TokenShards
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies import text
from ddt_lightning.studies.base import validations
from ddt_lightning.studies.text import ALONE, changes
from ddt_lightning.vocab import Vocab
from tests.inprocess import TINY_LM, read_study, run_here, token_shards

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder: Path, **changed) -> str:
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 4,
        "seeds": [0, 1],
        "sets": {name: [f"{folder}/{name}/images-train-*.tar"] for name in ("one", "two")},
        "text_shards": [f"{folder}/text/train-*.tar"],
        "val_text_shards": [f"{folder}/text/val-*.tar"],
        "text_vocab_size": 280,
        "settings": {"data": {"packing": False}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    rng = np.random.default_rng(0)
    token_shards(folder / "one", rng.integers(0, 24, (48, 6)), codes=24, tokenizer="aaa")
    token_shards(folder / "two", rng.integers(0, 12, (48, 9)), codes=12, tokenizer="bbb")
    for name in ("train", "val"):
        lines = [{"__key__": str(n), "txt": f"line {n % 7} of {n % 3} here"} for n in range(32)]
        write_shards(folder / "text", name, lines, 100)
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["study", "text", "--config", write(folder), "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def batches(done: Path, name: str):
    """The first batches of a condition as its run reads them, and its vocabulary."""
    settings = read_yaml([*TINY_LM, str(done / "out" / "variants" / f"{name}.0.yaml")])["data"]
    data = TokenShards(**settings, vocab=str(done / "out" / "runs" / name / "seed-0" / "vocab"), lanes=4)
    data.setup("fit")
    return list(islice(data.train_dataloader(), 4)), data.vocab


def test_every_condition_sees_equally_much_text_of_both_kinds(done):
    found = {}
    for name in ("text-alone", "one", "two"):
        rows, vocab = batches(done, name)
        texts = [vocab.decode_text([i for i in row.tolist() if i < vocab.text_size]).strip()
                 for batch in rows for row in batch["ids"]]  # fmt: skip
        labels = sum(int(((batch["labels"] >= 0) & (batch["labels"] < vocab.text_size)).sum()) for batch in rows)
        images = sum(int((batch["ids"] == vocab.bov).sum()) for batch in rows)
        lines = sum(text.startswith("line") for text in texts)
        found[name] = labels, lines, len(texts) - lines, images
        assert all(text.startswith(("line", "picture")) for text in texts)
    # the texts have equally many pieces up to the numbers in them
    assert found["one"][1:] == found["two"][1:] == (8, 24, 24) and found["text-alone"][1:] == (8, 24, 0)
    assert max(one[0] for one in found.values()) - min(one[0] for one in found.values()) <= 8
    vocabularies = [Vocab.load(done / "out" / "runs" / name / "seed-0" / "vocab") for name in found]
    assert len({json.dumps(vocab.text.get_vocab(), sort_keys=True) for vocab in vocabularies}) == 1


def test_the_table_has_the_last_perplexities(done):
    out = done / "out"
    found = read_study("text", done / "study.yaml").collect(out)
    assert list(found) == [ALONE, "one", "two"] and sorted(found[ALONE].curve) == [2, 4]
    final = {name: one.final for name, one in found.items()}
    for name, by_seed in final.items():
        for seed, value in by_seed.items():
            run = out / "runs" / name.replace(" ", "-") / f"seed-{seed}"
            assert value == list(validations(run, "val/text_ppl").values())[-1]
    change = changes(found)["one"]
    assert change.by_seed == pytest.approx([final["one"][s] / final[ALONE][s] - 1 for s in (0, 1)])
    table = (out / "study.md").read_text()
    assert f"{change.value:+.1%}" in table and "text + two" in table and (out / "study.png").is_file()


def test_a_finished_study_runs_nothing(done, monkeypatch):
    started = []
    monkeypatch.setattr(chains, "running", lambda step, record, log: started.append(step.name))
    study, out = read_study("text", done / "study.yaml"), done / "out"
    runs = study.plan(out)
    assert chains.run_chains(runs, out) == {} and started == []
    other = [fingerprints(run) for run in replace(study, text_vocab_size=290).plan(out)]
    assert all(not set(fingerprints(run)) & set(marks) for run, marks in zip(runs, other, strict=True))
    assert {run.steps[0].name for run in runs} == {"text-tokenizer"}  # one for all runs


def test_report_and_errors(done, tmp_path, capsys):
    main(["report", str(done / "out")])
    assert text.PLAIN in Path(capsys.readouterr().out.strip()).read_text()
    for changed, message in (({"sets": {}}, "`sets`"), ({"sets": {ALONE: []}}, "`sets`"), ({"lines": 1.0}, "`lines`")):
        with pytest.raises(ValueError, match=message):
            read_study("text", write(tmp_path, **changed))


def test_the_shipped_study_is_made_of_runs(done, tmp_path):
    ours = read_study("text", done / "study.yaml")
    study = read_study("text", "stages/study-text.yaml")
    assert len(study.seeds) >= 2
    study = replace(study, sets=ours.sets, text_shards=ours.text_shards, val_text_shards=ours.val_text_shards)
    for run in study.plan(tmp_path)[:2]:
        for step in run.steps:
            chains.check(step, run.name)
