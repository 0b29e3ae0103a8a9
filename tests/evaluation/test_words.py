"""`ddt eval words`: texts of known quality get the scores that they deserve."""

import json
import re

import pytest

from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.layout import write_edit_plan, write_plan
from ddt_lightning.scenes.suite import val_edit, val_question
from ddt_lightning.scenes.tasks import EDITS, QUESTIONS
from ddt_lightning.seeding import numpy_rng
from tests.reading import read_chat
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=32)


def call(model, out, edits, questions):
    fast = ["--processes", "1", "--batch", "64", "--model", str(model), "--out", str(out)]
    main(["eval", "words", *fast, f"--edits={edits}", f"--questions={questions}"])
    return read_cards(out), [json.loads(line) for line in (out / "words.jsonl").read_text().splitlines()]


def write(monkeypatch, texts):
    """Let the model write these texts, by what it is told."""

    def write_ids(self, prompts, length):
        found = []
        for prompt in prompts:
            (turn,), _ = read_chat(self.vocab, prompt)
            (said,) = turn["content"]
            found.append(self.vocab.encode_text(f" {texts[said]}"))
        return found

    monkeypatch.setattr(Pipeline, "write_ids", write_ids)


def test_scores_of_texts_that_are_right_but_for_one_kind_and_one_type(model, tmp_path, monkeypatch, capsys):
    """Every recolouring keeps its colour, and every question about a number is answered with nine."""
    edits = [val_edit(numpy_rng("eval edit", 0, n), EDITS[n % len(EDITS)]) for n in range(14)]
    asked = [val_question(numpy_rng("eval question", 0, n), QUESTIONS[n % len(QUESTIONS)]) for n in range(10)]
    texts = {}
    for one in edits:
        plan = write_edit_plan(one)
        if one.kind == "recolour":
            source = plan.partition(" to ")[0]
            plan = f"{source} to {source} |"
        if one.kind == "remove":  # may be left out, and in any order
            source, _, target = plan.partition(" to ")
            *others, ground = [part for part in target.split(", ") if not part.startswith("no ")]
            plan = f"{source} to {', '.join([*reversed(others), ground])}"
        texts[f"{write_plan(one.source)} {one.instruction}"] = plan
    for one in asked:
        layout = write_plan(one.scene)
        texts[f"{layout} {one.question}"] = f"{layout} {'nine' if one.kind == 'count' else one.answer}"
    write(monkeypatch, texts)
    cards, rows = call(model, tmp_path, len(edits), len(asked))
    assert cards["words/edits"]["value"] == pytest.approx(6 / 7) and cards["words/edits"]["n"] == 14
    assert cards["words/edits"]["by_type"] == {kind: float(kind != "recolour") for kind in EDITS}
    assert cards["words/plan_source"]["value"] == 1
    assert cards["words/plan_target"]["value"] == pytest.approx(6 / 7)
    assert all(cards[f"words/plan_target/{kind}"]["value"] == float(kind != "recolour") for kind in EDITS)
    assert cards["words/questions"]["by_type"] == {kind: float(kind != "count") for kind in QUESTIONS}
    assert [bool(row["right"]) for row in rows[:14]] == [one.kind != "recolour" for one in edits]
    assert [row["request"] for row in rows] == [one.instruction for one in edits] + [one.question for one in asked]
    assert "words/edits 0.857" in capsys.readouterr().out


def shifted(scene):
    """A layout with its first object one cell, 6 % of the side, to the right or to the left."""
    before, x, after = re.split(r"(\d+)", scene, maxsplit=1)
    return f"{before}{int(x) + (1 if int(x) < 8 else -1)}{after}"


def test_a_cell_beside_is_wrong_where_places_must_be_exact(model, tmp_path, monkeypatch):
    """And right by the rule of edits of images, whose plans read places from an image."""
    question = val_question(numpy_rng("eval question", 0, 0), QUESTIONS[0])
    texts, unmoved = {f"{write_plan(question.scene)} {question.question}": question.answer}, 0
    for n in range(14):
        one = val_edit(numpy_rng("eval edit", 0, n), EDITS[n % len(EDITS)])
        source, _, target = write_edit_plan(one).partition(" to ")
        texts[f"{write_plan(one.source)} {one.instruction}"] = f"{source} to {shifted(target)}"
        unmoved += target.startswith("no ")  # what is removed may stand anywhere
    write(monkeypatch, texts)
    cards, _ = call(model, tmp_path, 14, 1)
    assert cards["words/edits"]["value"] == pytest.approx(unmoved / 14) and unmoved < 3
    assert cards["words/plan_target"]["value"] == 1


def test_a_model_that_has_learned_nothing_scores_nothing(model, tmp_path):
    cards, rows = call(model, tmp_path, 7, 5)
    assert cards["words/edits"]["value"] == cards["words/questions"]["value"] == 0 and len(rows) == 12
