"""Plans of command lines: every one is parsed as the program it starts would."""

import pytest

from ddt_lightning import cli
from ddt_lightning.plans.step import Step
from ddt_lightning.training.run import StageCLI


def parse_plan(steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What each stage's command line says, by step; verbs are parsed and their settings dropped."""
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda self: None)
    configs = {}
    for step in steps:
        for module, *words in step.commands:
            assert module == "ddt_lightning.cli"
            if words[0] == "fit":
                stage, *args = words[1:]
                cls, data = (cli.locate(target) for target in cli.STAGES[stage])
                configs[step.name] = StageCLI(cls, data, args=args, stage=stage).config
                assert configs[step.name].run_dir == str(step.folder)
            else:
                verb, rest = cli.split_verb(words)
                cli.parse(verb, cli.load(verb), rest)
    return configs
