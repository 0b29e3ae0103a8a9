"""Samples that cannot be read: every evaluation of shards measures the others, and says how many and which are lost."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.evaluation.outcome import NAMED, Outcome, named
from ddt_lightning.metrics.cards import card, read_cards
from ddt_lightning.shards.write import write_shards
from tests.tiny import tiny_model

SIDE = 32
BAD = (1, 3, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


def pictures(number: int) -> list[bytes]:
    """PNGs of noise."""
    rng, found = np.random.default_rng(0), []
    for _ in range(number):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Six samples in each of two shards, of which three pictures are cut off."""
    folder = tmp_path_factory.mktemp("shards")
    images = [data[: len(data) // 2] if n in BAD else data for n, data in enumerate(pictures(6))]
    asked = [{"question": "is it red?", "answer": "no"}]
    write_shards(
        folder,
        "images",
        [{"__key__": f"a{n}", "png": data, "txt": "a thing", "json": {"vqa": asked}} for n, data in enumerate(images)],
        9,
    )
    whole = pictures(1)[0]
    edits = [
        {"__key__": f"e{n}", "source.png": data, "target.png": whole, "txt": "make it red"}
        for n, data in enumerate(images)
    ]
    write_shards(folder, "edits", edits, 9)
    return folder


@pytest.mark.parametrize(
    ("verb", "option", "shard", "key", "words"),
    [
        ("reconstruction", "shards", "images", "tokenizer/psnr", ["--images", "6"]),
        ("caption", "shards", "images", "caption/cider_d_regex", ["--captions", "6"]),
        ("vqa", "shards", "images", "vqa/exact_match", ["--questions", "6"]),
        ("edit", "shards", "edits", "edit_shards/l1", ["--edits", "6"]),
        ("distribution", "reference", "images", "tokenizer/paired_psnr", ["--images", "6"]),
    ],
)
def test_they_are_counted_and_named(model, shards, tmp_path, capsys, verb, option, shard, key, words):
    call = ["eval", verb, "--model", str(model), "--out", str(tmp_path / "o"), "--processes", "1"]
    steps = [] if verb in ("caption", "vqa") else ["--steps", "1"]
    main([*call, *steps, *words, f"--{option}", f"{shards}/{shard}-*.tar"])
    found = read_cards(tmp_path / "o")[key]
    assert (found["n"], found["asked"], len(found["unreadable"])) == (3, 6, 3)
    said = capsys.readouterr().out
    assert f"{key} " in said and "(3 of 6 " in said and "3 could not be read" in said
    letter = shard[0] if shard == "edits" else "a"
    for n in BAD:
        name = f"{shard}-000000.tar:{letter}{n} ("
        assert name in said and sum(one.startswith(name) for one in found["unreadable"]) == 1


def test_whole_shards_have_no_such_line(model, shards, tmp_path, capsys):
    write_shards(tmp_path, "good", [{"__key__": f"g{n}", "png": data} for n, data in enumerate(pictures(2))], 9)
    main(["eval", "reconstruction", "--model", str(model), "--out", str(tmp_path / "o"), "--processes", "1", "--steps",
          "1", "--shards", f"{tmp_path}/good-*.tar", "--images", "5"])  # fmt: skip
    said, found = capsys.readouterr().out, read_cards(tmp_path / "o")["tokenizer/psnr"]
    assert "(2 of 5 images)" in said and "could not be read" not in said
    assert found["asked"] == 5 and "unreadable" not in found


def test_shards_without_a_readable_image_are_refused_with_the_reason(model, shards, tmp_path, capsys):
    samples = [{"__key__": "b", "png": pictures(1)[0][:60]}]
    write_shards(tmp_path, "bad", samples, 9)
    for verb, option in (("reconstruction", "shards"), ("distribution", "reference")):
        with pytest.raises(SystemExit) as stop:
            main(["eval", verb, "--model", str(model), "--out", str(tmp_path / "o"), "--processes", "1",
                  f"--{option}", f"{tmp_path}/bad-*.tar"])  # fmt: skip
        text = capsys.readouterr().err
        assert stop.value.code == 1 and "hold" in text and "bad-000000.tar:b (" in text
        assert not (tmp_path / "o").exists()


def test_too_few_pictures_for_any_score_are_an_error(tmp_path, capsys):
    (tmp_path / "few").mkdir()
    for n, data in enumerate(pictures(3)):
        (tmp_path / "few" / f"{n}.png").write_bytes(data)
    with pytest.raises(SystemExit) as stop:
        main(["eval", "distribution", "--generated", str(tmp_path / "few"), "--out", str(tmp_path / "o"), "--device",
              "cpu", "--images", "40"])  # fmt: skip
    said = capsys.readouterr()
    assert stop.value.code == 1 and "No score could be computed from 3 of 40 pictures" in said.err
    assert "3 pictures are fewer than 33" in said.out and not (tmp_path / "o").exists()


def test_many_problems_are_named_in_part(tmp_path: Path, capsys):
    problems = {f"x.tar:{n}": "is cut off" for n in range(NAMED + 5)}
    assert len(named(problems)) == NAMED + 1 and named(problems)[-1].startswith("and 5 more")
    outcome = Outcome("x", {"x/y": card(1.0, 2, "p")}, ["x/y"], {"a": 1}, 17, 2, problems=problems)
    outcome.write(str(tmp_path / "o"), {"seed": "0", "weights": {}, "settings": {"b": 2}})
    found = read_cards(tmp_path / "o")["x/y"]
    assert found["unreadable"] == named(problems) and found["settings"] == {"b": 2, "a": 1}
    assert f"{NAMED + 5} could not be read" in capsys.readouterr().out
