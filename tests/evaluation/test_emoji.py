"""`ddt eval emoji`: its cards are what the classifier says of drawings, real pictures, reconstructions and edits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddt_lightning.cli import main
from ddt_lightning.evaluation.emoji import attribute_cards, memory_cards, words
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier, marks
from ddt_lightning.shards.write import write_shards
from tests.studies.test_emoji_attributes import drawn, facts
from tests.tiny import tiny_model

CLASSES = {
    "group": ["people-body", "flags"], "skin": ["light", "dark"], "style": ["noto", "twemoji"],
    "noun": ["thing 1", "thing 4"],
}  # fmt: skip


def whole(n: int) -> dict:
    names = {"code": f"1F{n}", "name": f"thing {n}", "family": "f", "head": f"thing {n}"}
    return {**names, **facts(n), "noun": f"thing {n}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    AttributeClassifier(CLASSES).eval().save(folder / "judge.safetensors")
    samples = [
        {"__key__": f"{n}", "png": drawn(facts(n)), "txt": "x", "json": {"emoji": whole(n), "held_out": "combination"}}
        for n in range(6)
    ]
    write_shards(folder, "images-val", samples, 9)
    pairs = [(0, 4, "skin"), (0, 2, "style")]
    edits = [
        {"__key__": f"{n}", "source.png": drawn(facts(a)), "target.png": drawn(facts(b)), "txt": "change it",
         "json": {"task": kind, "source": whole(a), "target": whole(b)}}
        for n, (a, b, kind) in enumerate(pairs)
    ]  # fmt: skip
    write_shards(folder, "edits-val", edits, 9)
    return folder


def test_drawings_and_edits_are_scored(world, tmp_path):
    model = tiny_model(tmp_path / "model", side=32)
    call = ["eval", "emoji", "--model", str(model), "--shards", f"{world}/images-val-*.tar", "--device", "cpu"]
    call += ["--edits", f"{world}/edits-val-*.tar", "--train", f"{world}/images-val-*.tar", "--processes", "1"]
    main([*call, "--steps", "1", "--classifier", f"{world}/judge.safetensors", "--out", str(tmp_path / "eval")])
    cards = read_cards(tmp_path / "eval")
    judge = AttributeClassifier.load(world / "judge.safetensors")
    for name in (*CLASSES, "all"):
        for end in ("", "_ceiling_real", "_ceiling_tokenizer", "_floor_shuffled"):
            assert 0 <= cards[f"emoji/{name}{end}"]["value"] <= 1
    assert cards["emoji/skin"]["n"] == 3 and cards["emoji/group"]["n"] == 6 and cards["emoji/noun"]["n"] == 2
    assert cards["emoji/noun"]["protocol"].startswith("role: drawings whose attribute")
    assert cards["emoji/nearest_ceiling_real"]["value"] == pytest.approx(
        0, abs=1e-3
    )  # they are in the training set here
    assert cards["emoji/memorised"]["value"] == 0
    for end in ("", "_ceiling_real", "_ceiling_tokenizer", "_floor_unchanged"):
        assert cards[f"emoji/edit_skin{end}"]["n"] == 1 and cards[f"emoji/edit_style{end}"]["n"] == 1
        assert cards[f"emoji/edit_kept{end}"]["n"] == 5  # group and the other attribute of each, one role
    assert cards["emoji/all"]["weights"]["classifier"] and judge.classes == CLASSES
    assert (tmp_path / "eval" / "emoji.png").is_file() and (tmp_path / "eval" / "emoji-edits.png").is_file()
    json.loads((tmp_path / "eval" / "emoji.json").read_text())


class Oracle:
    """Reads group and skin off the picture's first pixel."""

    classes = CLASSES

    def __call__(self, images):
        levels = images[:, 0, 0, 0].tolist()
        return {
            "group": ["flags" if level == 0 else "people-body" for level in levels],
            "skin": ["dark" if level == 1 else "light" for level in levels],
            "style": ["noto"] * len(levels),
            "noun": ["thing 1"] * len(levels),
        }


def test_scores_are_shares_of_those_that_have_the_attribute():
    asked = [{"group": "flags", "style": "noto"}, {"group": "people-body", "skin": "dark", "style": "noto"},
             {"group": "people-body", "skin": "light", "style": "twemoji"}]  # fmt: skip
    images = torch.tensor([0, 1, 9], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    cards = attribute_cards(Oracle(), asked, {"": images, "_ceiling_real": images[[0, 2, 1]]})
    values = {key: (round(one["value"], 3), one["n"]) for key, one in cards.items()}
    assert values["emoji/group"] == (1.0, 3) and values["emoji/skin"] == (1.0, 2)
    assert values["emoji/style"] == (0.667, 3) and values["emoji/all"] == (0.667, 3)
    assert values["emoji/skin_ceiling_real"] == (0.0, 2)
    assert values["emoji/group_floor_shuffled"] == (0.333, 3)  # what the next prompt asks
    found = {"group": "flags", "skin": "light", "style": "noto", "noun": "thing 1"}
    asked = {"group": "flags", "skin": "light and dark", "style": "noto", "noun": "thing 4"}
    assert marks(found, asked, CLASSES) == {"group": True, "style": True, "noun": False}


def test_copies_of_training_are_memorised():
    rng = np.random.default_rng(0)
    train, real, free = (torch.from_numpy(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)) for _ in range(3))
    drawings = torch.cat([train[:3], free[:3] // 2 + 64])
    blank = torch.zeros_like(real)
    cards = memory_cards(drawings, blank, real, train)
    assert cards["emoji/nearest"]["value"] < cards["emoji/nearest_ceiling_real"]["value"]
    assert cards["emoji/memorised"]["value"] >= 0.5 and cards["emoji/memorised_ceiling_tokenizer"]["value"] == 0
    one = {"style": "noto", "code": "1F600", "name": "grinning face", "group": "flags", "concept": "c", "family": "f",
           "head": "woman cook", "noun": "cook", "skin": "dark"}  # fmt: skip
    assert words(one) == "woman cook, dark skin, noto style"
