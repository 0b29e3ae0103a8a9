"""Captions, questions and answers of a raw sample, in every shape that the usual data sets have.

A caption is `KEY.txt`, or the json's `caption` or `captions`: a text, a list, or COCO's `[{"caption": ...}]`; a json
may also be such a list itself. A question has its answer as `answer`, its answers as `answers` (texts, numbers, or
VQA v2's `[{"answer": ...}]`), or VQA v2's `multiple_choice_answer`. A text of another shape refuses its sample.
"""

from collections import Counter
from typing import Any

from ddt_lightning.shards.members import Record
from ddt_lightning.shards.read import Columns
from ddt_lightning.texts import as_texts, clean, decode_text, parse_json, shown


def read_json(record: Record) -> Any:  # noqa: ANN401 - json holds anything
    """The json member, or None.

    Raises:
        ValueError: it is no JSON.
    """
    if "json" not in record:
        return None
    try:
        return parse_json(record["json"])
    except ValueError as error:
        raise ValueError(f"json {error}") from None


def read_member(record: Record, member: str) -> list[str]:
    """The text of a member, in a list that is empty where it holds nothing.

    Raises:
        ValueError: there is no such member, or it is no text.
    """
    if member not in record:
        raise ValueError(f"has no {member}, which `columns.text` names")
    try:
        text = clean(decode_text(record[member]))
    except ValueError as error:
        raise ValueError(f"{member} {error}") from None
    return [text] if text else []


def captions(record: Record, columns: Columns, data: object = None) -> list[str]:
    """The texts that describe a sample, the first one the best: `txt`, then `caption` and `captions` of the json.

    Args:
        record: a raw sample.
        columns: the layout.
        data: the sample's json, where it is known already.

    Raises:
        ValueError: a text of a shape that is none.
    """
    if columns.text and not columns.text.startswith("json."):
        return read_member(record, columns.text)
    data = read_json(record) if data is None else data
    fields = data if isinstance(data, dict) else {}
    if columns.text:
        field = columns.text.removeprefix("json.")
        if field not in fields:
            raise ValueError(f"json has no {field}, which `columns.text` names")
        return as_texts(fields[field], f"json {field}", "caption")
    texts = read_member(record, "txt") if "txt" in record else []
    for field in ("caption", "captions"):
        texts += as_texts(fields.get(field), f"json {field}", "caption")
    if isinstance(data, str) or (isinstance(data, list) and any(map(is_caption, data))):
        texts += as_texts(data, "json", "caption")
    return list(dict.fromkeys(texts))


def is_caption(entry: object) -> bool:
    """Whether an entry of a json list is a caption rather than a question or something foreign."""
    return isinstance(entry, str) or (isinstance(entry, dict) and "caption" in entry and "question" not in entry)


def questions(data: object, columns: Columns) -> list[dict[str, Any]]:
    """Questions of a sample's json: itself, a list, or the list in its `columns.questions` field.

    Returns:
        The entries, with `question` as a text, `answers` as a list of texts and `answer`, the best of them: the one
        that is given, or the most frequent.

    Raises:
        ValueError: a question or an answer of a shape that is none, or a question without an answer.
    """
    where = "json"
    if isinstance(data, dict) and columns.questions in data:
        data, where = data[columns.questions], f"json {columns.questions}"
        if not isinstance(data, list | dict | None):
            raise ValueError(f"{where} is {shown(data)}: give a list of questions with their answers")
    if isinstance(data, dict):
        data = [data]
    entries = data if isinstance(data, list) else []
    return [answered(entry, where) for entry in entries if isinstance(entry, dict) and "question" in entry]


def answered(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """One question with its answers.

    Raises:
        ValueError: as `questions`.
    """
    asked = as_texts(entry["question"], f"{where} question", "question")
    if len(asked) != 1 or isinstance(entry["question"], list):
        raise ValueError(f"{where} question is {shown(entry['question'])}: give one text")
    best = [
        text
        for field in ("answer", "multiple_choice_answer")
        for text in as_texts(entry.get(field), f"{where} {field}", "answer")
    ]
    answers = as_texts(entry.get("answers"), f"{where} answers", "answer") or best
    if not answers:
        raise ValueError(f"{where} question {shown(asked[0])} has no answer")
    best = best or [text for text, _ in Counter(answers).most_common(1)]
    return {**entry, "question": asked[0], "answer": best[0], "answers": answers}
