"""`ddt eval prompts`: the CLIP score against its formula, of drawn images and of a folder of `ddt generate`."""

import json

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.evaluation.prompts import by_prompt, score
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.embeddings import Clip
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.tokens.base import weights_hash
from tests.scorers import tiny_clip
from tests.tiny import tiny_model

PROMPTS = ["a red dog", "two cats", "a blue circle above a ring"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return str(path)


def formula(scorer, images, prompts):
    """CLIPScore written out: 100 times the cosine, not below 0."""
    a, b = scorer.images(images).double().numpy(), scorer.texts(prompts).double().numpy()
    return np.maximum(100 * (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), 0)


def test_drawn_prompts(model, clip, texts, tmp_path):
    main(["eval", "prompts", texts, "--model", str(model), "--out", str(tmp_path), "--clip", clip, "--samples", "2",
          "--steps", "2", "--processes", "1", "--seed", "1"])  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "prompts" / "results.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [text for text in PROMPTS for _ in range(2)]
    images = [np.asarray(Image.open(tmp_path / "prompts" / line["file"])) for line in lines]
    drawn = Pipeline.from_pretrained(model).text_to_image(
        [line["prompt"] for line in lines], seed=[1_000_000 + n for n in range(6)], steps=2
    )
    assert np.abs(np.stack(images).astype(int) - drawn.permute(0, 2, 3, 1).numpy()).max() <= 1
    scorer = Clip(clip)
    fit = formula(scorer, images, [line["prompt"] for line in lines])
    assert [line["clip_score"] for line in lines] == pytest.approx(fit.tolist(), abs=1e-3)
    cards = read_cards(tmp_path)
    card = cards["t2i/clip_score"]
    assert card["value"] == pytest.approx(fit.mean(), abs=1e-3) and card["n"] == 3
    assert card["scorers"] == {"clip": weights_hash(scorer.model)} and "lm" in card["weights"]
    other = formula(scorer, images, [PROMPTS[(n // 2 + 1) % 3] for n in range(6)])
    assert cards["t2i/clip_score_floor_shuffled"]["value"] == pytest.approx(other.mean(), abs=1e-3)
    assert (tmp_path / "prompts.png").is_file()


def test_images_of_ddt_generate(model, clip, texts, tmp_path):
    made = tmp_path / "made"
    main(["generate", texts, "--model", str(model), "--out", str(made), "--steps", "1"])
    main(["eval", "prompts", str(made), "--out", str(tmp_path / "o"), "--clip", clip])
    images = [np.asarray(Image.open(made / f"{n:05d}.png")) for n in range(3)]
    card = read_cards(tmp_path / "o")["t2i/clip_score"]
    assert card["value"] == pytest.approx(formula(Clip(clip), images, PROMPTS).mean(), abs=1e-3)
    assert card["settings"]["images"] == str(made)


def test_scores_are_not_negative_and_prompts_count_once():
    import torch

    assert score(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]])) == pytest.approx(
        [0, 60]
    )
    assert by_prompt([1, 3, 10], ["a", "a", "b"]) == [2, 10]


def test_what_is_missing_is_named(model, clip, tmp_path, capsys):
    for args, message in (
        ([str(tmp_path), "--clip", clip], "no results.jsonl"),
        (["a dog", "--clip", str(tmp_path)], "`--clip`"),
        (["none.txt", "--clip", clip, "--model", str(model), "--processes", "1"], "No file of prompts"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["eval", "prompts", *args, "--out", str(tmp_path / "o")])
        assert stop.value.code == 1 and message in capsys.readouterr().err
    (tmp_path / "results.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(SystemExit):
        main(["eval", "prompts", str(tmp_path), "--clip", clip, "--out", str(tmp_path / "o")])
    assert "without file and prompt" in capsys.readouterr().err
