"""`ddt eval edit` of scenes and of shards: every likeness card against its formula on the images that came out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.evaluation.edit_scores import Edited, kind_cards, measure_cards, plan_cards
from ddt_lightning.evaluation.editing import describe
from ddt_lightning.metrics.cards import flat, read_cards
from ddt_lightning.metrics.editing import direction
from ddt_lightning.metrics.embeddings import Clip, Dino
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.layout import write_edit_plan
from ddt_lightning.scenes.render import Background, Scene, Shape
from ddt_lightning.scenes.tasks import EDITS, sample_edit
from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.write import write_shards
from ddt_lightning.tokens.base import weights_hash
from tests.scorers import tiny_clip, tiny_dino
from tests.tiny import tiny_model

SIDE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    return str(tiny_clip(folder / "clip")), str(tiny_dino(folder / "dino"))


def noise(rng):
    return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    said = {"source_caption": "a dog", "target_caption": "a cat"}
    kinds = [{"task": "swap", **said}, {"task": "swap", **said}, {"task": "tone"}, {}, {"task": "tone", **said}]
    write_shards(
        folder, "edits",
        [{"__key__": f"e{n}", "source.png": png(noise(rng)), "target.png": png(noise(rng)), "txt": "make it red",
          "json": more} for n, more in enumerate(kinds)], 9,
    )  # fmt: skip
    return f"{folder}/edits-*.tar"


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_cards_of_shards_equal_their_formulas(model, scorers, shards, tmp_path):
    main(["eval", "edit", "--model", str(model), "--out", str(tmp_path), "--shards", shards, "--clip", scorers[0],
          "--dino", scorers[1], "--steps", "2", "--processes", "1", "--batch", "2"])  # fmt: skip
    cards = read_cards(tmp_path)
    samples = list(read_images([shards]))
    sources, targets = (torch.from_numpy(np.stack([s.images[i] for s in samples])).permute(0, 3, 1, 2) for i in (0, 1))
    used = Pipeline.from_pretrained(model)
    seeds = list(range(5))
    results = used.edit_image(sources, ["make it red"] * 5, seed=seeds, steps=2)
    copies = used.reconstruct(targets, seed=seeds, steps=2)
    off = (results.double() - targets.double()) / 255

    def beside(card, name, value):
        assert card[name] == pytest.approx(value, abs=0.02)

    assert cards["edit_shards/l1"]["value"] == pytest.approx(float(off.abs().mean()), abs=0.02)
    assert cards["edit_shards/l2"]["value"] == pytest.approx(float(off.square().mean()), abs=0.02)
    beside(cards["edit_shards/l1"], "unchanged", float((sources.double() - targets.double()).abs().mean()) / 255)
    beside(cards["edit_shards/l1"], "tokenizer", float((copies.double() - targets.double()).abs().mean()) / 255)
    one = float(off[[2, 4]].abs().mean())
    assert cards["edit_shards/l1/tone"]["value"] == pytest.approx(one, abs=0.02)
    assert {key: cards[f"edit_shards/{key}"]["n"] for key in ("l1", "l1/swap", "l1/tone", "clip_i", "dino")} == {
        "l1": 5, "l1/swap": 2, "l1/tone": 2, "clip_i": 5, "dino": 5,
    }  # fmt: skip
    assert cards["edit_shards/clip_t"]["n"] == cards["edit_shards/clip_dir"]["n"] == 3  # where captions are known
    assert "edit_shards/clip_t/swap" in cards and not any(key.endswith("/") for key in cards)
    for card in (cards["edit_shards/l1"], cards["edit_shards/dino/swap"]):
        assert card["interval"][0] <= card["value"] <= card["interval"][1]
    assert cards["edit_shards/clip_i/tone"]["scorers"] == {"clip": weights_hash(Clip(scorers[0]).model)}
    assert cards["edit_shards/dino"]["scorers"] == {"dino": weights_hash(Dino(scorers[1]).model)}
    assert "scorers" not in cards["edit_shards/l1"]
    assert (tmp_path / "edit_shards.png").is_file()


def test_measures_equal_its_formulas(scorers):
    rng = np.random.default_rng(1)
    clip, dino = Clip(scorers[0]), Dino(scorers[1])
    captions = [("a dog", "a cat"), None, ("a red dog", "a dog at night")]
    edits = [Edited("k", noise(rng), noise(rng), noise(rng), noise(rng), text) for text in captions]
    cards = measure_cards("e", edits, clip, dino)
    seen, wanted, before = (clip.images([getattr(e, p) for e in edits]) for p in ("image", "target", "source"))
    assert cards["e/clip_i"]["value"] == pytest.approx(
        np.mean([cosine(a, b) for a, b in zip(seen, wanted, strict=True)])
    )
    looks = [dino.images([e.image, e.target]) for e in edits]
    assert cards["e/dino"]["value"] == pytest.approx(np.mean([cosine(*pair) for pair in looks]))
    one, two = clip.texts(["a dog", "a red dog"]), clip.texts(["a cat", "a dog at night"])
    fit = [cosine(seen[n], two[k]) for k, n in enumerate((0, 2))]
    assert cards["e/clip_t"]["value"] == pytest.approx(np.mean(fit), abs=1e-6)
    turn = [cosine(seen[n] - before[n], two[k] - one[k]) for k, n in enumerate((0, 2))]
    assert cards["e/clip_dir"]["value"] == pytest.approx(np.mean(turn), abs=1e-5)
    assert cards["e/clip_dir"]["unchanged"] == 0  # a source in the result's place goes nowhere
    assert cards["e/clip_i/k"]["value"] == cards["e/clip_i"]["value"]


def test_a_perfect_edit():
    rng = np.random.default_rng(2)
    target = noise(rng)
    cards = measure_cards("e", [Edited("", noise(rng), target, target, target)], None, None)
    assert set(cards) == {"e/l1", "e/l2"} and cards["e/l1"]["value"] == cards["e/l2"]["value"] == 0
    assert cards["e/l1"]["unchanged"] > 0.1


def test_direction_is_zero_without_a_change():
    change = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = direction(change, torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 1.0]]))
    assert found.tolist() == pytest.approx([1, 0, 0])


def test_kind_cards_leave_out_what_was_not_measured():
    cards = kind_cards("k", [1.0, None, 3.0, None], ["a", "a", "b", "c"], "p", {"x": [2.0, None, 6.0, None]})
    assert {key: (card["value"], card["n"], card["x"]) for key, card in cards.items()} == {
        "k": (2.0, 2, 4.0), "k/a": (1.0, 1, 2.0), "k/b": (3.0, 1, 6.0),
    }  # fmt: skip


def test_scenes_are_described_with_all_but_places():
    scene = Scene(
        (Shape("circle", "orange", 20, 20, 10), Shape("ring", "blue", 44, 44, 10)), Background("teal", "night")
    )
    text = "a photo of an orange circle and a blue ring on a teal background at night"
    assert describe(scene) == text


def test_scenes_have_clip_scores_of_local_edits_too(model, scorers, tmp_path, capsys):
    call = ["eval", "edit", "--model", str(model), "--out", str(tmp_path / "a"), "--edits", "7", "--steps", "1",
            "--processes", "1"]  # fmt: skip
    main(call)
    text = capsys.readouterr().out
    assert "scores by clip and dino are left out: `--clip FOLDER --dino FOLDER`" in text
    without = flat(tmp_path / "a")
    assert not any("clip" in key or "dino" in key for key in without)
    main([*call, "--clip", scorers[0]])
    text = capsys.readouterr().out
    assert "scores by dino are left out" in text
    cards = read_cards(tmp_path / "a")
    assert cards["edit/clip_i"]["n"] == 7 and cards["edit/clip_dir"]["n"] == 6  # a move changes no caption
    assert "edit/clip_t/move" not in cards and "edit/clip_i/move" in cards and "edit/dino" not in cards
    with pytest.raises(SystemExit):
        main([*call, "--clip", str(tmp_path / "none")])
    assert "`--clip`" in capsys.readouterr().err


def test_shards_without_edits_are_refused(model, tmp_path, capsys):
    rng = np.random.default_rng(3)
    write_shards(tmp_path, "images", [{"__key__": "a", "png": png(noise(rng)), "txt": "x", "json": {}}], 9)
    with pytest.raises(SystemExit):
        main(["eval", "edit", "--model", str(model), "--out", str(tmp_path / "o"), "--shards",
              f"{tmp_path}/images-*.tar", "--processes", "1"])  # fmt: skip
    assert "hold no edit" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_real_edits(model, tmp_path, ddt_data):
    main(["eval", "edit", "--model", str(model), "--out", str(tmp_path), "--edits", "30", "--steps", "1", "--processes",
          "1", "--shards", f"{ddt_data}/edit/aurora-val-*.tar"])  # fmt: skip
    kinds = {key.removeprefix("edit_shards/l1/") for key in flat(tmp_path) if key.startswith("edit_shards/l1/")}
    said = [one.data["task"] for one in read_images([f"{ddt_data}/edit/aurora-val-*.tar"])][:30]
    assert kinds == set(said) and len(kinds) > 1


def test_plans_of_edits_are_read_by_kind():
    edits = [sample_edit(np.random.default_rng(n), kind) for kind in EDITS for n in range(4)]
    truths = [write_edit_plan(one) for one in edits]
    right = plan_cards("edit", truths, edits)
    assert right["edit/plan_source"]["value"] == right["edit/plan_target"]["value"] == 1.0
    assert right["edit/plan_target/move"]["n"] == 4 and len(right) == 2 * (1 + len(EDITS))
    assert right["edit/plan_target/move"]["interval"] is not None
    idle = [f"{plan.split(' to ')[0]} to {plan.split(' to ')[0]} |" for plan in truths]  # nothing changes
    still = plan_cards("edit", idle, edits)
    assert still["edit/plan_source"]["value"] == 1.0 and still["edit/plan_target"]["value"] == 0.0
    cut = plan_cards("edit", [truths[0], *[""] * (len(edits) - 1)], edits)
    assert cut["edit/plan_target/add"]["value"] == 0.25 and cut["edit/plan_target/remove"]["value"] == 0.0
    assert plan_cards("edit", [""] * len(edits), edits) == {}
