"""Text files, JSON and single texts as people store them: read in one way everywhere, or refused by name.

UTF-8 with or without a byte order mark, and UTF-16 or UTF-32 with one. Lines end as on Unix, Windows or old Macs; other
separators, such as U+2028 inside a JSON string, are part of a line.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins with the mark of UTF-16, so it is looked for before that
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SHOWN = 60  # characters of a wrong value that an error shows


def decode_text(data: bytes) -> str:
    """The text of some bytes, without a byte order mark.

    Raises:
        ValueError: they are in another encoding than those that the module names, or no text.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{error.object[error.start]:02x} at {error.start + len(mark)}" if error.object else "no bytes"
        raise ValueError(f"is not {encoding.upper()} text ({wrong}): save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("holds zero bytes, so it is no text, or UTF-16 without a byte order mark: save it as UTF-8")
    return text.removeprefix("\ufeff")


def clean(text: str) -> str:
    """A text without a byte order mark and outer white space.

    Raises:
        ValueError: it holds half of a surrogate pair, which no file can store.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character (\\u{ord(text[error.start]):04x}): repair the text") from None
    return text.removeprefix("\ufeff").strip()


def as_texts(value: object, where: str, field: str) -> list[str]:
    """The texts that a JSON value stands for, cleaned, without empty ones.

    Args:
        value: a text, a number, null, an object that holds them under `field`, or a list of these.
        where: name of the value, for errors.
        field: key of a text in an object, e.g. `caption` as in COCO or `answer` as in VQA v2.

    Raises:
        ValueError: naming a value of another shape.
    """
    if value is None:
        return []
    if isinstance(value, str):
        try:
            text = clean(value)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        return [text] if text else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, dict) and field in value and not isinstance(value[field], dict):
        return as_texts(value[field], where, field)
    if isinstance(value, list) and not any(isinstance(entry, list) for entry in value):
        return [text for entry in value for text in as_texts(entry, where, field)]
    raise ValueError(f"{where} is {shown(value)}: give a text or a list of texts")


def shown(value: object) -> str:
    """A JSON value as an error shows it: on one line and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - json holds anything
    """The value of a JSON text; bytes are decoded as `decode_text` does.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(decode_text(text) if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("is not JSON that can be read: it is nested too deeply") from None


def to_json(value: object) -> str:
    """A value as JSON on one line, characters as they are.

    Where a text holds half characters, which stand for the bytes of a file name that is not UTF-8, all others are
    escaped, too: read again, the name opens the same file.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        ValueError: naming the file, where it is no text.
    """
    try:
        return decode_text(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from None


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def read_json_file(path: str | Path) -> Any:  # noqa: ANN401 - json holds anything
    """The value of a JSON file.

    Raises:
        ValueError: naming the file, where it is no JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from None
