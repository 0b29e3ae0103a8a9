"""Files of other data sets as people store them: byte order marks, macOS leftovers, names that are no text."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics.geneval import read_metadata
from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.prompts import read_prompts
from ddt_lightning.shards.read import read_shard
from tests.foreign import encoded, picture
from tests.shards.test_conversations import script
from tests.tiny import tiny_model

MARK = "\ufeff"
TALK = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a shape"}]


@pytest.fixture
def photos(tmp_path):
    """`a.png`, and what macOS lays beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(picture()))
    (folder / "._a.png").write_bytes(b"\0\5\26\7" * 9)
    return folder


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_llava_with_a_byte_order_mark(photos, tmp_path, encoding):
    entry = {"image": "a.png", "conversations": TALK}
    for name, text in {"x.json": json.dumps([entry]), "x.jsonl": f"{json.dumps(entry)}\n{{\n"}.items():
        (tmp_path / name).write_text(text, encoding=encoding)
        done = script("llava.py", tmp_path / name, "--images", photos, "--out", tmp_path / f"{name}-chats")
        assert done.returncode == 0 and "1 conversations" in done.stdout, done.stderr
        assert ("x.jsonl:1" in done.stderr and "is not JSON" in done.stderr) == (name == "x.jsonl")


def test_lines_of_chats_with_a_byte_order_mark(photos, tmp_path, capsys):
    turns = [
        {"role": "user", "content": ["what?\u2028really?", {"image": "a.png"}]},
        {"role": "assistant", "content": ["a"]},
    ]
    (tmp_path / "x.jsonl").write_text(MARK + json.dumps({"turns": turns}, ensure_ascii=False) + "\r\n", "utf-8")
    main(["data", "chat", str(tmp_path / "x.jsonl"), "--images", str(photos), "--out", str(tmp_path / "out")])
    assert "1 conversations" in capsys.readouterr().out
    (tmp_path / "x.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(SystemExit):
        main(["data", "chat", str(tmp_path / "x.jsonl"), "--images", str(photos), "--out", str(tmp_path / "no")])
    assert "x.jsonl is not UTF-8 text" in capsys.readouterr().err


def test_vqa_v2_answers_that_are_numbers(photos, tmp_path):
    asked = {"questions": [{"image_id": 1, "question_id": 1, "question": "how many?"}]}
    given = {"question_id": 1, "multiple_choice_answer": 2, "answers": [{"answer": 2}, {"answer": "two"}]}
    (photos / "1.png").write_bytes(encoded(picture()))
    (tmp_path / "q.json").write_text(MARK + json.dumps(asked), "utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [given]}))
    call = [tmp_path / "q.json", tmp_path / "a.json", "--images", photos, "--pattern", "{}.png"]
    done = script("vqav2.py", *call, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (sample,) = read_images([f"{tmp_path}/out/*.tar"])
    assert [(one["answer"], one["answers"]) for one in sample.questions] == [("2", ["2", "two"])]


def test_imagenet_made_on_a_mac(photos, tmp_path):
    for name in ("n01", "n02"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for file in photos.iterdir():
            (tmp_path / "train" / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "train" / "n01" / "folder.png").mkdir()
    (tmp_path / "classes.json").write_text(MARK + '{"n01": "tench"}', "utf-8")
    call = [tmp_path / "train", "--out", tmp_path / "out", "--classes", tmp_path / "classes.json"]
    done = script("imagenet.py", *call)
    assert "2 images of 2 classes" in done.stdout, done.stderr
    found = [record for path in (tmp_path / "out").glob("*.tar") for record in read_shard(str(path), {})]
    assert sorted(record["txt"] for record in found) == [b"n02", b"tench"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), side=16)


def test_folders_of_pictures_and_names_that_are_no_text(photos, tmp_path, model, capsys):
    with open(os.fsencode(photos) + b"/caf\xe9.png", "wb") as file:
        file.write(encoded(picture(1)))
    call = ["reconstruct", str(photos), "--model", str(model), "--out", str(tmp_path / "out"), "--steps", "1"]
    main(call)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text("utf-8").splitlines()]
    assert [os.fsencode(row["source"]).rpartition(b"/")[2] for row in rows] == [b"a.png", b"caf\xe9.png"]
    main(["describe", str(photos), "--model", str(model), "--max_new_tokens", "2"])
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [np.asarray(Image.open(os.fsencode(json.loads(line)["image"]))).shape for line in lines] == [(16, 16, 3)] * 2


def test_a_picture_that_cannot_be_read_is_named_and_nothing_is_left(photos, tmp_path, model, capsys):
    (photos / "b.png").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(SystemExit) as stop:
        main(["reconstruct", str(photos), "--model", str(model), "--out", str(tmp_path / "out"), "--steps", "1"])
    assert stop.value.code == 1 and "b.png is not a readable image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_to_practise_on_and_geneval_with_a_byte_order_mark(tmp_path):
    entry = {"tag": "single_object", "prompt": "a red\u2028ring", "include": [{"class": "ring", "count": 1}]}
    path = tmp_path / "x.jsonl"
    path.write_text(f"{MARK}{json.dumps(entry, ensure_ascii=False)}\r\n\r\n", "utf-8")
    assert read_metadata(str(path)) == read_prompts(str(path), "data.prompts") == [entry]
    for line in ('{"prompt": null}', '{"prompt": " "}', "{"):
        path.write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=r"line 2 is no"):
            read_prompts(str(path), "data.prompts")
        with pytest.raises(ValueError, match=r"x\.jsonl, line 2 is not GenEval metadata"):
            read_metadata(str(path))
