"""The report of a run: one HTML page without other files, the first thing a stranger opens.

In: a run folder with what is there of `metrics.json`, `eval/*.json` (cards), `eval/samples/*.json` (indexes of sample
images), `STAGE/metrics.csv` and `STAGE/config.yaml` (or those of one stage directly), `findings.json` of studies
(in the folder or one below), and `distances/MODEL/*.json` (cards). Out: the page. What a run does not have
is named as missing; samples are those the evaluation chose before it knew anything about them.
"""

from collections.abc import Callable
from datetime import datetime
from html import escape
from pathlib import Path

from ddt_lightning import __version__
from ddt_lightning.metrics.cards import Card, read_cards
from ddt_lightning.plans.step import STEPS
from ddt_lightning.report import distances, findings, galleries, page
from ddt_lightning.report.codebook import CHARTS, health
from ddt_lightning.report.galleries import read_json
from ddt_lightning.report.svg import Line, curves, read_curves, steps_chart

DISTANCES = "distances"
"""Folder of the distances of several models, a folder each."""
STAGES = {"tokenizer": "Tokenizer", "pretrain": "Pretraining", "instruct": "Instruction tuning", "renderer": "Renderer"}

HEADLINES = {
    "t2i/shapes_geneval/overall": ("Sampling: all right", "of the objects, colours, counts and positions asked for"),
    "t2i/colour_layout/overall": ("Sampling: colours and layout", "the same, whatever the shapes"),
    "edit/exact_match": ("Editing", "edited scenes that equal the target"),
    "vqa/accuracy": ("Questions", "answered correctly"),
    "caption/scene_match": ("Captions", "that name the scene's objects"),
    "caption/cider_d_regex": ("Captions, CIDEr-D", "of held-out photos, against people's captions"),
    "tokenizer/psnr": ("Reconstruction, dB", "PSNR, mean over held-out images"),
}
PLAIN = {"tokenizer/psnr": ".1f", "caption/cider_d_regex": ".2f"}
"""How headlines that are no shares are written."""
GROUPS = {
    "Sampling": "t2i/",
    "Editing": "edit/",
    "Questions": "vqa/",
    "Captions": "caption/",
    "Tokenizer": "tokenizer/",
    "Pictures": "pictures/",
}
SEEN = "seen/"
"""What keys of combinations that training shows begin with."""
SHOWN_ABOVE = {column for columns in CHARTS.values() for column in columns}
NO_SHARE = ("psnr", "cider", "perplexity", "_l1", "x0_error", "lpips", "fid", "kid", "FD-", "KD-")
"""Parts of keys of what does not lie between 0 and 1 with 1 the best: no bar."""
CEILINGS = {
    "t2i/shapes_geneval/": ("t2i/ceiling_tokenizer", "t2i/ceiling_render"),
    "edit/exact_match": ("edit/ceiling_tokenizer",),
}
FLOORS = {
    "t2i/shapes_geneval/": ("t2i/floor_shuffled", "t2i/floor_circles"),
    "t2i/colour_layout/overall": ("t2i/colour_layout/floor_shuffled",),
    "vqa/accuracy": ("vqa/floor_blind",),
}


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
    cards |= {f"{SEEN}{key}": card for key, card in read_cards(run / "eval" / "seen").items()}
    metrics = read_json(run / "metrics.json") or {key: card["value"] for key, card in cards.items()}
    stages = _stages(run)
    # the records of a plan's steps are JSON files with the steps' names, not studies
    places = [run, *sorted(path for path in run.iterdir() if path.is_dir() and path.name != STEPS)]
    studies = [(findings.section, place) for place in places if (place / findings.FILE).is_file()]
    studies += [(distances.section, run / DISTANCES)] if (run / DISTANCES).is_dir() else []
    if not metrics and not stages and not studies:
        raise ValueError(
            f"{run} holds neither metrics.json nor a stage's metrics.csv nor a study: there is nothing to report."
        )
    shown = ("studies", "Studies", lambda: "".join(show(place) for show, place in studies))
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("reconstruction", "Reconstruction by number of tokens", lambda: galleries.reconstruction(run, cards)),
        ("drawing", "Sampling from a prompt", lambda: galleries.drawing(run, metrics)),
        ("editing", "Editing", lambda: galleries.editing(run, metrics)),
        ("questions", "Questions and answers", lambda: galleries.questions(run, cards)),
        ("captions", "Captions", lambda: galleries.captions(run)),
        *([shown] if studies else []),
        ("scores", "Scores", lambda: _scores(cards, metrics)),
        ("codebook", "Codebook", lambda: _codebook(run, stages)),
        ("curves", "Training", lambda: _curves(stages)),
        ("settings", "What ran", lambda: _settings(run, cards, metrics, stages)),
    ]
    if not metrics and not stages:
        parts = [shown]
    built = [(anchor, title, build()) for anchor, title, build in parts]
    if absent := "".join(html for _, _, html in built if page.is_missing(html)):
        built = [part for part in built if not page.is_missing(part[2])] + [("absent", "Not measured", absent)]
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in built)
    body = _header(run, cards, metrics) + f"<nav>{links}</nav>"
    body += "".join(page.section(anchor, title, html) for anchor, title, html in built)
    body += f"<footer>Written by ddt_lightning {__version__}. This page needs no other file.</footer>"
    target = Path(out) if out else run / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    temporary.write_text(page.page(f"ddt_lightning: {run.name}", body), encoding="utf-8")
    temporary.replace(target)
    return target


