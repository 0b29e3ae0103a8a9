"""The order study on the smallest real runs, and on sources whose best loss is known."""

import json
import math
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
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies import order as study_of
from ddt_lightning.studies.base import token_sets
from ddt_lightning.studies.order import penalties
from tests.inprocess import TINY_LM, read_study, run_here, token_shards

ROOT = Path(__file__).parents[2]
CODES, LENGTH = 12, 6


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder: Path, **changed) -> str:
    data = {"text_vocab_size": 300, "packing": False}
    study = {
        "title": "small",
        "configs": TINY_LM,
        "steps": 4,
        "seeds": [0, 1],
        "orders": ["natural", "stride-1", "random"],
        "samples": 16,
        "settings": {"trainer": {"limit_val_batches": 1.0}, "data": data},
        "sets": token_sets({"ids": f"{folder}/ids"}),
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changed, sort_keys=False))
    return str(folder / "study.yaml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished study of a set of ids and of words, in `out/`."""
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    token_shards(folder / "ids", np.random.default_rng(0).integers(0, CODES, (48, LENGTH)), codes=CODES)
    texts = [f"a {colour} ring and a {other} cross" for colour in ("red", "blue") for other in ("green", "pink")]
    for name in ("train", "val"):
        write_shards(folder / "text", name, [{"__key__": str(n), "txt": t} for n, t in enumerate(texts * 4)], 100)
    words = {"shards": [f"{folder}/text/train-*.tar"], "val_shards": [f"{folder}/text/val-*.tar"], "length": 5,
             "codes": 9, "hop": 2}  # fmt: skip
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            config = write(folder, words=words)
            main(["study", "order", "--config", config, "--out", str(folder / "out")])
    finally:
        os.chdir(cwd)
    return folder


def test_what_is_shown_is_what_ddt_eval_says(done):
    out = done / "out"
    content = json.loads((out / "findings.json").read_text())
    assert content["kind"] == "order" and not content["failed"]
    scores = read_study("order", done / "study.yaml").collect(out)
    assert set(scores) == {"ids", "words"} and scores["words"].length == 5
    assert scores["ids"].bits == pytest.approx(LENGTH * math.log2(CODES))
    for name, one in scores.items():
        assert list(one.final) == ["natural", "stride-1", "random"]
        for order, by_seed in one.final.items():
            for seed, value in by_seed.items():
                run = out / "runs" / name / order / f"seed-{seed}"
                assert value == read_cards(run / "eval")["tokens/nats_per_image"]["value"]
                config = yaml.safe_load((run / "config.yaml").read_text())
                assert config["data"]["permute"] == (f"random-{seed}" if order == "random" else order)
            # mean over seeds of the losses by place sums to the mean loss
            assert sum(one.loss[order]) == pytest.approx(sum(by_seed.values()) / 2)
            steps, values = one.curves[order]
            assert steps == [2, 4] and values[-1] == pytest.approx(sum(by_seed.values()) / 2, rel=1e-4)
        cost, share = penalties(one, False)["random"], penalties(one, True)["random"]
        natural, shuffled = one.final["natural"], one.final["random"]
        assert cost.by_seed == [shuffled[seed] - natural[seed] for seed in (0, 1)]
        assert share.by_seed == pytest.approx([(shuffled[seed] - natural[seed]) / natural[seed] for seed in (0, 1)])
        assert cost.interval is None and cost.shown()[1] == f"{cost.by_seed[0]:.2f}, {cost.by_seed[1]:.2f}"
    assert f"{penalties(scores['ids'], False)['random'].value:+.2f}" in (out / "study.md").read_text()
    assert "Protocol, fixed before the runs." in (out / "README.md").read_text()
    for name in ("study.png", "penalty.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 700


def test_orders_of_one_seed_start_alike_and_see_the_same_samples(done):
    """The first batch's loss of fresh weights does not depend on the order by more than the places do."""
    runs = [done / "out" / "runs" / "ids" / order / "seed-0" for order in ("natural", "random")]
    first = [(run / "metrics.csv").read_text().splitlines()[1:2] for run in runs]
    losses = [float(line[0].split(",")[2]) for line in first]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


def test_a_finished_study_runs_nothing_and_new_shards_run_again(done, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(chains, "running", lambda step, record, log: started.append(step.name))
    study = read_study("order", done / "study.yaml")
    runs = study.plan(done / "out")
    assert len(runs) == 2 * 2 * 3 and chains.run_chains(runs, done / "out") == {} and started == []
    assert "25 of 25 steps are done already" in capsys.readouterr().out
    marks = fingerprints(study.chain_of("ids", "natural", 0, done / "out"))
    facts = done / "ids" / "tokens.json"
    before = facts.read_text()
    facts.write_text(before.replace("abc123", "abc124"))
    changed = fingerprints(study.chain_of("ids", "natural", 0, done / "out"))
    facts.write_text(before)
    assert not set(marks) & set(changed)
    longer = replace(study, steps=5)
    assert longer.collect(done / "out") == {} and study.collect(done / "out")


def test_report_has_a_sentence_for_newcomers(done, capsys):
    main(["report", str(done / "out")])
    text = Path(capsys.readouterr().out.strip()).read_text()
    assert study_of.PLAIN in text and text.count("data:image/png") == 2 and "stride-1" in text


def test_options(done, capsys, tmp_path):
    call = ["study", "order", "--config", str(done / "study.yaml"), "--out", str(tmp_path / "o"), "--plan", "true"]
    main(
        [
            *call,
            "--sets",
            f"mine={done}/ids",
            f"other={done}/ids",
            "--orders",
            "natural",
            "reversed",
            "--text",
            "false",
            "--seeds",
            "3",
        ]
    )
    runs = [f"{name}, {order}, seed 3: 4 steps" for name in ("mine", "other") for order in ("natural", "reversed")]
    assert capsys.readouterr().out.splitlines() == runs
    assert not (tmp_path / "o" / "runs").exists()
    for changed, message in (
        ({"sets": {}}, "`sets` is empty"),
        ({"sets": {"a": {"shards": []}}}, r"`sets\.a` .* must be"),
        ({"orders": ["reversed"]}, "natural among them"),
        ({"orders": ["natural", "sideways"]}, "`permute`"),
        ({"steps": 0}, "`steps`"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"title": ""}, "`title` is empty"),
        ({"jobs": 0}, "`jobs`"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study("order", write(done / "ids", **changed))
    for changed in ({"step": 1}, {"steps": "many"}):  # no field, and no value of one
        with pytest.raises(SystemExit) as stop:
            read_study("order", write(done / "ids", **changed))
        assert stop.value.code == 2 and next(iter(changed)) in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"`sets\.tokens`"):
        read_study("order", done / "study.yaml", "--sets", "tokens")


def test_settings_that_make_no_run_stop_before_anything_runs(done, tmp_path, capsys):
    config = write(tmp_path, sets=read_study("order", done / "study.yaml").sets, settings={"model": {"z_weight": -1}})
    with pytest.raises(SystemExit):
        main(["study", "order", "--config", config, "--out", str(tmp_path / "out")])
    assert "ids, natural, seed 0: `model.z_weight` (-1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_the_shipped_study_is_made_of_runs(done, tmp_path):
    study = read_study("order", "stages/study-order.yaml")
    assert study.orders == ["natural", "reversed", "stride-1", "stride-2", "random"] and len(study.seeds) >= 3
    sets = read_study("order", done / "study.yaml").sets
    study = replace(study, sets=sets)
    for run in study.plan(tmp_path)[:3]:
        for step in run.steps:
            chains.check(step, run.name)


@pytest.mark.slow
def test_a_chain_costs_more_when_shuffled(tmp_path, monkeypatch):
    """Each id follows from the last one: in order the model nears the entropy of the chain, shuffled it stays above.

    The joint entropy of a sample is the same in every order, so no order can do better; a small model cannot guess as
    well from places far apart. Independent ids cost the same in any order.
    """
    rng, length, codes = np.random.default_rng(0), 12, 16
    chain = [rng.integers(0, codes, 3000)]
    for _ in range(length - 1):
        chain.append((3 * chain[-1] + 1 + (rng.random(3000) < 0.2) * rng.integers(1, codes, 3000)) % codes)
    token_shards(tmp_path / "chain", np.stack(chain, 1), codes=codes, val=500)
    token_shards(tmp_path / "noise", rng.integers(0, codes, (3000, length)), codes=codes, val=500)
    sets = {name: f"{tmp_path}/{name}" for name in ("chain", "noise")}
    optim = {"lr": 3e-3, "warmup_steps": 20, "total_steps": 300}
    settings = {"trainer": {"val_check_interval": 150}, "model": {"optim": optim},
                "data": {"batch_size": 64, "text_vocab_size": 300},
                "checkpoint": {"every_n_train_steps": 300}}  # fmt: skip
    config = write(
        tmp_path, sets=sets, settings=settings, steps=300, seeds=[0], orders=["natural", "random"], samples=500
    )
    monkeypatch.setattr(chains, "running", run_here)
    main(["study", "order", "--config", config, "--out", str(tmp_path / "out")])
    scores = read_study("order", config).collect(tmp_path / "out")
    step = -0.8 * math.log(0.8) - 0.2 * math.log(0.2 / (codes - 1))
    entropy = math.log(codes) + (length - 1) * step
    natural, shuffled = (scores["chain"].final[order][0] for order in ("natural", "random"))
    assert entropy * 0.95 < natural < entropy * 1.1 and shuffled > natural * 1.1
    independent = scores["noise"].final
    assert independent["natural"][0] == pytest.approx(length * math.log(codes), rel=0.02)
    assert independent["random"][0] == pytest.approx(independent["natural"][0], rel=0.01)
