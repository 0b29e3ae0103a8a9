"""Captions, questions and answers in the shapes of other data sets."""

import pytest

from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.read import Columns
from ddt_lightning.shards.texts import captions, questions
from tests.foreign import js, write

KITE, AIR = "a red kite", "a kite in the air"


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("caption_text", (KITE,)),
        ("caption_list", (KITE, AIR)),
        ("captions_text", (KITE,)),
        ("captions_coco", (KITE,)),
        ("captions_null", (KITE,)),
        ("json_list", (KITE, AIR)),
        ("json_mark", (KITE,)),
        ("text_mark", (KITE,)),
        ("text_utf16", (KITE,)),
        ("text_empty", ()),
        ("half_emoji_elsewhere", (KITE,)),
    ],
)
def test_captions_of_shards(name, texts, tmp_path):
    problems = {}
    found = list(read_images([str(write(tmp_path, name))], problems=problems))
    assert problems == {} and [sample.texts for sample in found] == [texts] * 4


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ([{"caption": KITE, "id": 3}, {"caption": AIR}], [KITE, AIR]),
        (KITE, [KITE]),
        ({"caption": 7}, ["7"]),
        ({"caption": KITE, "captions": [AIR, KITE]}, [KITE, AIR]),
        ([{"bbox": [1, 2]}], []),
        ([1, 2], []),
        ({"url": "x"}, []),
        (7, []),
    ],
)
def test_captions_of_a_json(data, texts):
    assert captions({"json": js(data)}, Columns()) == texts


@pytest.mark.parametrize("value", [{"en": KITE}, [[KITE]], True, [{"text": KITE}], [KITE, False]])
def test_captions_of_another_shape_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"json captions? is .*: give a text or a list of texts"):
        captions({"json": js({"captions": value})}, Columns())


def test_columns_name_what_is_missing():
    record = {"txt": b"x", "json": js({"title": ["one", "two"]})}
    assert captions(record, Columns(text="json.title")) == ["one", "two"]
    with pytest.raises(ValueError, match=r"has no note\.txt, which `columns\.text` names"):
        captions(record, Columns(text="note.txt"))
    with pytest.raises(ValueError, match=r"json has no name, which `columns\.text` names"):
        captions(record, Columns(text="json.name"))


@pytest.mark.parametrize(
    ("name", "answer", "answers"),
    [
        ("answer_number", "2", ["2"]),
        ("answers_text", "yellow", ["yellow"]),
        ("answers_numbers", "2", ["2", "2", "3"]),
        ("answers_vqa", "two", ["two"] * 3),
    ],
)
def test_answers_of_shards(name, answer, answers, tmp_path):
    problems = {}
    found = list(read_images([str(write(tmp_path, name))], problems=problems))
    assert problems == {} and len(found) == 4
    for sample in found:
        assert [(entry["answer"], entry["answers"]) for entry in sample.questions] == [(answer, answers)]


def test_answers_that_are_given_come_before_the_most_frequent():
    entry = {"question": "x?", "multiple_choice_answer": "two", "answers": [{"answer": "3"}, {"answer": "3"}]}
    (found,) = questions([entry, {"caption": "no question"}][:1], Columns())
    assert (found["answer"], found["answers"]) == ("two", ["3", "3"])
    (found,) = questions({"vqa": {"question": " x? ", "answer": 0}}, Columns())
    assert (found["question"], found["answer"]) == ("x?", "0")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question": "x?", "answers": []}, r'json question "x\?" has no answer'),
        ({"question": "x?", "answer": True}, r"json answer is true"),
        ({"question": "x?", "answers": [{"text": "y"}]}, r"json answers is"),
        ({"question": ["x?"], "answer": "y"}, r"json question is .*: give one text"),
        ({"question": None, "answer": "y"}, r"json question is null: give one text"),
        ({"vqa": "yes"}, r'json vqa is "yes": give a list of questions'),
        ({"vqa": [{"question": "x?"}]}, r"json vqa question .* has no answer"),
    ],
)
def test_questions_of_another_shape_are_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=message):
        questions(entry, Columns())
