"""The report of a run: one HTML page without other files, the first thing a stranger opens.

In: a run folder with what is there of `metrics.json`, `eval/*.json` (cards), `eval/samples/*.json` (indexes of sample
images), `STAGE/metrics.csv` and `STAGE/config.yaml` (or those of one stage directly), `findings.json` of studies (in
the folder or one below), and `distances/MODEL/*.json` (cards). Out: the page. What a run does not have is named as
missing; samples are those the evaluation chose before it knew anything about them.
"""

from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from ddt_lightning import __version__
from ddt_lightning.atomic import write_text
from ddt_lightning.metrics.cards import Card, read_cards
from ddt_lightning.report import galleries, scores
from ddt_lightning.report.charts import read_curves, run_charts
from ddt_lightning.report.codebook import CHARTS, codebook
from ddt_lightning.report.distances import distances
from ddt_lightning.report.findings import FILE, Findings, read_findings
from ddt_lightning.report.galleries import Facts, read_json
from ddt_lightning.report.page import render
from ddt_lightning.report.style import Line

DISTANCES = "distances"
"""Folder of the distances of several models, a folder each."""
STAGES = {
    "tokenizer": "Tokenizer",
    "pretrain": "Pretraining",
    "instruct": "Instruction tuning",
    "rl": "Practice with a reward",
    "renderer": "Renderer",
}
SHOWN_ABOVE = {column for columns in CHARTS.values() for column in columns}
"""Curves that the section about the codebook shows."""
FIRST_CHARTS = 9
"""Number of charts of a stage that are open at once."""


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: run folder.
        out: HTML file; None for `RUN/report.html`.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: where the run folder does not exist.
        ValueError: where it holds nothing to report.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"No run folder {run}: name one that `make demo` or `ddt-fit` wrote.")
    cards = read_cards(run / "eval")
    cards |= {f"{scores.SEEN}{key}": card for key, card in read_cards(run / "eval" / "seen").items()}
    metrics = read_json(run / "metrics.json") or {key: card["value"] for key, card in cards.items()}
    stages = _stages(run)
    studies = _studies(run)
    if not metrics and not stages and not studies:
        raise ValueError(
            f"{run} holds neither metrics.json nor a stage's metrics.csv nor a study: there is nothing to report."
        )
    sections, absent = _sections(run, cards, metrics, stages, studies)
    html = render(
        "page",
        name=run.resolve().name,
        version=__version__,
        when=_newest(run),
        spent=metrics.get("time/total_s"),
        measured=bool(metrics),
        tiles=scores.tiles(cards, metrics),
        sections=sections,
        absent=absent,
    )
    target = Path(out) if out else run / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html)
    return target


def _sections(
    run: Path,
    cards: dict[str, Card],
    metrics: dict[str, float],
    stages: dict[str, Path],
    studies: list[tuple[Path, Findings]],
) -> tuple[list[tuple[str, str, Markup]], list[tuple[str, str]]]:
    """The sections of the page, and what the run does not have.

    Returns:
        (anchor, title, HTML) of each section, and (what is missing, how to get it).
    """
    shown: list[tuple[str, str, str, Facts]] = [("studies", "studies", "Studies", {"studies": studies})]
    wanted: dict[str, tuple[str, str]] = {}
    if metrics or stages:
        lines = {title: _lines(folder) for title, folder in stages.items()}
        tokenizer = lines.get("Tokenizer") or (next(iter(lines.values())) if len(lines) == 1 else {})
        shown = [
            ("reconstruction", "reconstruction", "Reconstruction by number of tokens",
             galleries.reconstruction(run, cards)),
            ("drawing", "drawing", "Sampling from a prompt", galleries.drawing(run, metrics)),
            ("editing", "editing", "Editing", galleries.editing(run, metrics)),
            ("questions", "answers", "Questions and answers", galleries.questions(run, cards)),
            ("captions", "answers", "Captions", galleries.captions(run)),
            *(shown if studies else []),
            ("scores", "scores", "Scores", _scores(cards, metrics)),
            ("codebook", "codebook", "Codebook", codebook(run, tokenizer)),
            ("curves", "curves", "Training", _curves(lines)),
            ("settings", "settings", "Times and settings", _settings(cards, metrics, stages)),
        ]  # fmt: skip
        wanted = {
            "reconstruction": ("reconstructions", "Run `ddt eval reconstruction`."),
            "drawing": ("samples for prompts", "Run `ddt eval t2i`."),
            "editing": ("edits", "Run `ddt eval edit`."),
            "questions": ("questions", "Run `ddt eval vqa`."),
            "captions": ("captions", "Run `ddt eval caption`."),
            "scores": ("scores", "Run `ddt eval`."),
            "codebook": ("code counts", "Run `ddt eval reconstruction`."),
            "curves": ("training curves", "No stage of this run has a metrics.csv."),
        }
    sections = [(anchor, title, render(template, **facts)) for anchor, template, title, facts in shown if facts]
    return sections, [wanted[anchor] for anchor, _, _, facts in shown if not facts]


