"""`ddt eval geneval` on tiny models: the official layout and rows, the official summary written out again, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.evaluation.geneval import check_classes
from ddt_lightning.evaluation.geneval_folder import read_folder
from ddt_lightning.metrics import detection
from ddt_lightning.metrics.cards import flat, read_cards
from ddt_lightning.metrics.geneval import COLOURS, TAGS, read_metadata
from ddt_lightning.tokens.base import weights_hash
from tests.scorers import tiny_clip, tiny_mask2former
from tests.tiny import tiny_model

PROMPTS = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"},
    *(
        {"tag": "colors", "include": [{"class": "bench", "count": 1, "color": c}], "prompt": f"a photo of a {c} bench"}
        for c in COLOURS
    ),
]


@pytest.fixture(autouse=True)
def small_input(monkeypatch):
    monkeypatch.setattr(detection, "SHORT_SIDE", 64)


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    detector = tiny_mask2former(folder / "m2f", sure_of=detection.NAMES.index("bench"))
    return ["--detector", str(detector), "--clip", str(tiny_clip(folder / "clip"))]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "metadata.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=32)


@pytest.fixture(scope="module")
def scored(model, prompts, scorers, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "scores"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "SHORT_SIDE", 64)
        main(["eval", "geneval", "--model", str(model), "--out", str(out), "--prompts", str(prompts), *scorers,
              "--samples", "2", "--steps", "2", "--processes", "1", "--seed", "3"])  # fmt: skip
    return out


def official_files(folder):
    """What djghosh13/geneval's evaluator reads of a folder, by its rules written out again."""
    for sub in sorted(path.name for path in folder.iterdir()):
        if not (folder / sub).is_dir() or not sub.isdigit():
            continue
        with (folder / sub / "metadata.jsonl").open() as file:
            metadata = json.load(file)  # one object, not lines
        for image in sorted((folder / sub / "samples").iterdir()):
            if image.name.removesuffix(".png").isdigit() and image.suffix == ".png":
                yield image, metadata


def official_summary(rows):
    """The figures that summary_scores.py prints."""
    images = sum(row["correct"] for row in rows) / len(rows)
    prompts = {row["metadata"]: False for row in rows}
    for row in rows:
        prompts[row["metadata"]] |= row["correct"]
    tags = {}
    for row in rows:
        tags.setdefault(row["tag"], []).append(row["correct"])
    means = {tag: sum(right) / len(right) for tag, right in tags.items()}
    overall = sum(means.values()) / len(means)
    return {
        "correct_images": images,
        "correct_prompts": sum(prompts.values()) / len(prompts),
        **means,
        "overall": overall,
    }


def rows_of(out):
    return [json.loads(line) for line in (out / "geneval" / "results.jsonl").read_text().splitlines()]


def test_images_lie_in_the_official_layout(scored):
    found = list(official_files(scored / "geneval"))
    assert [metadata for _, metadata in found] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert found[0][0].name == "0000.png" and found[1][0].name == "0001.png"
    assert all(Image.open(file).size == (32, 32) for file, _ in found)
    assert [(scored / "geneval" / one.file, one.metadata) for one in read_folder(scored / "geneval")] == found


