"""Pictures for people after an evaluation: a contact sheet for each verb, and sample images with an index.

The index of a verb is `samples/NAME.json`, records of `report.samples` whose files lie in `samples/NAME/` (those of
t2i in GenEval's layout, `t2i/00000/samples/0000.png`). Samples are evenly spaced over their kind and chosen before
anything is known about them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddt_lightning.evaluation.edit_scores import Edited
from ddt_lightning.images import save_png
from ddt_lightning.metrics.codebook import code_counts, perplexity, perplexity_by_position, usage
from ddt_lightning.report.contact_sheet import Row, sheet
from ddt_lightning.report.samples import (
    CaptionSample,
    EditSample,
    PromptSample,
    QuestionSample,
    ReconstructionSample,
    TextSample,
    write_samples,
)
from ddt_lightning.scenes.tasks import Question

SHOWN = 6  # of each tag, kind or type


def spread(items: Sequence[dict], field: str, number: int) -> list[dict]:
    """`number` items of each value of `field`, evenly spaced, in their old order."""
    kept: list[int] = []
    for value in dict.fromkeys(item[field] for item in items):
        places = [i for i, item in enumerate(items) if item[field] == value]
        take = min(number, len(places))
        kept += [places[round(i * (len(places) - 1) / max(1, take - 1))] for i in range(take)]
    return [items[i] for i in sorted(set(kept))]


def save(folder: Path, name: str, number: int, part: str, image: np.ndarray) -> str:
    """Write one sample image; its path for the index."""
    file = f"samples/{name}/{number:04d}-{part}.png"
    save_png(folder / file, image)
    return file


def codebook(ids: list[list[int]], size: int) -> dict[str, Any]:
    """Use of the codes over some images: counts, usage, perplexity, and perplexity by span of positions."""
    every = torch.tensor(ids)
    counts = code_counts(every, size)
    return {
        "images": len(ids),
        "usage": usage(counts),
        "perplexity": perplexity(counts),
        "perplexity_by_position": perplexity_by_position(every, size),
        "counts": counts.tolist(),
    }


def reconstructions(folder: Path, found: Sequence[dict[str, Any]]) -> None:
    """Originals beside their reconstructions by number of first tokens."""
    counts = sorted(set.intersection(*(set(result["images"]) for result in found)))
    index, rows = [], []
    for n, result in enumerate(found):
        images = [result["images"][count] for count in counts]
        distance = result["psnr"][counts[-1]]
        rows.append(Row("", [result["original"], *images]))
        files = {
            str(count): save(folder, "reconstruction", n, str(count), image)
            for count, image in zip(counts, images, strict=True)
        }
        original = save(folder, "reconstruction", n, "original", result["original"])
        index.append(ReconstructionSample(original, files, distance))
    write_samples(folder, "reconstruction", index)
    titles = ["original", *(f"{count} tokens" for count in counts)]
    sheet(rows, titles=titles, label_width=0).save(folder / "reconstruction.png")


def prompts(
    folder: Path, name: str, rows: Sequence[dict], images: Sequence[np.ndarray], plans: Sequence[str], per_prompt: int
) -> None:
    """All images in GenEval's layout, and a sheet of some prompts of every tag in `NAME.png`."""
    for row, image in zip(rows, images, strict=True):
        save_png(folder / row["filename"], image)
        metadata = (folder / row["filename"]).parents[1] / "metadata.jsonl"
        if not metadata.exists():
            metadata.write_text(row["metadata"], encoding="utf-8")
    asked = []
    for start in range(0, len(rows), per_prompt):
        part = range(start, start + per_prompt)
        asked.append({"tag": rows[start]["tag"], "prompt": rows[start]["prompt"], "at": list(part)})
    index, shown = [], []
    for item in spread(asked, "tag", SHOWN):
        right = [rows[i]["correct"] for i in item["at"]]
        files = [rows[i]["filename"] for i in item["at"]]
        planned = [plans[i] for i in item["at"]] if any(plans) else []
        index.append(PromptSample(item["tag"], item["prompt"], files, right, planned))
        note = f"{item['tag']}: {sum(right)} of {len(right)} right"
        shown.append(Row(item["prompt"], [images[i] for i in item["at"]], note))
    write_samples(folder, name, index)
    sheet(shown).save(folder / f"{name}.png")


def edits(
    folder: Path, instructions: Sequence[str], plans: Sequence[str], done: Sequence[Edited], right: Sequence[bool]
) -> None:
    """Source, result and target with the instruction."""
    index: list[EditSample] = []
    rows = []
    for n in by_kind([edit.kind for edit in done]):
        edit, instruction = done[n], instructions[n]
        images = {"source": edit.source, "result": edit.image, "target": edit.target}
        files = {part: save(folder, "edit", n, part, image) for part, image in images.items()}
        index.append(EditSample(edit.kind, instruction, **files, correct=right[n], plan=plans[n]))
        rows.append(Row(instruction, list(images.values()), f"{edit.kind}: {'right' if right[n] else 'wrong'}"))
    write_samples(folder, "edit", index)
    sheet(rows, titles=["source", "result", "target"]).save(folder / "edit.png")


def questions(
    folder: Path,
    asked: Sequence[Question],
    images: Sequence[np.ndarray],
    answers: Sequence[str],
    scores: Sequence[float],
) -> None:
    """Images with question, answer and truth."""
    index, rows = [], []
    for n in by_kind([one.kind for one in asked]):
        one, image = asked[n], save(folder, "vqa", n, "image", images[n])
        index.append(QuestionSample(one.kind, one.question, answers[n], one.answer, image, scores[n] == 1))
        rows.append(Row(one.question, [images[n]], f"said: {answers[n]}; truth: {one.answer}"))
    write_samples(folder, "vqa", index)
    sheet(rows, label_width=300).save(folder / "vqa.png")


def by_kind(kinds: Sequence[str]) -> list[int]:
    """Places of some items of each kind, evenly spaced over it, kinds in the order of their names."""
    chosen = spread([{"kind": kind, "at": n} for n, kind in enumerate(kinds)], "kind", SHOWN)
    return [item["at"] for item in sorted(chosen, key=lambda item: item["kind"])]


def captions(
    folder: Path,
    images: Sequence[np.ndarray],
    written: Sequence[str],
    present: Sequence[Sequence[tuple[str, str]]],
    right: Sequence[bool],
) -> None:
    """Images with the caption written and the objects there, (kind, colour) each."""
    index, rows = [], []
    for n, (image, text) in enumerate(list(zip(images, written, strict=True))[: 3 * SHOWN]):
        truth = ", ".join(f"{count} {colour} {kind}" for (kind, colour), count in Counter(present[n]).items())
        index.append(CaptionSample(save(folder, "caption", n, "image", image), text, truth, bool(right[n])))
        rows.append(Row(text or "(nothing)", [image], f"there: {truth}"))
    write_samples(folder, "caption", index)
    sheet(rows, label_width=300).save(folder / "caption.png")


def texts(folder: Path, name: str, rows: Sequence[tuple[np.ndarray, str, str]]) -> None:
    """The first images of some shards with two texts each, as in `TextSample`."""
    shown = rows[: 4 * SHOWN]
    index = [
        TextSample(save(folder, name, n, "image", image), said, known) for n, (image, said, known) in enumerate(shown)
    ]
    write_samples(folder, name, index)
    sheet([Row(said, [image], known) for image, said, known in shown], label_width=300).save(folder / f"{name}.png")
