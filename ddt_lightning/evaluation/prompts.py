"""`ddt eval prompts`: how well drawings of any prompts fit them, or the images in a folder of `ddt generate`.

The scorer is CLIP, or a fit of `ddt study fit`. Out: `prompts.json` (cards), `prompts.png` (a contact sheet),
`prompts/` with the images and `results.jsonl`: file, prompt and scores of each. The baseline scores the same images
against other prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.scorers import check_scorers, load_pair
from ddt_lightning.evaluation.session import Session
from ddt_lightning.images import save_png
from ddt_lightning.inputs import Loading, pick_device, positive
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.prompts import read_prompts
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ddt_lightning.metrics.embeddings import Clip
    from ddt_lightning.metrics.image_text import ImageTextFit

SHOWN, COLUMNS = 24, 4  # prompts on the sheet, images of each


@dataclass(frozen=True)
class Scorer:
    """What gives vectors of images and texts whose cosine is a score.

    Args:
        key: of the score in results.jsonl and behind `t2i/` on the cards.
        name: in words.
        vectors: gives unit vectors of images and of texts.
        scorers: hashes of its weights by name.
    """

    key: str
    name: str
    vectors: "Clip | ImageTextFit"
    scorers: dict[str, str]


def prompts(
    prompt: str,
    *,
    out: str,
    clip: str | None = None,
    fit: str | None = None,
    backbone: str = "efficientnet_lite0",
    minilm: str = "minilm",
    samples: int = 1,
    chat: bool = True,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw any prompts and measure how well the images fit them, by CLIP or by a fit of `ddt study fit`.

    Args:
        prompt: what to draw; or a .txt file with a prompt on each line; or a .jsonl file with a "prompt" on each; or a
            folder that `ddt generate` wrote, whose images are taken as they are.
        out: folder for prompts.json, prompts.png and prompts/ with the images and scores.
        clip: folder of a transformers CLIP; its name is part of the score.
        fit: fit.safetensors of `ddt study fit`.
        backbone: weights of the EfficientNet-Lite0 of the fit, or `efficientnet_lite0` of `make judges`.
        minilm: folder of its MiniLM, or `minilm` of `make judges`.
        samples: how many images to draw for each prompt.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seed: of the images.
        processes: worker processes that draw, each with its share of the cores.
        loading: which model; its device is also that of CLIP and of the fit.
        drawing: how to draw.
    """
    from ddt_lightning.evaluation import predictions

    if not clip and not fit:
        raise ValueError("`--clip` or `--fit` must be given: without one of them nothing measures the images.")
    if clip:
        check_scorers({"clip": clip})
    session = None if Path(prompt).is_dir() else Session(loading, drawing, processes, seed)
    scorers = [clip_scorer(clip, loading.device)] if clip else []
    scorers += [fit_scorer(fit, backbone, minilm, loading.device)] if fit else []
    if session is None:
        texts, images = read_generated(Path(prompt))
        settings: dict[str, Any] = {"images": prompt}
    else:
        texts = [text for text in read_prompts(prompt) for _ in range(positive("samples", samples))]
        items = [(text, session.sample_seed(n)) for n, text in enumerate(texts)]
        images = [r["image"] for r in session.run(predictions.draw_prompts, items, chat)]
        settings = {"images": f"{samples} drawn for each prompt", "chat": chat}

    cards: dict[str, Card] = {}
    found: dict[str, list[float]] = {}
    for scorer in scorers:
        found[scorer.key], more = measured(scorer, images, texts)
        cards |= more

    def pictures(folder: Path) -> None:
        lines = []
        for n, (text, image) in enumerate(zip(texts, images, strict=True)):
            save_png(folder / "prompts" / f"{n:05d}.png", image)
            line = {"file": f"{n:05d}.png", "prompt": text, **{key: values[n] for key, values in found.items()}}
            lines.append(json.dumps(line, ensure_ascii=False))
        (folder / "prompts" / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        draw_sheet(folder / "prompts.png", texts, images, found)

    outcome = Outcome("prompts", cards, list(cards), settings, len(texts), len(images), pictures=pictures)
    if session is None:
        outcome.write(out, {"seed": "of the images", "weights": {}, "settings": {}})
    else:
        session.write(out, outcome)


def clip_scorer(folder: str, device: str) -> Scorer:
    """CLIP of a local folder."""
    from ddt_lightning.metrics.embeddings import Clip
    from ddt_lightning.tokens.base import weights_hash

    network = Clip(folder, pick_device(device))
    return Scorer("clip_score", f"the CLIP {Path(folder).name}", network, {"clip": weights_hash(network.model)})


def fit_scorer(path: str, backbone: str, minilm: str, device: str) -> Scorer:
    """A fit of `ddt study fit`, with its networks."""
    from ddt_lightning.metrics.image_text import ImageTextFit

    fitted = ImageTextFit(path, load_pair(backbone, minilm, device))
    return Scorer(fitted.name, f"the fit of images and texts {fitted.name}", fitted, fitted.pair.hashes)


def measured(
    scorer: Scorer, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]
) -> tuple[list[float], dict[str, Card]]:
    """Scores of images and their prompts, and the cards with their means.

    Args:
        scorer: gives the vectors.
        images: uint8 `[H, W, 3]`.
        texts: the prompt of each.
    """
    unique = list(dict.fromkeys(texts))
    text_vectors, image_vectors = scorer.vectors.texts(unique), scorer.vectors.images(images)
    at = [unique.index(text) for text in texts]
    fits = score(image_vectors, text_vectors[at])
    rule = (
        f"100 x cosine of the vectors of image and prompt, at least 0, by {scorer.name} in float32; "
        f"mean over {len(unique)} prompts of the mean of their images"
    )
    cards: dict[str, Card] = {f"t2i/{scorer.key}": mean_card(by_prompt(fits, texts), rule)}
    if len(unique) > 1:
        other = score(image_vectors, text_vectors[[(n + 1) % len(unique) for n in at]])
        text = "baseline: the same images, the next prompt"
        cards[f"t2i/{scorer.key}_floor_shuffled"] = mean_card(by_prompt(other, texts), text)
    for one in cards.values():
        one["scorers"] = scorer.scorers
    return fits, cards


def score(images: "Tensor", texts: "Tensor") -> list[float]:
    """CLIPScore 0-100 of unit vectors `[N, d]` of images and of their texts; that of a fit by the same formula."""
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


def draw_sheet(
    path: Path, texts: Sequence[str], images: Sequence[NDArray[np.uint8]], found: dict[str, list[float]]
) -> None:
    """Write the contact sheet of the first prompts with their first images and mean scores."""
    from ddt_lightning.report.contact_sheet import Row, sheet

    rows = []
    for text in list(dict.fromkeys(texts))[:SHOWN]:
        own = [n for n, other in enumerate(texts) if other == text]
        means = {key: np.mean([values[n] for n in own]) for key, values in found.items()}
        note = ", ".join(f"{'CLIP' if key == 'clip_score' else key} {mean:.1f}" for key, mean in means.items())
        rows.append(Row(text, [images[n] for n in own[:COLUMNS]], note))
    sheet(rows).save(path)
