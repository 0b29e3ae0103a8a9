"""The import rule of the package: the tree is the flow, and no arrow knows another."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ddt_lightning"
ANYTHING = {
    "vocab", "seeding", "latents", "tokens", "spatial", "kinds", "lm", "scenes", "training", "metrics", "shards",
    "pipeline", "chat", "stages", "callbacks", "studies", "commands", "demo", "photos", "evidence", "cli",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "vocab": set(),
    "seeding": set(),
    "latents": set(),
    "tokens": set(),
    "spatial": {"tokens.face", "tokens.quantizer", "tokens.fsq", "tokens.usage"},
    "kinds": {"tokens", "spatial"},
    "lm": set(),
    "scenes": set(),
    "training": set(),
    "metrics": {"scenes.check"},
    "shards": {"vocab", "scenes", "seeding"},
    "pipeline": {"vocab", "latents", "tokens", "kinds", "lm"},
    "chat": {"pipeline", "vocab"},
    "stages": {"latents", "tokens", "spatial", "kinds", "lm", "vocab", "training", "seeding", "metrics.features"},
    "callbacks": {"metrics", "pipeline", "latents.pixels", "training.checkpoint"},
    "studies": ANYTHING,
    "commands": ANYTHING,
    "demo": ANYTHING,
    "photos": ANYTHING,
    "evidence": ANYTHING,
    "cli": {"training"},
}
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
    ],
)
def test_planted_violation_is_found(part, planted):
    assert violations(part, planted)


def test_every_part_has_a_rule():
    assert {part_of(file) for file in FILES} <= set(MAY_IMPORT)


def test_files_hold_one_idea():
    too_long = {str(f.relative_to(PACKAGE)): n for f in FILES if (n := len(f.read_text().splitlines())) > 350}
    assert too_long == {}
