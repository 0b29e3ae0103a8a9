"""Texts and JSON as people store them."""

import json
import os

import pytest

from ddt_lightning.texts import as_texts, decode_text, parse_json, read_json_file, read_lines, read_text, to_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_are_told_by_their_mark(encoding):
    assert decode_text("ein café\n東京".encode(encoding)) == "ein café\n東京"
    assert decode_text(b"\xfe\xff" + "東京".encode("utf-16-be")) == "東京"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("café".encode("latin-1"), "is not UTF-8 text .byte 0xe9 at 3.: save it as UTF-8"),
        (b"\xff\xfea", "is not UTF-16-LE text"),
        ("ab".encode("utf-16-le"), "zero bytes"),
        (b"\x89PNG\r\n", "byte 0x89 at 0"),
    ],
)
def test_other_bytes_are_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        decode_text(data)
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.txt .*"):
        read_text(tmp_path / "x.txt")


def test_lines_end_where_editors_end_them(tmp_path):
    (tmp_path / "x.txt").write_bytes("\ufeffone\r\ntwo\n\n  \nthr\u2028ee\rfour\x0cfive".encode())
    assert list(read_lines(tmp_path / "x.txt")) == [(1, "one"), (2, "two"), (5, "thr\u2028ee"), (6, "four\x0cfive")]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("two", ["two"]),
        (" \ufefftwo\n", ["\ufefftwo"]),
        ("\ufefftwo ", ["two"]),
        (2, ["2"]),
        (2.5, ["2.5"]),
        (None, []),
        ("", []),
        ([], []),
        (["two", 2, None, "", {"answer": "2"}, {"answer": None}], ["two", "2", "2"]),
        ({"answer": ["two", "three"], "answer_id": 1}, ["two", "three"]),
    ],
)
def test_shapes_of_texts(value, texts):
    assert as_texts(value, "answers", "answer") == texts


@pytest.mark.parametrize(
    "value", [True, {"caption": "x"}, [["x"]], [{}], {"answer": {"en": "x"}}, "\ud83d", ["\ude00 x"]]
)
def test_other_shapes_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^answers (is|holds)"):
        as_texts(value, "answers", "answer")


def test_json_is_read_or_refused(tmp_path):
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    for wrong in (b"{", b"[" * 100_000, b"", b"\xff"):
        with pytest.raises(ValueError, match="is not"):
            parse_json(wrong)
    (tmp_path / "x.json").write_bytes("\ufeff[1]".encode())
    assert read_json_file(tmp_path / "x.json") == [1]
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        read_json_file(tmp_path / "x.json")


def test_file_names_that_are_no_text_survive_json():
    name = os.fsdecode(b"caf\xe9.png")
    assert to_json({"file": "café"}) == '{"file": "café"}'
    assert os.fsencode(json.loads(to_json({"file": name}).encode())["file"]) == b"caf\xe9.png"
