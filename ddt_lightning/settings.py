"""Settings: YAML files merged in order, and lists and mappings as words on the command line."""

import json
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPTION = re.compile(r"--?[A-Za-z]")  # the start of an option; -1 is a value


PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[1])
"""Folders that may hold `stages/` and `data/`: the installed package, and a checkout."""


def own_file(path: str) -> Path | None:
    """The project's own `stages/...` or `data/...`, whatever the working directory; None where it has none."""
    return next((place / path for place in PLACES if (place / path).exists()), None)


def shipped(path: str) -> str:
    """`stages/...` or `data/...` as given if it exists, otherwise the project's own."""
    if Path(path).exists() or not path.startswith(("stages/", "data/")):
        return path
    return str(own_file(path) or path)


def read_yaml(paths: list[str]) -> dict[str, Any]:
    """YAML files merged in order, as `ddt-fit` does.

    Raises:
        FileNotFoundError: one does not exist.
        ValueError: one is not YAML of plain values, or not a mapping.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        file = Path(shipped(path))
        if not file.is_file():
            raise FileNotFoundError(f"`--config` ({path}) does not exist.")
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"`--config` ({path}) is not plain YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ValueError(f"`--config` ({path}) is not a mapping of options.")
        merge(merged, values)
    return merged


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Put values into a nested dict; later ones win, lists as a whole."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def find_shipped(words: list[str]) -> list[str]:
    """A command line whose `--config` files are found as by `shipped`."""
    before = ["", *words]
    found = [shipped(word) if last in ("--config", "-c") else word for last, word in zip(before, words, strict=False)]
    return [f"--config={shipped(word[9:])}" if word.startswith("--config=") else word for word in found]


def join_words(parser: "ArgumentParser", words: list[str]) -> list[str]:
    """A command line whose lists and mappings are given as words, as the parser reads them.

    `--tokens 16 32` becomes `--tokens=[16,32]`, `--sets a=X b=Y` becomes `--sets={"a": "X", "b": "Y"}`. A single value
    in brackets or braces and `null` are left as they are. Of an option that is given twice the parser takes the last
    list; the files of `--config` add up, as those of `ddt-fit` do.

    Args:
        parser: its options say which take a list or a mapping, and of what.
        words: the command line.
    """
    kinds = {name: action._typehint for action in parser._actions if hasattr(action, "_typehint")
             for name in action.option_strings}  # fmt: skip
    joined, rest, files = [], list(words), list[str]()
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        kind = only_container(kinds.get(name))
        if kind is None:
            joined.append(name + equals + value)
            continue
        values = [value] if equals else []
        while rest and not equals and not OPTION.match(rest[0]):
            values.append(rest.pop(0))
        if name == "--config" and values:
            files += (yaml.safe_load(values[0]) or []) if is_literal(values) else values
            continue
        joined += [name, *values] if is_literal(values) else [f"{name}={container_text(kind, values)}"]
    return [*joined, f"--config={json.dumps(files)}"] if files else joined


def only_container(hint: Any) -> Any:  # noqa: ANN401 - a type hint is any object
    """The list or mapping type of an option that takes nothing else but null; None for other options."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    members = tuple(member for member in members if member is not NoneType)
    return members[0] if len(members) == 1 and get_origin(members[0]) in (list, dict) else None


def is_literal(values: list[str]) -> bool:
    """Test of the values of an option: true for what a parser reads as it is, nothing, null, one list or mapping."""
    first = values[0] if len(values) == 1 else ""
    whole = (first[:1], first[-1:]) in (("[", "]"), ("{", "}"))
    return not values or first == "null" or whole


def container_text(kind: Any, values: list[str]) -> str:  # noqa: ANN401 - a type hint is any object
    """Words as one list or mapping in JSON; numbers stay numbers."""
    if get_origin(kind) is dict:
        parts = [value.partition("=") for value in values]
        return json.dumps({name: value if equals else None for name, equals, value in parts})
    return json.dumps(values) if get_args(kind) == (str,) else f"[{','.join(values)}]"
