"""The report's sample galleries: what `ddt eval` kept of reconstructions, drawings, edits, questions and captions.

In: a run folder whose `eval/samples/NAME.json` list records with paths relative to `eval/`, and what `ddt generate`
drew in its `pictures/`. Out: HTML; a gallery that the run does not have is named as missing.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from ddt_lightning.metrics.cards import Card
from ddt_lightning.report import page
from ddt_lightning.report.svg import curves


def heading(name: str, share: float | None) -> str:
    """A tag, kind or type with how much of it was right."""
    right = "" if share is None else f"<small>{100 * share:.1f} % right</small>"
    return f"<h3>{escape(name.replace('_', ' '))}{right}</h3>"


def index_of(run: Path, name: str) -> list[dict[str, Any]]:
    """The sample index an evaluation wrote, or nothing."""
    return read_json(run / "eval" / "samples" / f"{name}.json") or []


def picture_of(run: Path, file: str, alt: str, verdict: bool | None = None) -> str:
    """One sample image; a file that is gone is said so."""
    path = run / "eval" / file
    return page.picture(path, alt, verdict) if path.is_file() else f"<span class='soft'>{escape(file)} is gone</span>"


def reconstruction(run: Path, cards: dict[str, Card]) -> str:
    """Originals beside what the first n tokens give."""
    items = index_of(run, "reconstruction")
    if not items:
        return page.missing("reconstructions", "Run `ddt eval reconstruction`.")
    figures = [
        page.figure(
            page.strip(
                [picture_of(run, item["original"], "original")]
                + [picture_of(run, file, f"first {n} tokens") for n, file in item["by_tokens"].items()],
                ["original", *item["by_tokens"]],
            ),
            f"{item['psnr']:.1f} dB with all tokens",
        )
        for item in items
    ]
    by_count = {
        int(key.split("@")[1]): card["value"] for key, card in cards.items() if key.startswith("tokenizer/psnr@")
    }
    chart = ""
    if by_count:
        counts = sorted(by_count)
        lines = {"": (counts, [by_count[n] for n in counts])}
        chart = f'<div class="grid wide">{curves("PSNR (dB) by number of first tokens", lines)}</div>'
    text = "<p class='soft'>Held-out images, and their reconstruction from noise with the first n tokens.</p>"
    return text + f'<div class="grid widest">{"".join(figures)}</div>' + chart


def drawing(run: Path, metrics: dict[str, float]) -> str:
    """Prompts and samples, tag by tag."""
    items = index_of(run, "t2i")
    if not items:
        return drawn(run) or page.missing("samples for prompts", "Run `ddt eval t2i`.")
    html = "<p class='soft'>Prompts spread evenly over each tag; underlined green where every demand is met.</p>"
    for tag in dict.fromkeys(item["tag"] for item in items):
        figures = []
        for item in [item for item in items if item["tag"] == tag]:
            pictures = [
                picture_of(run, f, item["prompt"], ok) for f, ok in zip(item["files"], item["correct"], strict=True)
            ]
            figures.append(page.figure(page.strip(pictures), escape(item["prompt"])))
        html += heading(tag, metrics.get(f"t2i/shapes_geneval/{tag}"))
        html += f"<div class='grid wide'>{''.join(figures)}</div>"
    return html


def drawn(run: Path) -> str:
    """All that `ddt generate` drew in `pictures/`, prompt by prompt; empty without it."""
    listed = run / "pictures" / "results.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()] if listed.is_file() else []
    by_prompt: dict[str, list[str]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(picture_of(run, f"../pictures/{row['file']}", row["prompt"]))
    figures = [page.figure(page.strip(drawings), escape(prompt)) for prompt, drawings in by_prompt.items()]
    return f"<div class='grid widest'>{''.join(figures)}</div>" if figures else ""


def of_shards(run: Path, name: str) -> str:
    """Images of shards with what was said and what is known; empty without them."""
    blocks = [
        f"<div class='side'>{picture_of(run, item['image'], item['known'])}<div class='small'>{escape(item['said'])}"
        f"<br><span class='soft'>{escape(item['known'])}</span></div></div>"
        for item in index_of(run, name)
    ]
    return f"<div class='grid'>{''.join(blocks)}</div>" if blocks else ""


def editing(run: Path, metrics: dict[str, float]) -> str:
    """Source, result and target of each edit with its instruction."""
    items = index_of(run, "edit")
    if not items:
        return page.missing("edits", "Run `ddt eval edit`.")
    html = "<p class='soft'>Source, what the model made of it, and the ground truth.</p>"
    for kind in dict.fromkeys(item["type"] for item in items):
        figures = [
            page.figure(
                page.strip(
                    [
                        picture_of(run, item["source"], "source"),
                        picture_of(run, item["result"], "result", item["correct"]),
                        picture_of(run, item["target"], "target"),
                    ],
                    ["source", "result", "target"],
                ),
                escape(item["instruction"]),
            )
            for item in [item for item in items if item["type"] == kind]
        ]
        html += heading(kind, metrics.get(f"edit/exact_match/{kind}"))
        html += f"<div class='grid'>{''.join(figures)}</div>"
    return html


def questions(run: Path, cards: dict[str, Card]) -> str:
    """Images with a question, the answer given and the true one."""
    items = index_of(run, "vqa")
    if not items:
        return of_shards(run, "vqa_shards") or page.missing("questions", "Run `ddt eval vqa`.")
    html = ""
    for kind in dict.fromkeys(item["type"] for item in items):
        blocks = []
        for item in [item for item in items if item["type"] == kind]:
            said = f"<b class='{verdict_class(item['correct'])}'>{escape(item['answer']) or '(nothing)'}</b>"
            truth = "" if item["correct"] else f"<br><span class='soft'>truth: {escape(item['truth'])}</span>"
            picture = picture_of(run, item["image"], item["question"])
            blocks.append(
                f"<div class='side'>{picture}<div class='small'>{escape(item['question'])}<br>{said}{truth}</div></div>"
            )
        html += heading(kind, cards.get("vqa/accuracy", {}).get("by_type", {}).get(kind))
        html += f"<div class='grid'>{''.join(blocks)}</div>"
    return html


def captions(run: Path) -> str:
    """Images with the caption the model wrote."""
    items = index_of(run, "caption")
    if not items:
        return of_shards(run, "caption_shards") or page.missing("captions", "Run `ddt eval caption`.")
    blocks = []
    for item in items:
        said = f"<span class='{verdict_class(item['correct'])}'>{escape(item['caption']) or '(nothing)'}</span>"
        truth = "" if item["correct"] else f"<br><span class='soft'>truth: {escape(item['truth'])}</span>"
        picture = picture_of(run, item["image"], item["truth"])
        blocks.append(f"<div class='side'>{picture}<div class='small'>{said}{truth}</div></div>")
    return f"<div class='grid'>{''.join(blocks)}</div>"


def read_json(path: Path) -> Any:  # noqa: ANN401 - json holds anything
    """A JSON file, or None where it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def verdict_class(correct: bool) -> str:
    """The CSS class of a right or wrong text."""
    return "right-text" if correct else "wrong-text"
