"""`ddt eval prompts`: CLIP scores of any prompts drawn, or of the images in a folder of `ddt generate`.

Out: `prompts.json` (cards), `prompts.png` (a contact sheet), `prompts/` with the images and `results.jsonl`: file,
prompt and score of each. The baseline scores the same images against other prompts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.scorers import check_scorers, record_scorers
from ddt_lightning.evaluation.session import Session
from ddt_lightning.images import save_png
from ddt_lightning.inputs import Loading, pick_device, positive
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.prompts import read_prompts
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

SHOWN, COLUMNS = 24, 4  # prompts on the sheet, images of each


def prompts(
    prompt: str,
    *,
    out: str,
    clip: str,
    samples: int = 1,
    chat: bool = True,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw any prompts and measure by CLIP how well the images fit them.

    Args:
        prompt: what to draw; or a .txt file with a prompt on each line; or a .jsonl file with a "prompt" on each; or a
            folder that `ddt generate` wrote, whose images are taken as they are.
        out: folder for prompts.json, prompts.png and prompts/ with the images and scores.
        clip: folder of a transformers CLIP; its name is part of the score.
        samples: how many images to draw for each prompt.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seed: of the images.
        processes: worker processes that draw, each with its share of the cores.
        loading: which model; its device is also CLIP's.
        drawing: how to draw.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.metrics.embeddings import Clip

    check_scorers({"clip": clip})
    session = None if Path(prompt).is_dir() else Session(loading, drawing, processes, seed)
    scorer = Clip(clip, pick_device(loading.device))
    if session is None:
        texts, images = read_generated(Path(prompt))
        settings: dict[str, Any] = {"images": prompt}
    else:
        texts = [text for text in read_prompts(prompt) for _ in range(positive("samples", samples))]
        items = [(text, session.sample_seed(n)) for n, text in enumerate(texts)]
        images = [r["image"] for r in session.run(predictions.draw_prompts, items, chat)]
        settings = {"images": f"{samples} drawn for each prompt", "chat": chat}

    unique = list(dict.fromkeys(texts))
    text_vectors, image_vectors = scorer.texts(unique), scorer.images(images)
    at = [unique.index(text) for text in texts]
    fit = score(image_vectors, text_vectors[at])
    rule = (
        f"100 x cosine of the vectors of image and prompt, at least 0, by the CLIP {Path(clip).name} in float32; "
        f"mean over {len(unique)} prompts of the mean of their images"
    )
    cards: dict[str, Card] = {"t2i/clip_score": mean_card(by_prompt(fit, texts), rule)}
    if len(unique) > 1:
        other = score(image_vectors, text_vectors[[(n + 1) % len(unique) for n in at]])
        text = "baseline: the same images, the next prompt"
        cards["t2i/clip_score_floor_shuffled"] = mean_card(by_prompt(other, texts), text)
    record_scorers(cards.values(), {"clip": scorer})

    def pictures(folder: Path) -> None:
        lines = []
        for n, (text, image, value) in enumerate(zip(texts, images, fit, strict=True)):
            save_png(folder / "prompts" / f"{n:05d}.png", image)
            lines.append(json.dumps({"file": f"{n:05d}.png", "prompt": text, "clip_score": value}, ensure_ascii=False))
        (folder / "prompts" / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        draw_sheet(folder / "prompts.png", texts, images, fit)

    outcome = Outcome("prompts", cards, list(cards), settings, len(texts), len(images), pictures=pictures)
    if session is None:
        outcome.write(out, {"seed": "of the images", "weights": {}, "settings": {}})
    else:
        session.write(out, outcome)


def score(images: "Tensor", texts: "Tensor") -> list[float]:
    """CLIPScore 0-100 of unit vectors `[N, d]` of images and of their texts."""
    return (100 * (images * texts).sum(1)).clamp(min=0).tolist()


def by_prompt(values: Sequence[float], texts: Sequence[str]) -> list[float]:
    """The mean of each prompt's images: images of one prompt are not independent, prompts are."""
    grouped: dict[str, list[float]] = {}
    for text, value in zip(texts, values, strict=True):
        grouped.setdefault(text, []).append(value)
    return [float(np.mean(own)) for own in grouped.values()]


def read_generated(folder: Path) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Prompts and images of a folder that `ddt generate` wrote.

    Raises:
        FileNotFoundError: there is no results.jsonl in it.
        ValueError: a line has no file or prompt, or a file is no image.
    """
    from ddt_lightning.evaluation.geneval_folder import read_photo

    path = folder / "results.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no results.jsonl: name a folder that `ddt generate` wrote.")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines or not all("file" in line and "prompt" in line for line in lines):
        raise ValueError(f"{path} has a line without file and prompt: name a folder that `ddt generate` wrote.")
    return [line["prompt"] for line in lines], [read_photo(folder / line["file"]) for line in lines]


def draw_sheet(path: Path, texts: Sequence[str], images: Sequence[NDArray[np.uint8]], fit: Sequence[float]) -> None:
    """Write the contact sheet of the first prompts with their first images."""
    from ddt_lightning.report.contact_sheet import Row, sheet

    rows = []
    for text in list(dict.fromkeys(texts))[:SHOWN]:
        own = [n for n, other in enumerate(texts) if other == text]
        rows.append(Row(text, [images[n] for n in own[:COLUMNS]], f"CLIP {np.mean([fit[n] for n in own]):.1f}"))
    sheet(rows).save(path)