def _scores(cards: dict[str, Card], metrics: dict[str, float]) -> Facts:
    """Every score with its interval, upper bounds and baselines."""
    groups = scores.score_groups(cards, metrics)
    rows = [row for group in groups.values() for row in group]
    if not rows:
        return {}
    return {
        "groups": groups,
        "drawn": any(row.key.startswith(("t2i/", "edit/")) for row in rows),
        "seen": any(row.seen for row in rows),
        "upper": any(row.upper for row in rows),
        "baseline": any(row.baseline for row in rows),
        "protocols": dict(sorted(cards.items())),
        "unreadable": list(dict.fromkeys(name for card in cards.values() for name in card.get("unreadable", []))),
    }


def _lines(stage: Path) -> dict[str, Line]:
    """The curves of a stage; none where it has no metrics.csv."""
    return dict(read_curves(stage / "metrics.csv")) if (stage / "metrics.csv").is_file() else {}


def _curves(stages: dict[str, dict[str, Line]]) -> Facts:
    """Charts of every stage's curves."""
    drawn = {title: run_charts(lines, SHOWN_ABOVE) for title, lines in stages.items()}
    return {"stages": drawn, "first": FIRST_CHARTS} if drawn else {}


def _settings(cards: dict[str, Card], metrics: dict[str, float], stages: dict[str, Path]) -> Facts:
    """Times, the settings of the evaluation, weights and versions, and the configuration of each stage."""
    shared = next((card for card in cards.values() if "settings" in card), None)
    configs = {title: folder / "config.yaml" for title, folder in stages.items()}
    times = {key[5:-2]: value for key, value in metrics.items() if key.startswith("time/")}
    return {
        "times": times,
        "evaluation": {**shared["settings"], "seed": shared["seed"], **shared["weights"], **shared["versions"]}
        if shared
        else {},
        "configs": {
            title: path.read_text(encoding="utf-8") if path.is_file() else None for title, path in configs.items()
        },
    }


def _stages(run: Path) -> dict[str, Path]:
    """Folders of the stages in a run by title, in training order; a run of one stage is its own."""
    found = {
        title: run / name
        for name, title in STAGES.items()
        if (run / name / "metrics.csv").is_file() or (run / name / "config.yaml").is_file()
    }
    if not found and ((run / "metrics.csv").is_file() or (run / "config.yaml").is_file()):
        found = {run.resolve().name: run}
    return found


def _studies(run: Path) -> list[tuple[Path, Findings]]:
    """Folders and findings of the studies in a run, in it or one below, and of the distances of its models."""
    places = [run, *sorted(path for path in run.iterdir() if path.is_dir())]
    found = [(place, read_findings(place)) for place in places if (place / FILE).is_file()]
    apart = distances(run / DISTANCES) if (run / DISTANCES).is_dir() else None
    return [*found, (run / DISTANCES, apart)] if apart else found


def _newest(run: Path) -> str:
    """When the newest result of a run was written."""
    files = [path for ending in ("json", "csv") for path in run.rglob(f"*.{ending}")]
    return datetime.fromtimestamp(max((path.stat().st_mtime for path in files), default=0.0)).strftime(
        "%d %B %Y, %H:%M"
    )
