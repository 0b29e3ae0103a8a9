"""`ddt eval vqa|caption --shards`: scores of what a tiny model says against the metrics called by hand."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics import vqav2
from ddt_lightning.metrics.answers import score
from ddt_lightning.metrics.cards import flat, read_cards
from ddt_lightning.metrics.cider import cider_d
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.layout import write_plan
from ddt_lightning.scenes.suite import val_question
from ddt_lightning.scenes.tasks import QUESTIONS
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.write import write_shards
from tests.tiny import tiny_model

SIDE = 32
FAST = ["--processes", "1", "--batch", "64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


@pytest.fixture(scope="module")
def spoken(model, tmp_path_factory):
    """Shards whose references are partly what the tiny model says."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(6)]
    used = Pipeline.from_pretrained(model)
    said = used.describe_image(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    samples = []
    for n, (image, text) in enumerate(zip(images, said, strict=True)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        captions = [f"a thing number {n} on a table", text] if n % 2 else [f"a thing number {n}"]
        asked = [
            {"question": "how many?", "answers": ["2"] * 5 + ["3"] * 5, "type": "number"},
            {"question": "is it red?", "answer": "no"},
        ]
        samples.append({"__key__": f"a{n}", "png": file.getvalue(), "json": {"captions": captions, "vqa": asked}})
    write_shards(folder, "talk", samples, 9)
    return f"{folder}/talk-*.tar"


def failure(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["eval", *map(str, args)])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_captions_of_shards(model, spoken, tmp_path):
    main(["eval", "caption", "--model", str(model), "--out", str(tmp_path), "--shards", spoken, *FAST])
    cards = read_cards(tmp_path)
    samples = list(read_images([spoken]))
    said = Pipeline.from_pretrained(model).describe_image(
        torch.from_numpy(np.stack([one.images[0] for one in samples])).permute(0, 3, 1, 2)
    )
    known = [list(one.texts) for one in samples]
    right = cider_d(said, known)
    card = cards["caption/cider_d_regex"]
    assert card["value"] == pytest.approx(np.mean(right)) and card["value"] > 1 and card["n"] == 6
    assert "regular expression" in card["protocol"] and card["interval"][0] <= card["value"] <= card["interval"][1]
    assert cards["caption/cider_d_regex_floor_shuffled"]["value"] == pytest.approx(
        np.mean(cider_d(said, known[1:] + known[:1]))
    )
    bare = [[text.lower().strip(" .") for text in texts] for texts in known]
    equal = [one.lower().strip(" .") in texts for one, texts in zip(said, bare, strict=True)]
    exact, floor = (cards[f"caption/exact_match{end}"]["value"] for end in ("", "_floor_shuffled"))
    assert exact == np.mean(equal) > floor
    people = cider_d([one[0] for one in known if len(one) > 1], [one[1:] for one in known if len(one) > 1])
    assert cards["caption/cider_d_regex_person"]["value"] == pytest.approx(np.mean(people))
    assert cards["caption/cider_d_regex_person"]["n"] == 3 and (tmp_path / "caption_shards.png").is_file()
    index = json.loads((tmp_path / "samples" / "caption_shards.json").read_text())
    assert [row["said"] for row in index] == [one or "(nothing)" for one in said]
    assert all(
        (tmp_path / row["image"]).is_file() and texts[0] in row["known"]
        for row, texts in zip(index, known, strict=True)
    )


def test_questions_of_shards(model, spoken, tmp_path):
    main(["eval", "vqa", "--model", str(model), "--out", str(tmp_path), "--shards", spoken, "--questions", "9", *FAST])
    cards = read_cards(tmp_path)
    samples = list(read_images([spoken]))
    images = torch.from_numpy(np.stack([one.images[0] for one in samples])).permute(0, 3, 1, 2)
    asked = [(n, q) for n, one in enumerate(samples) for q in one.questions][:9]
    used = Pipeline.from_pretrained(model)

    def answers(shift):
        places = [(n + shift) % 6 for n, _ in asked]
        return used.describe_image(images[places], [q["question"] for _, q in asked], max_new_tokens=12)

    for shift, end in ((0, ""), (1, "_floor_blind")):
        said = answers(shift)
        pairs = list(zip(said, [q["answers"] for _, q in asked], strict=True))
        ten = [vqav2.accuracy(a, known) for a, known in pairs if len(known) == 10]
        one = [score(a, known) for a, known in pairs if len(known) == 1]
        assert cards[f"vqa/vqav2_accuracy{end}"]["value"] == np.mean(ten)
        assert cards[f"vqa/exact_match{end}"]["value"] == np.mean(one)
        assert (cards[f"vqa/vqav2_accuracy{end}"]["n"], cards[f"vqa/exact_match{end}"]["n"]) == (5, 4)
    assert cards["vqa/vqav2_accuracy/number"]["n"] == 5
    assert (tmp_path / "vqa_shards.png").is_file()


def test_what_does_not_fit_is_refused(model, spoken, tmp_path, capsys):
    base = ["--model", model, "--out", tmp_path / "o", *FAST]
    assert "`--chat false` needs `--shards`" in failure(capsys, "caption", *base, "--chat", "false")
    one = ["--shards", spoken, "--captions", "1"]
    assert "two captioned images" in failure(capsys, "caption", *base, *one)
    assert "must be at least 2" in failure(capsys, "vqa", *base, "--shards", spoken, "--questions", "1")
    write_shards(tmp_path, "none", [{"__key__": "a", "txt": "x"}], 9)
    assert "two images with questions" in failure(capsys, "vqa", *base, "--shards", f"{tmp_path}/none-*.tar")
    assert not (tmp_path / "o").exists()


def test_real_captions_and_questions(model, tmp_path, ddt_data):
    main(["eval", "caption", "--model", str(model), "--out", str(tmp_path), "--captions", "40", *FAST, "--shards",
          f"{ddt_data}/flickr8k_64/flickr8k64-val-*.tar.gz"])  # fmt: skip
    main(["eval", "vqa", "--model", str(model), "--out", str(tmp_path), *FAST, "--shards",
          f"{ddt_data}/vqa/vqav2coco-val-*.tar"])  # fmt: skip
    scores, cards = flat(tmp_path), read_cards(tmp_path)
    assert scores["caption/cider_d_regex_person"] > 0.4 > scores["caption/cider_d_regex"]
    assert cards["vqa/vqav2_accuracy"]["n"] + cards["vqa/exact_match"]["n"] == 52
    assert json.loads((tmp_path / "vqa_shards.json").read_text())["vqa/exact_match"]["settings"]["questions"] == 52


def test_answers_after_plans_are_scored_apart_from_them(model, tmp_path, monkeypatch):
    """A model that looks right at every other image and then answers right, asked about its own images and others."""
    asked = [val_question(numpy_rng("eval question", 0, n), QUESTIONS[n % len(QUESTIONS)]) for n in range(10)]

    def write(self, prompts, **writing):
        said = [(write_plan(one.scene) if n % 2 else "a ring |", one.answer) for n, one in enumerate(asked)]
        return said if len(prompts) == 10 else pytest.fail("all questions are asked in one batch")

    monkeypatch.setattr(Pipeline, "write_planned", write)
    main(["eval", "vqa", "--model", str(model), "--out", str(tmp_path), "--questions", "10", *FAST])
    scores = flat(tmp_path)
    assert scores["vqa/accuracy"] == 1.0 and scores["vqa/plan_right"] == 0.5
    samples = json.loads((tmp_path / "samples" / "vqa.json").read_text())
    assert all(one["answer"].endswith(f"| {one['truth']}") for one in samples)
