"""Fingerprints of steps follow the code: what a command imports counts, and nothing else does."""

from pathlib import Path

import pytest
from numpy.random import default_rng

from ddt_lightning.plans import fingerprint as marks
from ddt_lightning.plans.fingerprint import (
    CLI,
    closure,
    code_mark,
    fingerprint,
    fingerprints,
    inputs_mark,
    modules_of,
)
from ddt_lightning.plans.step import Chain, Step
from tests.inprocess import token_shards


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of four modules: `a` imports `b` inside a function, `b` imports `folder.c`; `d` stands alone."""
    root = tmp_path / "ddt_lightning"
    (root / "folder").mkdir(parents=True)
    (root / "a.py").write_text(
        '"""A."""\n\n\ndef f():\n    """F."""\n    from ddt_lightning.b import g\n\n    return g()\n'
    )
    (root / "b.py").write_text("from ddt_lightning.folder import c\n\n\ndef g():\n    return c.ONE\n")
    (root / "folder" / "__init__.py").write_text("")
    (root / "folder" / "c.py").write_text("ONE = 1\n")
    (root / "d.py").write_text("TWO = 2\n")
    monkeypatch.setattr(marks, "PACKAGE", root)
    for cached in (marks.imports_of, marks.code_of):
        cached.cache_clear()
    yield root
    for cached in (marks.imports_of, marks.code_of):
        cached.cache_clear()


def mark() -> str:
    for cached in (marks.imports_of, marks.code_of):
        cached.cache_clear()
    return code_mark(["ddt_lightning.a"])


def test_imports_of_imports_count(package):
    names = [f"ddt_lightning.{name}" for name in ("a", "b", "folder", "folder.c")]
    assert closure(["ddt_lightning.a"]) == names


@pytest.mark.parametrize("file", ["a.py", "b.py", "folder/c.py"])
def test_code_counts(package, file):
    before = mark()
    (package / file).write_text((package / file).read_text() + "\nMORE = 3\n")
    assert mark() != before


def test_words_do_not_count(package):
    before = mark()
    source = (package / "a.py").read_text()
    (package / "a.py").write_text("# why\n" + source.replace("A.", "Another.").replace("F.", "Another too."))
    assert mark() == before


def test_other_modules_do_not_count_and_files_beside_do(package):
    before = mark()
    (package / "d.py").write_text("TWO = 3\n")
    assert mark() == before
    (package / "folder" / "weights.bin").write_bytes(b"1")
    assert mark() != before


def test_missing_module_is_an_error(package):
    with pytest.raises(FileNotFoundError, match=r"ddt_lightning\.gone"):
        code_mark(["ddt_lightning.gone"])


def test_missing_yaml_is_an_error(tmp_path):
    command = [CLI, "fit", "tokenizer", "--config", str(tmp_path / "gone.yaml")]
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        fingerprint(Step("s", "", [command], tmp_path / "s"), "")


@pytest.mark.parametrize(
    ("command", "covered", "left_out"),
    [
        (["encode"], {"encoding", "tokens.tokenizer", "shards.read"}, {"lm.llm", "stages.pretrain"}),
        (["eval", "reconstruction"], {"evaluation.similarity", "metrics.cards", "pipeline"}, {"studies.order"}),
        (["fit", "tokenizer"], {"tokens.quantizer", "spatial.vqgan", "shards.images"}, {"pipeline", "report.page"}),
        (["fit", "pretrain"], {"lm.loss", "vocab", "shards.packing"}, {"evaluation.session", "commands.draw"}),
    ],
)
def test_commands_cover_what_they_run(command, covered, left_out):
    found = {name.removeprefix("ddt_lightning.") for name in closure(modules_of([CLI, *command]))}
    assert covered <= found and not left_out & found


def test_classes_named_in_yaml_count():
    root = Path(__file__).parents[2]
    command = [CLI, "fit", "tokenizer", "--config", str(root / "stages/fid.yaml")]
    assert "ddt_lightning.callbacks.distribution" in modules_of(command)


def test_a_yaml_file_that_the_step_writes_counts_as_the_one_that_is_there(tmp_path):
    text = "class_path: ddt_lightning.callbacks.distribution.Distribution\n"
    command = [CLI, "fit", "tokenizer", "--config", str(tmp_path / "x.yaml")]
    one = Step("a", "", [command], tmp_path / "a", {str(tmp_path / "x.yaml"): text})
    planned = fingerprints(Chain("a", "", [one]))
    assert "ddt_lightning.callbacks.distribution" in modules_of(command, one.files)
    (tmp_path / "x.yaml").write_text("a: stale\n")
    assert fingerprints(Chain("a", "", [one])) == planned


def test_inputs_are_known_by_name_size_and_facts(tmp_path):
    folder = token_shards(tmp_path / "ids", default_rng(0).integers(0, 9, (20, 4)), codes=9)
    pattern = [f"{folder}/*.tar"]
    before = inputs_mark(pattern, "sets")
    assert inputs_mark(pattern, "sets") == before
    (folder / "images-train-000001.tar").write_bytes(b"more")
    more = inputs_mark(pattern, "sets")
    facts = folder / "tokens.json"
    facts.write_text(facts.read_text().replace("abc123", "abc124"))
    assert len({before, more, inputs_mark(pattern, "sets")}) == 3
    with pytest.raises(FileNotFoundError, match="`sets`"):
        inputs_mark([f"{tmp_path}/none-*.tar"], "sets")