def _header(run: Path, cards: dict[str, Card], metrics: dict[str, float]) -> str:
    """Title, date and time spent, and the main scores in large numbers."""
    files = [path for ending in ("json", "csv") for path in run.rglob(f"*.{ending}")]
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    when = datetime.fromtimestamp(newest).strftime("%d %B %Y, %H:%M")
    spent = f" It took {_duration(metrics['time/total_s'])}." if "time/total_s" in metrics else ""
    boxes = []
    for key, (name, remark) in HEADLINES.items():
        if key in metrics:
            value = f"{metrics[key]:{PLAIN[key]}}" if key in PLAIN else f"{100 * metrics[key]:.1f} %"
            spread = (cards.get(key) or {}).get("interval")
            if spread and key not in PLAIN:
                remark += f" (95 %: {100 * spread[0]:.0f} to {100 * spread[1]:.0f})"
            limits = bounds(CEILINGS, key, metrics)
            remark += f"; the tokenizer allows {100 * limits[0]:.0f} %" if limits else ""
            if SEEN + key in metrics and key not in PLAIN:
                remark += f"; of combinations seen in training {100 * metrics[SEEN + key]:.0f} %"
            boxes.append((value, name, remark))
    intro = (
        "Images become discrete diffusion timestep tokens; a language model reads and writes them beside text; a "
        "diffusion decoder turns them back into images. Everything below was made by this run on held-out data."
    )
    return (
        f"<h1>{escape(run.name)}</h1><p class='soft small'>ddt_lightning {__version__} &middot; {when}.{spent}</p>"
        f"<p>{intro}</p>{page.tiles(boxes)}"
    )


def _scores(cards: dict[str, Card], metrics: dict[str, float]) -> str:
    """Every score with its interval, ceilings and floors, part by part."""
    if not metrics:
        return page.missing("scores", "Run `ddt eval`.")
    rows: list[list[str]] = []
    seen = {key.removeprefix(SEEN): value for key, value in metrics.items() if key.startswith(SEEN)}
    groups = [(title, "", start, metrics) for title, start in GROUPS.items()]
    groups += [(f"{title}, combinations seen in training", SEEN, start, seen) for title, start in GROUPS.items()]
    for title, origin, start, scores in groups:
        keys = sorted((key for key in scores if key.startswith(start)), key=_order)
        rows += [[escape(title)]] if keys else []
        for key in keys:
            card = cards.get(origin + key, {})
            spread = card.get("interval")
            line = ""
            if not any(word in key for word in NO_SHARE):
                line = page.bar(scores[key], spread, bounds(CEILINGS, key, scores), bounds(FLOORS, key, scores))
            between = f"{spread[0]:.3f} to {spread[1]:.3f}" if spread else ""
            faint = "bound:" if "ceiling" in key or "floor" in key else ""
            rows.append(
                [
                    f"{faint}<code>{escape(origin + key)}</code>",
                    f'<td class="n">{scores[key]:.3f}</td>',
                    f'<td class="n soft">{between}</td>',
                    f'<td class="n soft">{card.get("n", "")}</td>',
                    f'<td class="wide">{line}</td>',
                ]
            )
    legend = (
        "<p class='soft small'>95 % intervals. Green marks are ceilings: the same check on ground-truth renders, and "
        "on their reconstructions by the tokenizer, which bounds everything drawn through it. Red marks are floors: "
        "images scored against another prompt, circles in place of every shape, answers to another image. Scores of "
        "drawing and editing come from a classical checker on rendered shapes: they are not GenEval and not "
        "comparable to it. Training never shows the pairs, numbers, colours and places that are asked for, only others "
        "of the same things; the scores of <code>seen/</code> ask for those that it does show.</p>"
        if any(key.startswith(("t2i/", "edit/")) for key in metrics)
        else "<p class='soft small'>95 % intervals.</p>"
    )
    items = "".join(f"<li><code>{escape(k)}</code>: {escape(c['protocol'])}</li>" for k, c in sorted(cards.items()))
    protocols = f"<details><summary>What each score measures</summary><ul class='small'>{items}</ul></details>"
    return legend + page.table(["key", "value", "95 %", "n", ""], rows) + (protocols if items else "")


