"""Every command that a README shows is one that the project takes: read by the parsers that would run it."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddt_lightning import cli
from ddt_lightning.judges import JUDGES
from ddt_lightning.training.run import StageCLI

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.rglob("README.md") if not {".venv", "runs"} & set(path.relative_to(ROOT).parts))
PAGES += sorted((ROOT / "stages").rglob("results/*.md"))
PROGRAMS = ("ddt", "ddt-fit", "make", "python")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b(?!=)|\.\.\.")


def blocks(text: str) -> Iterator[str]:
    """Lines of code blocks, with continued lines joined and comments and loops around a command dropped."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if line.startswith("    "):
            line = re.sub(r"\s{2,}#.*$", "", line.strip())
            line = re.sub(r"^until (.*?);.*$", r"\1", line)
            yield re.sub(r"^([A-Z_]+=(\"[^\"]*\"|\S+) )+", "", line)


def spans(text: str) -> Iterator[str]:
    """Commands inside sentences and tables, without those that hold a placeholder."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    for span in re.findall(r"`([^`]+)`", prose):
        if not PLACEHOLDER.search(span):
            yield " ".join(span.split())


def shown(parts_of: Callable[[str], Iterator[str]]) -> list[tuple[str, str]]:
    """(page, command) of everything that pages show in one way."""
    found = [
        (str(page.relative_to(ROOT)), line)
        for page in PAGES
        for line in parts_of(page.read_text(encoding="utf-8"))
        if line.split(" ")[0] in PROGRAMS and " " in line
    ]
    return list(dict.fromkeys(found))


BLOCKS, SPANS = shown(blocks), shown(spans)


@pytest.mark.parametrize(("page", "line"), BLOCKS, ids=[f"{page}: {line[:60]}" for page, line in BLOCKS])
def test_command_is_understood(page, line, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DDT_JUDGES", str(tmp_path))  # names of judges are those of files that are there
    for name in JUDGES.values():
        (tmp_path / name).touch()
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda self: None)
    program, *words = shlex.split(line)
    if program == "make":
        done = subprocess.run(["make", "-n", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif program == "python":
        assert words[0] == "-m" or (ROOT / words[0]).exists(), line
    elif program == "ddt-fit" or words[0] == "fit":
        stage, *args = words if program == "ddt-fit" else words[1:]
        module, data = (cli.locate(target) for target in cli.STAGES[stage])
        StageCLI(module, data, args=cli.find_shipped(args), stage=stage)
    else:
        verb, rest = cli.split_verb(words)
        cli.parse(verb, cli.load(verb), rest)


@pytest.mark.parametrize(("page", "span"), SPANS, ids=[f"{page}: {span[:60]}" for page, span in SPANS])
def test_command_in_a_sentence_names_what_there_is(page, span, capsys):
    """Sentences leave arguments out: the target, stage, verb, files and options that they name must exist."""
    program, *words = shlex.split(span)
    options = [word.split("=")[0] for word in words if word.startswith("--") and word not in ("--help", "--version")]
    assert all((ROOT / word).exists() for word in words if word.endswith(".yaml")), span
    if program == "make":
        assert re.search(rf"^{words[0]}\b.*:", (ROOT / "Makefile").read_text(), re.M), span
    elif program == "ddt-fit":
        assert words[0] in cli.STAGES, span
    elif program == "ddt":
        names = [verb for verb in cli.VERBS if f"{' '.join(words)} ".startswith(f"{verb} ")]
        groups = [verb for verb in cli.VERBS if verb.startswith(f"{words[0]} ")]
        assert names or (groups and len(words) == 1) or words in (["--help"], ["--version"]), span
        for verb in names:
            with pytest.raises(SystemExit):
                cli.parse(verb, cli.load(verb), ["--help"])
            text = capsys.readouterr().out
            assert all(option in text for option in options), span
    else:
        assert words[0] == "-m" or (ROOT / words[0]).exists(), span


def test_the_front_page_shows_the_common_commands():
    lines = " ".join(line for page, line in BLOCKS if page == "README.md")
    for expected in ("make demo", "make test", "ddt generate", "ddt edit", "ddt describe", "ddt-fit tokenizer"):
        assert expected in lines


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    if "://" not in target
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{p.parent.name}/{p.name}: {t}" for p, t in LINKS])
def test_links_and_pictures_are_there(page, target):
    assert (page.parent / target).exists()
