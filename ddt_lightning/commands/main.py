"""`ddt VERB ...`: a table of functions, each turned into a command by its signature and docstring.

In: the command line. Out: what the verb writes; exit code 0 when it did its job, 1 for bad input or a failure (one line
on stderr, the traceback with ``DDT_DEBUG=1``), 2 for a command line that does not parse.

A parameter without a default is an argument by position, unless it is keyword-only or called `out`; everything else is
an option, and so is every field of a parameter that is a dataclass. A list of texts without a default takes several
words, by position or as an option. Only the module of the chosen verb is imported, and these modules import torch
inside their functions, so that every ``--help`` is quick.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser

PACKAGE = "ddt_lightning.commands"
VERBS: dict[str, str] = {
    "data scenes": "data:scenes",
    "data chat": "data:chat",
    "data check": "data:check",
    "data stats": "data:stats",
    "data words": "words:words",
    "encode": "encode:encode",
    "decode": "encode:decode",
    "generate": "draw:generate",
    "edit": "draw:edit",
    "describe": "draw:describe",
    "chat": "chat:chat",
    "reconstruct": "draw:reconstruct",
    "eval all": "evaluate:everything",
    "eval reconstruction": "evaluate:reconstruction",
    "eval t2i": "evaluate:t2i",
    "eval edit": "evaluate_edit:edit",
    "eval vqa": "evaluate_text:vqa",
    "eval caption": "evaluate_text:caption",
    "eval geneval": "evaluate_geneval:geneval",
    "eval prompts": "evaluate_prompts:prompts",
    "eval distribution": "evaluate_distribution:distribution",
    "eval tokens": "likelihood:tokens",
    "study schedule": "study:schedule",
    "study progressive": "tokenstudy:progressive",
    "study interpolate": "tokenstudy:interpolate",
    "study encoder": "study:encoder",
    "study order": "lmstudy:order",
    "study scaling": "lmstudy:scaling",
    "study text": "lmstudy:text",
    "study against": "lmstudy:against",
    "study classes": "lmstudy:classes",
    "export": "release:export",
    "import": "release:import_lm",
    "import-selftok": "convert:import_selftok",
    "report": "report:report",
    "doctor": "doctor:doctor",
}


def main(args: list[str] | None = None) -> None:
    """Run one verb and end the process with exit code 1 or 2 where it cannot be done.

    Args:
        args: the words after ``ddt``; None reads them from the command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    verb, rest = split_verb(words)
    try:
        function = load(verb)
        settings = parse(verb, function, rest)
        function(**settings)
    except KeyboardInterrupt:
        fail(f"ddt {verb}: interrupted", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output left: nothing to say
    except Exception as error:
        if os.environ.get("DDT_DEBUG") == "1":
            raise
        fail(f"ddt {verb}: {one_line(error)}", code=1)


def split_verb(words: list[str]) -> tuple[str, list[str]]:
    """The verb at the start of `words` and what follows it; prints help or an error where there is no whole verb."""
    if words and words[0] in VERBS:
        return words[0], words[1:]
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), words[2:]
    group = words[0] if words and any(verb.startswith(f"{words[0]} ") for verb in VERBS) else ""
    asked = words[1:2] if group else words[:1]
    if asked and asked[0] in ("-h", "--help"):
        sys.stdout.write(overview(group))
        sys.exit(0)
    if asked and asked[0] == "--version" and not group:
        sys.stdout.write(f"ddt {importlib.import_module('ddt_lightning').__version__}\n")
        sys.exit(0)
    sys.stderr.write(overview(group))
    if asked:
        fail(f"ddt: `{' '.join([*([group] if group else []), *asked])}` is not a verb; the verbs are above.", code=2)
    fail("ddt: name a verb; the verbs are above.", code=2)


def overview(group: str = "") -> str:
    """The help text that lists all verbs, or the verbs of one group, each with the first line of its docstring."""
    chosen = [verb for verb in VERBS if not group or verb.startswith(f"{group} ")]
    lines = [f"usage: ddt {group + ' ' if group else ''}VERB [options]    (ddt VERB --help for its options)", ""]
    for verb in chosen:
        summary = (inspect.getdoc(load(verb)) or "").splitlines()[0]
        lines.append(f"  {verb:<20} {summary}")
    lines += [
        "",
        "DDT_DEBUG=1 shows the traceback of an error. Training is `ddt-fit STAGE --config stages/STAGE.yaml`.",
        "",
    ]
    return "\n".join(lines)


def load(verb: str) -> Callable[..., None]:
    """Import the function of one verb and of no other."""
    module, name = VERBS[verb].split(":")
    function: Callable[..., None] = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    return function


def parse(verb: str, function: Callable[..., None], words: list[str]) -> dict[str, Any]:
    """Read `words` by the signature of `function`; exits with code 2 on anything it does not accept."""
    documentation = inspect.getdoc(function) or ""
    parser = ArgumentParser(prog=f"ddt {verb}", description=documentation.split("\n\nArgs:")[0])
    parameters = inspect.signature(function).parameters
    spread: dict[str, Any] = {name: p.annotation for name, p in parameters.items() if is_dataclass(p.annotation)}
    positional: set[str | int] = {
        name
        for name, p in parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty and name != "out"
    }
    options = {name for name in parameters if name not in positional}
    several = [name for name, p in parameters.items() if name in positional and p.annotation == list[str]]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*options, *several})
    described = {entry.arg_name: entry.description for entry in docstring_parser.parse(documentation).params}
    for name in several:
        parser.add_argument(name, nargs="+", type=str, help=described.get(name))
    needed = {name for name, p in parameters.items() if p.default is p.empty}
    lists = [name for name in parameters if name in needed & options and parameters[name].annotation == list[str]]
    for name in lists:
        parser.add_argument(f"--{name}", nargs="+", type=str, required=True, help=described.get(name))
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={*positional, *lists, *spread})
    for shared in spread.values():
        parser.add_class_arguments(shared, as_group=False)
    found = parser.parse_args(words)
    settings = {name: getattr(found, name) for name in parameters if name not in spread}
    for name, shared in spread.items():
        settings[name] = shared(**{field.name: getattr(found, field.name) for field in fields(shared)})
    return settings


def one_line(error: Exception) -> str:
    """The message of an error on one line; errors that are not about the user's input also show their type."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    elif not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text} (DDT_DEBUG=1 shows where)"
    return text


def fail(message: str, code: int) -> NoReturn:
    """Say one line on stderr and leave."""
    sys.stderr.write(message + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
