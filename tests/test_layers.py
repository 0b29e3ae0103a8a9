"""The import rule of the package: the tree is the flow, and no arrow knows another."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ddt_lightning"
CORE = {
    "vocab", "seeding", "latents", "tokens", "spatial", "load_tokenizer", "lm", "scenes", "emoji", "shards", "metrics",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    # ground: helpers of files, processes and settings that know nothing of images or tokens
    "__init__": set(),
    "atomic": set(),
    "settings": set(),
    "pretrained": {"settings"},
    "model_folder": {"pretrained"},
    "seeding": set(),
    "distributed": set(),
    "workers": set(),
    "images": set(),
    "judges": set(),
    "texts": set(),
    "prompts": {"texts"},
    "results": {"atomic", "images", "texts"},
    "terminal": {"images"},
    "sampling": set(),
    # core: each arrow of the flow, and what measures it
    "vocab": {"atomic"},
    "scenes": set(),
    "emoji": {"scenes.language", "seeding"},
    "latents": set(),
    "lm": {"distributed", "sampling"},
    "tokens": {"distributed"},
    "spatial": {"tokens.base", "tokens.quantizer", "tokens.fsq", "tokens.solvers", "tokens.usage"},
    "load_tokenizer": {"tokens", "spatial"},
    "metrics": {"scenes.check", "atomic", "texts"},
    "shards": {"atomic", "images", "sampling", "scenes", "seeding", "texts", "vocab"},
    "training": {"atomic", "distributed", "model_folder", "settings"},
    "cost": {"lm", "settings", "shards", "spatial", "tokens", "training", "vocab"},
    "second_look": {"lm", "sampling", "vocab"},
    "pipeline": {
        "vocab", "latents", "tokens", "load_tokenizer", "lm", "pretrained", "sampling", "second_look", "seeding",
    },
    "chat": {"pipeline", "vocab", "sampling", "seeding"},
    "rl": {
        "emoji.language", "judges", "pipeline", "vocab", "sampling", "metrics.answers", "metrics.boxes",
        "metrics.editing", "metrics.emoji_attributes", "metrics.geneval", "scenes",
    },
    "stages": {
        "distributed", "latents", "tokens", "spatial", "load_tokenizer", "lm", "model_folder", "vocab", "training",
        "seeding", "judges", "metrics.features", "pipeline", "rl", "sampling",
    },
    "callbacks": {
        "cost", "metrics", "pipeline", "latents.pixels", "sampling", "training.checkpoint", "training.history",
        "training.logs", "training.parallel",
    },
    # use: what is given on a command line, what is made of it, and how it is shown
    "inputs": {"judges", "model_folder", "pipeline", "pretrained", "sampling"},
    "encoding": {
        "atomic", "images", "inputs", "latents", "load_tokenizer", "pipeline", "sampling", "seeding", "shards",
    },
    "selecting": {
        "encoding", "inputs", "pipeline", "rl", "sampling", "shards", "tokens",
    },
    "cli": {"callbacks.throughput", "settings", "training.run", "workers"},
    "plans": {
        "atomic", "cli", "inputs", "metrics.cards", "model_folder", "settings", "shards.read", "training.run",
        "workers",
    },
    "report": {"atomic", "metrics"},
    "evaluation": CORE | {
        "atomic", "images", "inputs", "judges", "model_folder", "pipeline", "prompts", "sampling", "texts", "workers",
        "report.contact_sheet", "report.samples",  # what it leaves for people to look at, and the record of it
    },
    "studies": CORE | {
        "atomic", "callbacks.snapshots", "evaluation", "images", "inputs", "model_folder", "pipeline", "plans",
        "report", "sampling", "settings",
    },
    "commands": CORE | {
        "atomic", "chat", "cost", "encoding", "evaluation", "images", "inputs", "judges", "model_folder", "pipeline",
        "plans", "pretrained", "prompts", "report", "results", "rl.rewards", "sampling", "selecting", "settings",
        "studies", "terminal", "texts", "training", "workers",
    },
    "app": {
        "chat", "images", "inputs", "load_tokenizer", "metrics.reconstruction", "model_folder", "pipeline", "prompts",
        "report", "sampling", "scenes", "vocab",
    },
}  # fmt: skip
"""What each part of the package may import of it, lowest parts first: an arrow never runs up this table."""
LIGHTNING_IN = {"cli", "shards", "stages", "callbacks", "training"}


def violations(part: str, source: str) -> list[str]:
    """Imports in `source`, a file of `part`, that the rule forbids."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names = [node.module]
            if node.module == "ddt_lightning":
                names = [f"ddt_lightning.{alias.name}" for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            if top in ("lightning", "pytorch_lightning") and part not in LIGHTNING_IN:
                found.append(name)
            if top == "ddt_lightning" and name != "ddt_lightning":
                inside = name.removeprefix("ddt_lightning.")
                allowed = MAY_IMPORT[part] | {part}
                if not any(inside == rule or inside.startswith(f"{rule}.") for rule in allowed):
                    if inside != "__version__":
                        found.append(name)
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(PACKAGE)) for f in FILES])
def test_file_keeps_the_rule(file):
    assert violations(part_of(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("part", "planted"),
    [
        ("tokens", "from ddt_lightning.lm.llm import build_llm"),
        ("lm", "import ddt_lightning.vocab"),
        ("metrics", "from ddt_lightning.scenes import render"),
        ("pipeline", "def f():\n    import lightning.pytorch as pl"),
        ("scenes", "from ddt_lightning import vocab"),
        ("emoji", "from ddt_lightning.shards.write import write_shards"),
        ("evaluation", "from ddt_lightning.commands.draw import generate"),
        ("evaluation", "from ddt_lightning.studies import base"),
        ("evaluation", "from ddt_lightning.report.report import write_report"),
        ("report", "def f():\n    from ddt_lightning.studies import progressive_figures"),
        ("report", "from ddt_lightning.evaluation import galleries"),
        ("plans", "from ddt_lightning.evaluation import session"),
        ("plans", "from ddt_lightning import studies"),
        ("studies", "from ddt_lightning.commands import data"),
        ("inputs", "from ddt_lightning.encoding import facts"),
        ("images", "from ddt_lightning import inputs"),
        ("atomic", "from ddt_lightning.plans.step import Step"),
        ("cli", "from ddt_lightning.commands import data"),
        ("commands", "from ddt_lightning.app.studio import Studio"),
        ("app", "from ddt_lightning.commands.draw import generate"),
    ],
)
def test_planted_violation_is_found(part, planted):
    assert violations(part, planted)


def test_every_part_has_a_rule_and_every_rule_a_part():
    assert {part_of(file) for file in FILES} == set(MAY_IMPORT)


def test_no_arrow_runs_up():
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        above = [rule for rule in allowed if order.index(rule.split(".")[0]) >= order.index(part)]
        assert above == [], f"{part} may import {above}"


def test_no_room_is_too_big():
    lines = Counter()
    for file in FILES:
        lines[part_of(file)] += len(file.read_text().splitlines())
    assert max(lines.values()) <= 0.15 * lines.total(), lines.most_common(3)


def test_files_hold_one_idea():
    too_long = {str(f.relative_to(PACKAGE)): n for f in FILES if (n := len(f.read_text().splitlines())) > 350}
    assert too_long == {}
