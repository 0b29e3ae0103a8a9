"""The report's sample galleries: what `ddt eval` kept of reconstructions, drawings, edits, questions and captions.

In: a run folder whose `eval/samples/NAME.json` list records with paths relative to `eval/`, and what `ddt generate`
drew in its `pictures/`. Out: the variables of the galleries' templates; none for a gallery that the run does not have.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from ddt_lightning.metrics.cards import Card
from ddt_lightning.report.charts import chart
from ddt_lightning.report.samples import (
    CaptionSample,
    EditSample,
    PromptSample,
    QuestionSample,
    ReconstructionSample,
    TextSample,
    read_samples,
)

Facts = dict[str, Any]
"""Variables of a template; empty where the run does not have what it shows."""
Sample = TypeVar("Sample")


def reconstruction(run: Path, cards: dict[str, Card]) -> Facts:
    """Originals beside what the first n tokens give, and PSNR by n."""
    samples = read_samples(run / "eval", "reconstruction", ReconstructionSample)
    by_count = {
        int(key.split("@")[1]): card["value"] for key, card in cards.items() if key.startswith("tokenizer/psnr@")
    }
    counts = sorted(by_count)
    drawn = chart("PSNR (dB) by number of first tokens", {"": (counts, [by_count[count] for count in counts])})
    return {"folder": run / "eval", "samples": samples, "chart": drawn} if samples else {}


def drawing(run: Path, metrics: dict[str, float]) -> Facts:
    """Prompts and samples tag by tag, or else what `ddt generate` drew prompt by prompt."""
    groups = grouped(read_samples(run / "eval", "t2i", PromptSample), "tag")
    right = {tag: metrics.get(f"t2i/shapes_geneval/{tag}") for tag in groups}
    listed = run / "pictures" / "results.jsonl"
    drawn: dict[str, list[Path]] = {}
    for line in listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []:
        row = json.loads(line)
        drawn.setdefault(row["prompt"], []).append(listed.with_name(row["file"]))
    return {"folder": run / "eval", "groups": groups, "right": right, "drawn": drawn} if groups or drawn else {}


def editing(run: Path, metrics: dict[str, float]) -> Facts:
    """Source, result and target of each edit with its instruction."""
    groups = grouped(read_samples(run / "eval", "edit", EditSample), "type")
    right = {kind: metrics.get(f"edit/exact_match/{kind}") for kind in groups}
    return {"folder": run / "eval", "groups": groups, "right": right} if groups else {}


def questions(run: Path, cards: dict[str, Card]) -> Facts:
    """Images with a question, the answer given and the true one; of shards where no scenes were asked about."""
    asked = grouped(read_samples(run / "eval", "vqa", QuestionSample), "type")
    groups = {
        kind: [answer(one.image, one.answer, f"truth: {one.truth}", one.correct, one.question) for one in samples]
        for kind, samples in asked.items()
    }
    by_type = cards.get("vqa/accuracy", {}).get("by_type", {})
    return answers(run, groups or of_shards(run, "vqa_shards"), by_type)


def captions(run: Path) -> Facts:
    """Images with the caption that the model wrote; of shards where no scenes were described."""
    samples = [
        answer(one.image, one.caption, f"truth: {one.truth}", one.correct)
        for one in read_samples(run / "eval", "caption", CaptionSample)
    ]
    return answers(run, {"": samples} if samples else of_shards(run, "caption_shards"), {})


def answers(run: Path, groups: dict[str, list[Facts]], right: dict[str, float]) -> Facts:
    """Groups of `answer` with the share of each that is right, where it is known."""
    shares = {kind: right.get(kind) for kind in groups}
    return {"folder": run / "eval", "groups": groups, "right": shares} if groups else {}


def of_shards(run: Path, name: str) -> dict[str, list[Facts]]:
    """Images of shards with what was said and what is known, as one group without a name."""
    samples = [answer(one.image, one.said, one.known) for one in read_samples(run / "eval", name, TextSample)]
    return {"": samples} if samples else {}


def answer(image: str, said: str, known: str, correct: bool | None = None, asked: str = "") -> Facts:
    """The model's words about an image.

    Args:
        image: file.
        said: the model's words.
        known: what is known, shown unless the model is right.
        correct: whether it is right; None where that was not decided.
        asked: the question; empty for a caption.
    """
    return {"image": image, "said": said, "known": known, "correct": correct, "asked": asked}


def grouped(samples: list[Sample], field: str) -> dict[str, list[Sample]]:
    """Samples by the value of a field, in the order of their first."""
    groups: dict[str, list[Sample]] = {}
    for one in samples:
        groups.setdefault(getattr(one, field), []).append(one)
    return groups


def read_json(path: Path) -> Any:  # noqa: ANN401 - json holds anything
    """A JSON file, or None where it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