def _order(key: str) -> tuple[bool, str, int]:
    """Scores before their bounds, numbers by size."""
    name, _, number = key.partition("@")
    return "ceiling" in key or "floor" in key, name, int(number or 0)


def bounds(of: dict[str, tuple[str, ...]], key: str, metrics: dict[str, float]) -> list[float]:
    """The ceilings or floors that a run has for a score."""
    names = [name for start, found in of.items() if key.startswith(start) for name in found]
    return [metrics[name] for name in names if name in metrics]


def _codebook(run: Path, stages: dict[str, Path]) -> str:
    """How evenly the codes are used, at the end and over the training of the tokenizer."""
    over_steps = ""
    for name, folder in stages.items():  # a run of one stage has any name
        if name == "tokenizer" or len(stages) == 1:
            over_steps += health(_lines(folder))
    counts = read_json(run / "eval" / "samples" / "codebook.json")
    if not counts:
        return page.missing("code counts", "Run `ddt eval reconstruction`.") + over_steps
    used = sum(count > 0 for count in counts["counts"])
    spans = " &middot; ".join(f"{value:.0f}" for value in counts["perplexity_by_position"])
    text = (
        f"<p>{used} of {len(counts['counts'])} codes occur in {counts['images']} held-out images; perplexity "
        f"{counts['perplexity']:.0f} (all codes equally often would be {len(counts['counts'])}). "
        f"<span class='soft'>Perplexity by span of token positions, fine to coarse: {spans}.</span></p>"
    )
    chart = steps_chart("Uses of each code, most used first", counts["counts"])
    return text + f"<div class='grid wide'>{chart}</div>" + over_steps


def _lines(stage: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The curves of a stage; none where it has no metrics.csv."""
    return read_curves(stage / "metrics.csv") if (stage / "metrics.csv").is_file() else {}


def _curves(stages: dict[str, Path]) -> str:
    """The curves of every stage's metrics.csv: training and validation of one quantity share a chart."""
    html = ""
    for name, folder in stages.items():
        title = STAGES.get(name, name)
        html += f"<h3>{escape(title)}</h3>"
        lines = {name: line for name, line in _lines(folder).items() if name not in SHOWN_ABOVE}
        charts: dict[str, dict[str, Line]] = {}
        for column, line in lines.items():
            part, _, quantity = column.rpartition("/")
            charts.setdefault(quantity, {})[part or "value"] = line
        ordered = sorted(charts, key=lambda quantity: (quantity != "loss", "loss" not in quantity, quantity))
        drawn = "".join(curves(quantity, charts[quantity]) for quantity in ordered[:16])
        html += (
            f'<div class="grid wide">{drawn}</div>' if drawn else page.missing(f"curves of {title}", "No metrics.csv.")
        )
    return html or page.missing("training curves", "No stage of this run has a metrics.csv.")


def _settings(run: Path, cards: dict[str, Card], metrics: dict[str, float], stages: dict[str, Path]) -> str:
    """Times, the decode setting, weights and versions, and the configuration of each stage."""
    rows = [
        [escape(key[5:-2]), f'<td class="n">{_duration(value)}</td>']
        for key, value in metrics.items()
        if key.startswith("time/")
    ]
    html = (
        "<h3>Time</h3>" + page.table(["step", "time"], rows, narrow=True)
        if rows
        else page.missing("times", "Only `make demo` writes them.")
    )
    shared = next((card for card in cards.values() if "settings" in card), None)
    if shared:
        facts = {**shared["settings"], "seed": shared["seed"], **shared["weights"], **shared["versions"]}
        rows = [[escape(str(key)), f"<code>{escape(str(value))}</code>"] for key, value in facts.items()]
        html += "<h3>Evaluation</h3>" + page.table(["setting", ""], rows, narrow=True)
    for name, folder in stages.items():
        if (folder / "config.yaml").is_file():
            text = (folder / "config.yaml").read_text(encoding="utf-8")
            title = f"config.yaml: {escape(STAGES.get(name, name))}"
            html += f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"
        else:
            html += page.missing(f"config.yaml of {STAGES.get(name, name)}", "The stage did not write one.")
    return html


def _stages(run: Path) -> dict[str, Path]:
    """Folders of the stages in a run, in training order; a run of one stage is its own."""
    found = {
        name: run / name
        for name in STAGES
        if (run / name / "metrics.csv").is_file() or (run / name / "config.yaml").is_file()
    }
    if not found and ((run / "metrics.csv").is_file() or (run / "config.yaml").is_file()):
        found = {run.name: run}
    return found


def _duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
