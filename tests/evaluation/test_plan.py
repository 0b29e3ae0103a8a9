"""`ddt eval plan`: plans of known quality get the scores that they deserve."""

import json

import numpy as np
import pytest

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import flat
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.layout import write_plan
from ddt_lightning.scenes.suite import suite, truth
from tests.reading import read_chat
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=32)


def call(model, out, *words):
    fast = ["--processes", "1", "--batch", "64", "--model", str(model), "--out", str(out)]
    main(["eval", "plan", *fast, *words])
    (lines,) = out.glob("plans*.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    return flat(out), rows


def test_half_of_the_plans_are_right(model, tmp_path, monkeypatch, capsys):
    asked, rng = {prompt["prompt"]: prompt for prompt in suite(seen=True)}, np.random.default_rng(0)
    made = []

    def plan(self, prompts, sampling, *, seed):
        assert sampling.plan == "auto" and sampling.plan_temperature == 0.3
        plans = []
        for row in prompts[0]:
            (turn,), _ = read_chat(self.vocab, row[:-1])
            prompt = asked[turn["content"][0]]
            made.append(prompt)
            right = write_plan(truth(prompt, rng, seen=True), prompt["prompt"])
            plans.append(right if len(made) % 2 else right.removesuffix(" |"))
        return prompts, plans

    monkeypatch.setattr(Pipeline, "plan", plan)
    scores, rows = call(model, tmp_path, "--seen", "true", "--samples", "2", "--plan_temperature", "0.3")
    assert len(rows) == 2 * len(asked) == 516
    assert [row["prompt"] for row in rows] == [prompt["prompt"] for prompt in made]
    assert scores["plan/right/overall"] == pytest.approx(0.5, abs=0.01)
    assert scores["plan/readable"] == 0.5 and scores["plan/distinct"] == 1.0
    assert scores["plan/ceiling_grid"] > 0.98
    assert scores["plan/floor_shuffled"] < 0.2
    assert all(row["correct"] == row["plan"].endswith(" |") for row in rows if row["tag"] != "position")
    assert "plan/right/overall 0.5" in capsys.readouterr().out


def test_a_model_that_cannot_plan_scores_nothing(model, tmp_path):
    scores, rows = call(model, tmp_path, "--samples", "1", "--prompts", "2", "--plan_length", "8")
    assert len(rows) == 12
    assert scores["plan/right/overall"] == scores["plan/readable"] == 0


def test_places_that_training_never_shows_are_scored_apart(model, tmp_path):
    scores, rows = call(model, tmp_path / "novel", "--samples", "1", "--plan_length", "8", "--split", "novel",
                        "--held_out", "both")  # fmt: skip
    assert len(rows) == 16 and {row["tag"] for row in rows} == {"position"}
    assert all(key.startswith(("plan/novel/", "decode/")) for key in scores) and scores["plan/novel/ceiling_grid"] == 1
    scores, rows = call(model, tmp_path / "groups", "--samples", "1", "--plan_length", "8", "--split", "groups")
    assert {row["prompt"].split()[3] for row in rows} == {"two"} and scores["plan/groups/ceiling_grid"] > 0.8
    with pytest.raises(SystemExit):
        call(model, tmp_path / "none", "--split", "novel")  # the usual world shows these places
