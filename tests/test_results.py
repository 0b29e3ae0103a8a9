"""What a call leaves in its folder, and what it takes away of an earlier call."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddt_lightning.results import check_sources, folder_for, results

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


def test_calls_without_a_folder_get_new_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError), folder_for(None, "a ring"):
        raise RuntimeError
    assert names(tmp_path) == []
    for _ in range(2):
        with folder_for(None, "Two rings, & a Blue square!") as folder:
            write(Path(folder), 1)
    (tmp_path / "pictures" / "017-mine").mkdir()
    with folder_for(None, "../x " * 30) as folder, results(folder) as written:
        with folder_for(None, "\u732b") as other:  # at the same time
            assert other == "pictures/019-\u732b"
        written.add({"seed": 0}, PICTURE)
    assert folder == f"pictures/018-{'x-' * 20}"[:-1]
    assert names(tmp_path / "pictures" / "001-two-rings-a-blue-square") == ["00000.png", "results.jsonl"]
    assert "002-two-rings-a-blue-square" in names(tmp_path / "pictures")
    with pytest.raises(RuntimeError), folder_for(None, "a ring"):
        raise RuntimeError
    assert not any("ring" in name and "rings" not in name for name in names(tmp_path / "pictures"))
    with folder_for("given", "a ring") as folder:
        assert folder == "given" and not Path("given").exists()
