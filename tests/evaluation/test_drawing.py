"""`ddt eval t2i` on worlds and splits: drawings of known quality get the scores that they deserve."""

import json

import numpy as np
import pytest
import torch

from ddt_lightning.cli import main
from ddt_lightning.evaluation.drawing import best
from ddt_lightning.metrics.cards import flat, read_cards
from ddt_lightning.pipeline import Drawing, Pipeline
from ddt_lightning.scenes.check import Object
from ddt_lightning.scenes.groups import group_suite
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import suite, truth
from ddt_lightning.scenes.world import World
from tests.tiny import tiny_model

WORDS = ["--images", "1", "--processes", "1", "--batch", "64", "--steps", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=32)


def draws(monkeypatch, prompts, side=64):
    """Let every model draw the right picture of these prompts."""
    asked, rng = {row["prompt"]: row for row in prompts}, np.random.default_rng(0)

    def draw(self, texts, *options, **more):
        images = np.stack([render(truth(asked[text], rng), side) for text in texts])
        return Drawing(torch.from_numpy(images).permute(0, 3, 1, 2), [""] * len(texts), torch.zeros(len(texts), 0))

    monkeypatch.setattr(Pipeline, "draw_prompts", lambda self, texts, **more: texts)
    monkeypatch.setattr(Pipeline, "draw", draw)


def test_novel_places_are_scored_apart(model, tmp_path, monkeypatch, capsys):
    world = World(held_out="both")
    draws(monkeypatch, suite(world=world, split="novel"))
    main(["eval", "t2i", "--model", str(model), "--out", str(tmp_path), "--split", "novel", "--held_out=both", *WORDS])
    scores = flat(tmp_path)
    assert all(key.startswith(("t2i/novel/", "decode/")) for key in scores)
    assert scores["t2i/novel/shapes_geneval/position"] == scores["t2i/novel/shapes_geneval/overall"] == 1
    assert scores["t2i/novel/colour_layout/overall"] == 1 and scores["t2i/novel/floor_shuffled"] < 0.2
    card = read_cards(tmp_path)["t2i/novel/shapes_geneval/position"]
    assert card["n"] == 16 and card["settings"]["split"] == "novel" and card["settings"]["held_out"] == "both"
    assert "t2i/novel/shapes_geneval/overall 1" in capsys.readouterr().out


@pytest.mark.parametrize("seen", [True, False])
def test_groups_are_scored_apart(model, tmp_path, monkeypatch, seen):
    prompts = group_suite(seen, World())
    draws(monkeypatch, prompts)
    main(["eval", "t2i", "--model", str(model), "--out", str(tmp_path), "--split", "groups", f"--seen={seen}", *WORDS])
    scores = flat(tmp_path)
    assert all(key.startswith(("t2i/groups/", "decode/")) for key in scores)
    assert scores["t2i/groups/shapes_geneval/groups"] == scores["t2i/groups/colour_layout/overall"] == 1
    assert scores["t2i/groups/floor_shuffled"] < 0.2
    assert {path.name for path in tmp_path.iterdir()} >= {"t2i-groups", "t2i-groups.png", "results-groups.jsonl"}
    card = read_cards(tmp_path)["t2i/groups/shapes_geneval/overall"]
    assert card["n"] == len(prompts) and f"places {'that training shows' if seen else 'held out'}" in card["protocol"]


def test_kinds_of_a_larger_world_are_asked_for_and_read(model, tmp_path, monkeypatch):
    world = World(kinds=12)
    draws(monkeypatch, suite(world=world))
    main(["eval", "t2i", "--model", str(model), "--out", str(tmp_path), "--kinds", "12", "--prompts", "8", *WORDS])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and any("pillar" in row["prompt"] for row in rows)
    assert flat(tmp_path)["t2i/shapes_geneval/overall"] > 0.97


def test_the_usual_world_shows_novel_places(model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["eval", "t2i", "--model", str(model), "--out", str(tmp_path), "--split", "novel", *WORDS])
    assert "`held_out` (novel or both)" in capsys.readouterr().err


def test_the_best_of_several_is_kept():
    ring, square = ({"class": kind, "count": 1, "color": "red"} for kind in ("ring", "square"))
    prompt = {"tag": "colors", "include": [ring]}
    shown = {name: [Object(name, "red", (0, 0, 9, 9), 1.0)] for name in ("ring", "square")}
    none, layout, right = ({"drawn": found} for found in ([], shown["square"], shown["ring"]))
    assert best([none, layout, right, right], prompt) is right
    assert best([none, layout], prompt) is layout and best([none, none], prompt) is none
    assert best([layout, right], {**prompt, "include": [square]}) is layout


def test_best_of_draws_more_and_says_so(model, tmp_path, monkeypatch):
    draws(monkeypatch, suite())
    main(["eval", "t2i", "--model", str(model), "--out", str(tmp_path), "--prompts", "2", "--best_of", "3", *WORDS])
    card = read_cards(tmp_path)["t2i/shapes_geneval/overall"]
    assert card["n"] == 12 and card["settings"]["best_of"] == 3 and "best of 3" in card["protocol"]
