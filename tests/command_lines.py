"""Plans of command lines: every one is parsed as the program it starts would."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ddt_lightning import cli
from ddt_lightning.plans.step import Step
from ddt_lightning.training.run import StageCLI


def parse_plan(steps: Sequence[Step], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What each stage's command line says, by step; verbs are parsed and their settings dropped.

    The files that a step writes are written to a folder of their own, and read there. Runs that happen to lie in the
    plan's folder are left alone.
    """
    for method in ("before_instantiate_classes", "instantiate_classes"):
        monkeypatch.setattr(StageCLI, method, lambda self: None)
    configs = {}
    with tempfile.TemporaryDirectory() as place:
        for step in steps:
            written = {path: f"{place}/{number}-{Path(path).name}" for number, path in enumerate(step.files)}
            for path, text in step.files.items():
                Path(written[path]).write_text(text)
            for module, *words in step.commands:
                assert module == "ddt_lightning.cli"
                words = [written.get(word, word) for word in words]
                if words[0] == "fit":
                    stage, *args = words[1:]
                    cls, data = (cli.locate(target) for target in cli.STAGES[stage])
                    configs[step.name] = StageCLI(cls, data, args=args, stage=stage).config
                    assert configs[step.name].run_dir == str(step.folder)
                else:
                    verb, rest = cli.split_verb(words)
                    cli.parse(verb, cli.load(verb), rest)
    return configs


def parsed(verb: str, *words: str) -> dict[str, Any]:
    """The settings of a `ddt` command line."""
    return cli.parse(verb, cli.load(verb), list(words))
