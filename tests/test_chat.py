"""Conversations with a tiny model: what the language model is shown, and that edits build on each other."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ddt_lightning.chat import Conversation, draw, edit_in_turns, write
from ddt_lightning.cli import main
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from tests.reading import read_chat
from tests.tiny import tiny_model

SAMPLING = Sampling(steps=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def spy(monkeypatch, pipeline):
    """The prompts that reach the language model, parsed back."""
    seen = []
    real = pipeline.draw_ids

    def draw_ids(prompts, *args, **options):
        seen.append([read_chat(pipeline.vocab, row[:-1]) for row in prompts[0]])
        return real(prompts, *args, **options)

    monkeypatch.setattr(pipeline, "draw_ids", draw_ids)
    return seen


def test_the_first_edit_is_an_edit(pipeline, images):
    (once,) = edit_in_turns(pipeline, images, ["make it red"], SAMPLING, seed=5)
    assert once.images.equal(pipeline.edit_image(images, ["make it red"] * 3, seed=5, steps=1))


def test_later_edits_see_all_before(pipeline, images, monkeypatch):
    seen = spy(monkeypatch, pipeline)
    rounds = list(edit_in_turns(pipeline, images, ["make it red", "now blue", "and small"], SAMPLING, seed=5))
    assert [turn.images.shape for turn in rounds] == [images.shape] * 3
    for row in range(3):
        turns, shown = seen[-1][row]
        assert [turn["content"] for turn in turns] == [
            [{"image": 0}, "make it red"], [{"image": 1}], ["now blue"], [{"image": 2}], ["and small"]
        ]  # fmt: skip
        assert shown[0] == pipeline.encode(images)[row].tolist()
        for number in (0, 1):  # what was drawn is what the next turn is shown, id by id
            drawn = torch.tensor(shown[number + 1])[None]
            assert pipeline.decode(drawn, seed=5 + row, steps=1)[0].equal(rounds[number].images[row])


def test_later_edits_see_the_plans_before(pipeline, images, monkeypatch):
    seen = spy(monkeypatch, pipeline)
    sampling = replace(SAMPLING, plan="a red ring |")
    rounds = list(edit_in_turns(pipeline, images, ["make it red", "now blue"], sampling, seed=5))
    assert [drawn.plans for drawn in rounds] == [["a red ring |"] * 3] * 2
    for turns, _ in seen[-1]:
        assert [turn["content"] for turn in turns] == [
            [{"image": 0}, "make it red"], ["a red ring |", {"image": 1}], ["now blue"], ["a red ring |"]
        ]  # fmt: skip


def test_several_images_in_one_prompt(pipeline, images, monkeypatch):
    seen = spy(monkeypatch, pipeline)
    turns = [{"role": "user", "content": ["this ring", {"image": 1}, "on this", {"image": 0}]}]
    talks = [Conversation(turns, images[:2]), Conversation([{"role": "user", "content": ["a ring"]}])]
    answers = draw(pipeline, talks, SAMPLING, seed=7)
    parsed, shown = seen[0][0]
    assert [part for part in parsed[0]["content"] if isinstance(part, str)] == ["this ring", "on this"]
    assert shown == pipeline.encode(images[[1, 0]]).tolist()
    assert answers[1].equal(pipeline.text_to_image(["a ring"], seed=8, steps=1)[0])
    assert draw(pipeline, talks[:1], SAMPLING, seed=7)[0].equal(answers[0])


def test_a_question_about_an_image_is_describe(pipeline, images):
    talks = [Conversation([{"role": "user", "content": [{"image": 0}, "how many ?"]}], image[None]) for image in images]
    assert write(pipeline, talks, max_new_tokens=5) == pipeline.describe_image(images, "how many ?", max_new_tokens=5)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_commands(folder, images, tmp_path, capsys):
    for n, image in enumerate(images[:2]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{n}.png")
    talk = {"turns": [{"role": "user", "content": [{"image": 0}, "and", {"image": 1}]}], "images": ["0.png", "1.png"]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n\n" + json.dumps({"turns": talk["turns"][:1]}) + "\n")
    common = ["--model", str(folder), "--steps", "1"]
    with pytest.raises(SystemExit):  # the second line shows images that it does not bring
        main(["chat", str(tmp_path / "talks.jsonl"), "--out", str(tmp_path / "bad"), *common])
    assert "image 0 of 0" in capsys.readouterr().err and not (tmp_path / "bad").exists()
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    main(["chat", str(tmp_path / "talks.jsonl"), "--out", str(tmp_path / "said"), "--max_new_tokens", "3", *common])
    (said,) = lines(tmp_path / "said" / "results.jsonl")
    assert isinstance(said["text"], str) and said["turns"] == talk["turns"]
    main(["chat", str(tmp_path / "talks.jsonl"), "--out", str(tmp_path / "drawn"), "--draw", "true", *common])
    (drawn,) = lines(tmp_path / "drawn" / "results.jsonl")
    assert Image.open(tmp_path / "drawn" / drawn["file"]).size == (16, 16)
    main(["edit", str(tmp_path / "0.png"), "make it red", "now blue", "--out", str(tmp_path / "edited"), *common])
    rows = lines(tmp_path / "edited" / "results.jsonl")
    assert [(row["instruction"], row["turn"]) for row in rows] == [("make it red", 0), ("now blue", 1)]
    for text in ("{", '{"turns": [{"role": "user", "content": [{"picture": 0}]}]}', '{"turns": 3}', ""):
        (tmp_path / "talks.jsonl").write_text(text)
        with pytest.raises(SystemExit):
            main(["chat", str(tmp_path / "talks.jsonl"), "--out", str(tmp_path / "bad"), *common])
        assert "conversation" in (error := capsys.readouterr().err) or "line 1" in error


def test_classes_by_name_or_number(folder, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("airplane\ndog\ncat\n")
    (tmp_path / "asked.txt").write_text("1\ncat\n0\n")
    call = ["generate", str(tmp_path / "asked.txt"), "--classes", str(tmp_path / "names.txt"), "--chat", "false",
            "--model", str(folder), "--steps", "1", "--out", str(tmp_path / "drawn")]  # fmt: skip
    main(call)
    assert [row["prompt"] for row in lines(tmp_path / "drawn" / "results.jsonl")] == ["dog", "cat", "airplane"]
    with pytest.raises(SystemExit):
        main(["generate", "3", *call[2:]])
    assert "`3` is not a class" in capsys.readouterr().err
