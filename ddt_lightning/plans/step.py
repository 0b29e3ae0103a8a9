"""One step of a plan: its command lines, its fingerprint, and the record of what was done.

A fingerprint covers the code that a command runs: the modules behind its stage or verb and everything of the package
that they import, found in their sources, so that no list has to be kept by hand.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ddt_lightning import cli
from ddt_lightning.settings import shipped

PACKAGE = Path(__file__).parents[1]
CLI = "ddt_lightning.cli"  # the module behind `ddt`
CLASS_PATH = re.compile(r"class_path: (ddt_lightning\.[\w.]+)")
LIBRARIES = ("torch", "lightning", "transformers", "diffusers", "webdataset")
STEPS = "steps"  # the folder of records


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Args:
        name: of its record and log.
        about: what a person reads while it runs.
        commands: command lines: Python module and arguments.
        seconds: expected duration.
        folder: what is removed before the step starts with another fingerprint.
    """

    name: str
    about: str
    commands: list[list[str]]
    seconds: float
    folder: Path


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of the package that a module's source imports, anywhere in the file."""
    tree, found = ast.parse(source_of(module).read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.split(".")[0] == PACKAGE.name and is_module(name))


def is_module(name: str) -> bool:
    """Whether a dotted name of the package is a module, rather than something inside one."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def source_of(module: str) -> Path:
    """The source file of a module of the package.

    Raises:
        FileNotFoundError: there is none, so that a fingerprint cannot quietly leave it out.
    """
    path = PACKAGE.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] == PACKAGE.name and file.is_file():
            return file
    raise FileNotFoundError(f"{module} is not a module of {PACKAGE}: its code cannot be part of a fingerprint.")


def closure(modules: Iterable[str]) -> list[str]:
    """Modules of the package with everything of it that they import, directly or through others; sorted."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports_of(module)
    return sorted(found)


@functools.cache
def code_of(module: str) -> str:
    """What a module's source does, as text: comments, docstrings and layout do not count."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not is_text(one)] or [ast.Pass()]
    return ast.dump(tree)


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_mark(modules: Iterable[str]) -> str:
    """Hash of what some modules do and of everything they import, with the data files that lie beside them.

    Raises:
        FileNotFoundError: a module does not exist.
    """
    digest = hashlib.blake2b(digest_size=8)
    every = closure(modules)
    for module in every:
        digest.update(f"{module}\n{code_of(module)}\n".encode())
    for folder in sorted({source_of(module).parent for module in every} - {PACKAGE}):
        for file in sorted(file for file in folder.iterdir() if file.is_file() and file.suffix != ".py"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def modules_of(command: list[str]) -> set[str]:
    """The modules that a command line runs: those of its stage or verb, and the classes that its YAML files name.

    Raises:
        FileNotFoundError: a YAML file does not exist.
    """
    if command[:1] != [CLI]:
        return set()
    _, *words = command
    verb = words[0] if words[0] in cli.VERBS else " ".join(words[:2])
    targets = cli.STAGES[words[1]] if words[0] == "fit" else (f"{PACKAGE.name}.{cli.VERBS[verb]}",)
    named = {target.split(":")[0] for target in targets}
    for file in yaml_files(command):
        named |= {path.rpartition(".")[0] for path in CLASS_PATH.findall(file.read_text(encoding="utf-8"))}
    return named


def yaml_files(command: list[str]) -> list[Path]:
    """The YAML files that a command line reads.

    Raises:
        FileNotFoundError: one does not exist.
    """
    files = [Path(shipped(word)) for word in command if word.endswith(".yaml")]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]} does not exist; `{' '.join(command)}` reads it.")
    return files


def fingerprint(step: Step, before: str) -> str:
    """What a step's result depends on: its commands and their YAML, its code, the libraries, and the steps before.

    Raises:
        FileNotFoundError: a YAML file of a command does not exist.
    """
    modules, texts = set(), []
    for command in step.commands:
        modules |= modules_of(command)
        texts += [file.read_text(encoding="utf-8") for file in yaml_files(command)]
    words = [word for command in step.commands for word in command]
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    parts = [step.name, before, *words, *versions, code_mark(modules), *texts]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


class Record:
    """What is known of a step on disk: its fingerprint, the seconds spent on it, and whether it is done."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / STEPS / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fingerprint: str = known.get("fingerprint", "")
        self.seconds: float = known.get("seconds", 0.0)
        self.done: bool = known.get("done", False)

    def write(self) -> None:
        """Save, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({k: v for k, v in vars(self).items() if k != "path"}) + "\n")
        os.replace(temporary, self.path)


def open_record(folder: Path, step: Step, mark: str) -> Record:
    """The record of a step whose fingerprint is now `mark`.

    What another fingerprint left is removed first; where the step's folder is gone, the step is not done.
    """
    record = Record(folder, step.name)
    if record.fingerprint != mark:
        remove = shutil.rmtree if step.folder.is_dir() else Path.unlink
        if step.folder.exists():
            remove(step.folder)
        record.fingerprint, record.seconds, record.done = mark, 0.0, False
    record.done = record.done and step.folder.exists()
    return record
