"""Prompts of files and of the command line."""

import json

import pytest

from ddt_lightning.prompts import class_names, read_prompts

THREE = ["a red circle", "two crosses", "a blue square"]
LINES = "\n".join(THREE) + "\n"
OBJECTS = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in THREE)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("my prompts.txt", LINES.encode()),
        ("My Drive/prompts.txt", LINES.encode()),
        ("PROMPTS.TXT", LINES.encode()),
        ("prompts.md", LINES.encode()),
        ("prompts", LINES.encode()),
        ("prompts.csv", LINES.encode()),
        ("bom.txt", ("\ufeff" + LINES).encode()),
        ("windows.txt", LINES.replace("\n", "\r\n").encode()),
        ("utf16.txt", LINES.encode("utf-16")),
        ("blank.txt", LINES.replace("\n", "\n\n  \n").encode()),
        ("prompts.jsonl", OBJECTS.encode()),
        ("BOM.JSONL", ("\ufeff" + OBJECTS).encode()),
        ("prompts.json", json.dumps([{"prompt": prompt} for prompt in THREE]).encode()),
        ("texts.json", json.dumps(THREE).encode()),
        ("run[1].txt", LINES.encode()),
    ],
)
def test_any_file_that_exists_is_read(name, data, tmp_path, monkeypatch):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_prompts(name) == read_prompts(str(tmp_path / name)) == read_prompts(f"~/{name}") == THREE


@pytest.mark.parametrize(
    "prompt", ["a ring", "-5 apples", "null", "[1, 2]", "a page called notes.txt", "x" * 5000, "a\0b"]
)
def test_a_prompt_is_itself(prompt):
    assert read_prompts(prompt) == [prompt]


@pytest.mark.parametrize("name", ["none.txt", "none.JSONL", "none.md", "none.json", "My Drive/none.txt"])
def test_a_file_that_is_missing_is_no_prompt(name):
    with pytest.raises(FileNotFoundError, match="No file of prompts"):
        read_prompts(name)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "latin1.txt",
            "un café\n".encode("latin-1"),
            r"latin1\.txt is not UTF-8 text \(byte 0xe9 at 6\): save it as UTF-8",
        ),
        ("empty.txt", b"\n \n", r"empty\.txt holds no prompt"),
        ("null.jsonl", b'{"prompt": "a"}\n{"prompt": null}\n', r'null\.jsonl, line 2: "prompt" must be one text'),
        ("list.jsonl", b'\n{"prompt": ["a", "b"]}\n', r'list\.jsonl, line 2: "prompt" must be one text'),
        ("blank.jsonl", b'{"prompt": " "}\n', r'blank\.jsonl, line 1: "prompt" must be one text that is not empty'),
        ("caption.jsonl", b'{"caption": "a"}\n', r'caption\.jsonl, line 1 is not a JSON object with a "prompt"'),
        ("true.jsonl", b'{"prompt": true}\n', r'true\.jsonl, line 1: "prompt" is true'),
        ("half.jsonl", b'{"prompt": "\\ud83d"}\n', r"half\.jsonl, line 1: .*half a character"),
        ("object.json", b'{"prompt": "a"}', r"object\.json must be a JSON list"),
        ("null.json", b'["a", null]', r"null\.json, entry 2 must be one text"),
        ("cut.json", b'["a"', r"cut\.json is not JSON"),
        ("picture.png", b"\x89PNG\r\n\x1a\n", r"picture\.png is not UTF-8"),
    ],
)
def test_what_is_no_prompt_is_named_with_file_and_line(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_prompts(str(tmp_path / name))


def test_a_folder_is_no_prompt(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file of prompts in it"):
        read_prompts(f"{tmp_path}/")


def test_numbers_and_foreign_fields(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": 5, "id": 3}\n{"prompt": "a\u2028b", "tag": [1]}\n', encoding="utf-8")
    assert read_prompts(str(tmp_path / "x.jsonl")) == ["5", "a\u2028b"]
    with pytest.raises(ValueError, match="empty"):
        read_prompts("  ")


def test_classes_come_from_lines_or_json(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    (tmp_path / "NAMES.JSON").write_text('["cat", "dog"]')
    for name in ("names.txt", "NAMES.JSON"):
        assert class_names(str(tmp_path / name), ["1", "cat"]) == ["dog", "cat"]
    with pytest.raises(ValueError, match=r"`2` is not a class"):
        class_names(str(tmp_path / "names.txt"), ["2"])
    with pytest.raises(FileNotFoundError, match="--classes"):
        class_names(str(tmp_path / "none.txt"), ["2"])
