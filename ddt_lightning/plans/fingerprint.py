"""Fingerprints: hashes of everything that the result of a step depends on.

A fingerprint covers the code that a command runs: the modules behind its stage or verb and everything of the package
that they import, found in their sources, so that no list has to be kept by hand.
"""

import ast
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ddt_lightning import cli
from ddt_lightning.plans.step import Chain, Step
from ddt_lightning.settings import shipped

PACKAGE = Path(__file__).parents[1]
CLI = "ddt_lightning.cli"  # the module behind `ddt`
CLASS_PATH = re.compile(r"class_path: (ddt_lightning\.[\w.]+)")
LIBRARIES = ("torch", "lightning", "transformers", "diffusers", "webdataset")


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
    """Code of a module as text: comments, docstrings and layout do not count."""
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


def modules_of(command: Sequence[str], written: Mapping[str, str] | None = None) -> set[str]:
    """The modules that a command line runs: those of its stage or verb, and the classes that its YAML files name.

    Args:
        command: Python module and arguments.
        written: {path: text} of files that will be there when it runs.

    Raises:
        FileNotFoundError: a YAML file does not exist.
    """
    if command[0] != CLI:
        return set()
    _, *words = command
    verb = words[0] if words[0] in cli.VERBS else " ".join(words[:2])
    targets = cli.STAGES[words[1]] if words[0] == "fit" else (f"{PACKAGE.name}.{cli.VERBS[verb]}",)
    named = {target.split(":")[0] for target in targets}
    for text in yaml_texts(command, written or {}):
        named |= {path.rpartition(".")[0] for path in CLASS_PATH.findall(text)}
    return named


def yaml_texts(command: Sequence[str], written: Mapping[str, str]) -> list[str]:
    """The texts of the YAML files that a command line reads.

    Args:
        command: Python module and arguments.
        written: {path: text} of files that will be there when it runs.

    Raises:
        FileNotFoundError: one does not exist.
    """
    found = []
    for word in (word for word in command if word.endswith(".yaml")):
        file = Path(shipped(word))
        if word not in written and not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; `{' '.join(command)}` reads it.")
        found.append(written[word] if word in written else file.read_text(encoding="utf-8"))
    return found


def own_modules(function: Callable[..., object] | None) -> list[str]:
    """The module of a function, or of the function inside a `functools.partial`, where it is one of the package."""
    module = getattr(getattr(function, "func", function), "__module__", None) or ""
    return [module] if module.startswith(f"{PACKAGE.name}.") else []


def fingerprint(step: Step, before: str) -> str:
    """Hash of what a step's result depends on: commands, files, inputs, code, libraries, and the steps before.

    Raises:
        FileNotFoundError: a YAML file of a command does not exist.
    """
    modules, texts = set(own_modules(step.before)), list(step.files.values())
    for command in step.commands:
        modules |= modules_of(command, step.files)
        texts += [text for text in yaml_texts(command, step.files) if text not in texts]
    words = [word for command in step.commands for word in command]
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    parts = [step.name, before, step.inputs, *words, *versions, code_mark(modules), *texts]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def fingerprints(chain: Chain) -> list[str]:
    """The fingerprint of each step of a chain, which covers the steps before it.

    Raises:
        FileNotFoundError: a YAML file of a command does not exist.
    """
    found = [""]
    for step in chain.steps:
        found.append(fingerprint(step, found[-1]))
    return found[1:]


def inputs_mark(patterns: Sequence[str], option: str) -> str:
    """Hash of the shards that a result is made from: their names, sizes, and the `tokens.json` beside them.

    Raises:
        FileNotFoundError: a pattern matches nothing; the message names `option`.
    """
    from ddt_lightning.shards.read import expand  # which imports torch

    digest = hashlib.blake2b(digest_size=8)
    urls = expand(list(patterns), option)
    for url in urls:
        digest.update(f"{url} {Path(url).stat().st_size if Path(url).is_file() else 'remote'}\n".encode())
    for folder in dict.fromkeys(Path(url).parent for url in urls):
        if (folder / "tokens.json").is_file():
            digest.update((folder / "tokens.json").read_bytes())
    return digest.hexdigest()


def weights_mark(folder: Path) -> str:
    """Place, size and time of the weights that a result is made with."""
    weights = folder / "model.safetensors"
    facts = weights.stat()
    return f"{weights} {facts.st_size} {facts.st_mtime_ns}"
