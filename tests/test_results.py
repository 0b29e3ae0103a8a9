"""What a call leaves in its folder, and what it takes away of an earlier call."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddt_lightning.results import check_sources, results

PICTURE = torch.zeros(3, 4, 4, dtype=torch.uint8)


def write(out: Path, count: int) -> None:
    with results(str(out)) as written:
        for number in range(count):
            written.add({"seed": number}, PICTURE + number)


def names(out: Path) -> list[str]:
    return sorted(file.name for file in out.iterdir())


def test_pictures_of_an_earlier_call_go_and_foreign_files_stay(tmp_path):
    out = tmp_path / "out"
    write(out, 3)
    for foreign in ("00009.png", "mine.png", "notes.txt"):
        (out / foreign).write_text("mine")
    write(out, 1)
    assert names(out) == ["00000.png", "00009.png", "mine.png", "notes.txt", "results.jsonl"]
    assert json.loads((out / "results.jsonl").read_text()) == {"file": "00000.png", "seed": 0}
    assert Image.open(out / "00000.png").size == (4, 4)
    with results(str(out)) as written:  # texts replace pictures
        written.add({"text": "a ring"})
    assert names(out) == ["00009.png", "mine.png", "notes.txt", "results.jsonl"]


def test_only_names_of_results_are_removed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "00000.png").write_text("outside")
    (out / "cat.png").write_text("mine")
    listed = ["../00000.png", "cat.png", "results.jsonl", None]
    (out / "results.jsonl").write_text("no json\n[1]\n" + "".join(json.dumps({"file": name}) + "\n" for name in listed))
    write(out, 1)
    assert names(out) == ["00000.png", "cat.png", "results.jsonl"] and (tmp_path / "00000.png").exists()


def test_a_failed_call_takes_nothing_away(tmp_path):
    out = tmp_path / "out"
    write(out, 2)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(RuntimeError), results(str(out)) as written:
        written.add({}, PICTURE)
        raise RuntimeError
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before and names(tmp_path) == ["out"]


def test_inputs_are_not_replaced(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(ValueError, match=r"`--out` \(.*\) is the folder of .*00000.png"):
        check_sources(f"{tmp_path}/../{tmp_path.name}", [tmp_path / "00000.png"])
    check_sources(str(tmp_path / "edits"), [tmp_path / "00000.png"])
    check_sources(str(tmp_path), [tmp_path / "photo.png"])
    check_sources(None, [tmp_path / "00000.png"])