def test_rows_and_cards_summarise_as_officially(scored, scorers):
    rows = rows_of(scored)
    assert list(rows[0]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert [row["filename"] for row in rows[:2]] == ["00000/samples/0000.png", "00000/samples/0001.png"]
    assert all(isinstance(row["correct"], bool) for row in rows)
    scores = flat(scored)
    for key, value in official_summary(rows).items():
        assert scores[f"geneval_hf/{key}"] == pytest.approx(value)
    # The detector is sure of benches everywhere: those are right, cows wrong, and one colour of ten is.
    assert scores["geneval_hf/single_object"] == 0.5 and scores["geneval_hf/colors"] == pytest.approx(0.1)
    cards = read_cards(scored)
    card = cards["geneval_hf/overall"]
    assert card["n"] == len(rows) == 24 and card["interval"][0] <= card["value"] <= card["interval"][1]
    assert card["protocol"].startswith("GenEval (HF detector)") and "12 prompts, 2 images each" in card["protocol"]
    assert "3_000_000" in card["seed"] or "3000000" in card["seed"]
    from ddt_lightning.metrics.detection import Detector

    assert card["scorers"]["detector"] == weights_hash(Detector(scorers[1]).model) != card["scorers"]["clip"]
    assert {"tokenizer", "lm"} == set(card["weights"]) and card["settings"]["guidance"] == 2.0
    assert cards["geneval_hf/objects_per_image"]["value"] >= 1 and "geneval_hf/floor_shuffled" in cards
    assert (scored / "geneval.png").is_file()


def test_images_of_others_score_the_same_and_repeat_a_self_test(scored, scorers, tmp_path, capsys):
    out = tmp_path / "again"
    stored = scored / "geneval" / "results.jsonl"
    main(["eval", "geneval", "--out", str(out), "--images", str(scored / "geneval"), *scorers,
          "--selftest", str(stored), "--seed", "3"])  # fmt: skip
    assert "24 of 24 decisions as stored, F1 of boxes 1.000" in capsys.readouterr().out
    assert rows_of(out) == rows_of(scored)
    one, two = flat(scored), flat(out)
    same = {key: value for key, value in one.items() if key.startswith("geneval_hf")}
    assert {key: two[key] for key in same} == same
    assert two["geneval_hf/selftest_decisions"] == two["geneval_hf/selftest_boxes"] == 1


def failure(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "geneval", *map(str, args)])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_detector_that_decides_otherwise_is_refused(scored, scorers, tmp_path, capsys):
    rows = rows_of(scored)
    for row in rows[:4]:
        row["correct"] = not row["correct"]
    changed = tmp_path / "geneval" / "results.jsonl"
    changed.parent.mkdir()
    for place in (scored / "geneval").glob("[0-9]*"):
        (changed.parent / place.name).symlink_to(place)
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["--out", tmp_path / "o", "--images", scored / "geneval", *scorers]
    assert "only 83% of the decisions" in failure(capsys, *call, "--selftest", changed)
    assert not (tmp_path / "o").exists()


def test_what_is_missing_is_named(scored, scorers, prompts, model, tmp_path, capsys):
    images = ["--images", scored / "geneval"]
    assert "`--detector`" in failure(capsys, "--out", tmp_path, *images, "--detector", tmp_path, *scorers[2:])
    assert "`--clip`" in failure(capsys, "--out", tmp_path, *images, *scorers[:2], "--clip", tmp_path / "x")
    assert "no folder of a prompt" in failure(capsys, "--out", tmp_path, "--images", tmp_path, *scorers)
    bare = tmp_path / "bare"
    (bare / "00000" / "samples").mkdir(parents=True)
    assert "no metadata.jsonl" in failure(capsys, "--out", tmp_path, "--images", bare, *scorers)
    (bare / "00000" / "metadata.jsonl").write_text(json.dumps(PROMPTS[0]))
    assert "no image" in failure(capsys, "--out", tmp_path, "--images", bare, *scorers)
    (bare / "00000" / "samples" / "0000.png").write_bytes(b"x")
    assert "not a readable image" in failure(capsys, "--out", tmp_path, "--images", bare, *scorers)
    (tmp_path / "shapes.jsonl").write_text(json.dumps({**PROMPTS[0], "include": [{"class": "ring", "count": 1}]}))
    drawing = ["--model", model, "--processes", "1", *scorers]
    assert "has images in geneval/" in failure(capsys, "--out", scored, "--prompts", prompts, *drawing)
    assert "no class 'ring'" in failure(capsys, "--out", tmp_path, "--prompts", tmp_path / "shapes.jsonl", *drawing)
    assert "`prompts`" in failure(capsys, "--out", tmp_path, "--prompts", tmp_path / "none.jsonl", *drawing)


def test_official_prompts_are_all_of_the_detectors_classes(ddt_data):
    prompts = read_metadata(str(ddt_data / "geneval" / "evaluation_metadata.jsonl"))
    check_classes(prompts)
    assert len(prompts) == 553 and {prompt["tag"] for prompt in prompts} == set(TAGS)


def test_files_of_others_are_passed_over(tmp_path):
    for name in ("00002", "00010", "grids", "results"):
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(PROMPTS[0]))
        for file in ("0001.png", "0000.png", "grid.png"):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name / "samples" / file)
    names = [one.file for one in read_folder(tmp_path)]
    assert names == [f"{p}/samples/{s}.png" for p in ("00002", "00010") for s in ("0000", "0001")]
    assert names == [str(file.relative_to(tmp_path)) for file, _ in official_files(Path(tmp_path))]
