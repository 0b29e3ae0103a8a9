"""What evaluation workers do: plain items in, plain results out, a batch at a time.

An item holds what is asked (a prompt, an edit, a question, a scene) and its seed; a result holds images as uint8
`[H, W, 3]` and what the checker found in them. The pipeline is loaded once in each process and kept.
"""

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ddt_lightning.evaluation.similarity import likeness
from ddt_lightning.images import stack, unstack
from ddt_lightning.inputs import Loading, Setup, load_pipeline
from ddt_lightning.latents.pixels import PixelLatents, to_float
from ddt_lightning.metrics.editing import exact_match, kept_l1
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.check import Object, detect
from ddt_lightning.scenes.render import CANVAS, Scene, render
from ddt_lightning.scenes.suite import as_circles
from ddt_lightning.scenes.tasks import GLOBAL_EDITS, Edit, Question
from ddt_lightning.seeding import normal
from ddt_lightning.tokens.base import weights_hash
from ddt_lightning.tokens.error_by_noise import band_errors
from ddt_lightning.tokens.tokenizer import Tokenizer


@lru_cache(maxsize=1)
def loaded(loading: Loading, llm: bool = True) -> Pipeline:
    """The pipeline of this process."""
    return load_pipeline(loading, llm=llm)


def facts(setup: Setup, llm: bool = True) -> dict[str, Any]:
    """What cards say about a model: hashes of its weights, its token order, K, image size and device."""
    pipeline = loaded(setup.loading, llm)
    config = pipeline.tokenizer.config
    sizes: dict[str, int | str] = {
        "image_size": pipeline.image_size,
        "tokens": config.tokens,
        "codebook_size": config.codebook_size,
        "kind": pipeline.tokenizer.kind,
        "bits": round(pipeline.tokenizer.bits),
    }
    sizes |= {} if pipeline.renderer is None else {"decoder": "renderer"}
    order = {"order": pipeline.vocab.order} if llm else {}
    vae = {} if isinstance(pipeline.latents, PixelLatents) else {"vae": weights_hash(pipeline.latents)}
    device = {"device": next(pipeline.tokenizer.parameters()).device.type}
    return {"weights": {**pipeline.fingerprints(), **vae}, "model": {**sizes, **order, **device}}


def draw_prompts(setup: Setup, items: list[tuple[str, Scene, int]], chat: bool) -> list[dict[str, Any]]:
    """Draw prompts, and check their ground truth, its reconstruction and its circles too.

    Args:
        setup: model and options.
        items: (prompt, a scene that fulfils it, seed) each.
        chat: whether to ask in the chat format.

    Returns:
        `image`, and the objects found in `drawn`, `render`, `reconstruction` and `circles`, for each item.
    """
    pipeline = loaded(setup.loading)
    prompts, scenes, seeds = (list(column) for column in zip(*items, strict=True))
    images = unstack(pipeline.text_to_image(prompts, seed=seeds, chat=chat, **asdict(setup.drawing)))
    renders = [render(scene, pipeline.image_size) for scene in scenes]
    again = unstack(pipeline.reconstruct(stack(renders), seed=seeds, **setup.decoding))
    circles = [render(as_circles(scene), pipeline.image_size) for scene in scenes]
    found: list[dict[str, Any]] = []
    for image, truth, copy, circle in zip(images, renders, again, circles, strict=True):
        found.append({"image": image, "drawn": objects(image), "render": objects(truth)})
        found[-1].update({"reconstruction": objects(copy), "circles": objects(circle)})
    return found


def draw_texts(setup: Setup, items: list[tuple[str, int]], chat: bool) -> list[dict[str, Any]]:
    """Draw prompts: the `image` of each (prompt, seed), asked in the chat format if `chat`."""
    pipeline = loaded(setup.loading)
    prompts, seeds = (list(column) for column in zip(*items, strict=True))
    images = unstack(pipeline.text_to_image(prompts, seed=seeds, chat=chat, **asdict(setup.drawing)))
    return [{"image": image} for image in images]


def objects(image: np.ndarray) -> list[Object]:
    """What the checker finds in an image."""
    return detect(image).objects


def make_edits(setup: Setup, items: list[tuple[Edit, int]]) -> list[dict[str, Any]]:
    """Carry edits out and compare with their targets.

    Returns:
        `source`, `image`, `target`, `copy` (the tokenizer's, of the target); `correct`; `ceiling`, whether the copy is
        correct; `kept_l1` and `ceiling_kept_l1` of local edits (None for global ones).
    """
    pipeline = loaded(setup.loading)
    side = pipeline.image_size
    edits, seeds = [edit for edit, _ in items], [seed for _, seed in items]
    sources = [render(edit.source, side) for edit in edits]
    targets = [render(edit.target, side) for edit in edits]
    instructions = [edit.instruction for edit in edits]
    images = unstack(pipeline.edit_image(stack(sources), instructions, seed=seeds, **asdict(setup.drawing)))
    copies = unstack(pipeline.reconstruct(stack(targets), seed=seeds, **setup.decoding))
    found = []
    for edit, source, image, target, copy in zip(edits, sources, images, targets, copies, strict=True):
        wanted, ground = edit.target.to_dict(), edit.kind in GLOBAL_EDITS
        scale = side / CANVAS
        boxes = [(a * scale, b * scale, c * scale, d * scale) for a, b, c, d in edit.boxes]
        found.append(
            {
                "source": source,
                "image": image,
                "target": target,
                "copy": copy,
                "correct": exact_match(image, wanted, background=ground),
                "ceiling": exact_match(copy, wanted, background=ground),
                "kept_l1": None if ground else kept_l1(image, target, boxes),
                "ceiling_kept_l1": None if ground else kept_l1(copy, target, boxes),
            }
        )
    return found


def edit_pictures(setup: Setup, items: list[tuple[np.ndarray, np.ndarray, str, int]]) -> list[dict[str, Any]]:
    """Carry edits out: (source, target, instruction, seed) to `image` and `copy`, the tokenizer's of the target."""
    pipeline = loaded(setup.loading)
    sources, targets, instructions, seeds = (list(column) for column in zip(*items, strict=True))
    images = pipeline.edit_image(stack(sources), instructions, seed=seeds, **asdict(setup.drawing))
    copies = pipeline.reconstruct(stack(targets), seed=seeds, **setup.decoding)
    return [{"image": a, "copy": b} for a, b in zip(unstack(images), unstack(copies), strict=True)]


def answer_questions(setup: Setup, items: list[tuple[Question, Scene]]) -> list[dict[str, Any]]:
    """Answer questions about their images, and the same questions about another image (the blind floor).

    Returns:
        `image`, `answer`, `blind`.
    """
    pipeline = loaded(setup.loading)
    asked = [question.question for question, _ in items]
    images = [render(question.scene, pipeline.image_size) for question, _ in items]
    others = [render(other, pipeline.image_size) for _, other in items]
    answers = pipeline.describe_image(stack(images), asked, max_new_tokens=12)
    blind = pipeline.describe_image(stack(others), asked, max_new_tokens=12)
    columns = zip(images, answers, blind, strict=True)
    return [{"image": image, "answer": answer, "blind": guess} for image, answer, guess in columns]


def answer_pictures(setup: Setup, items: list[tuple[np.ndarray, str, np.ndarray]]) -> list[dict[str, Any]]:
    """Answer (image, question, another image): the `answer` about the image and, `blind`, about the other one."""
    pipeline = loaded(setup.loading)
    images, asked, others = (list(column) for column in zip(*items, strict=True))
    answers = pipeline.describe_image(stack(images), asked, max_new_tokens=12)
    blind = pipeline.describe_image(stack(others), asked, max_new_tokens=12)
    return [{"answer": answer, "blind": guess} for answer, guess in zip(answers, blind, strict=True)]


def caption_pictures(setup: Setup, items: list[np.ndarray], chat: bool) -> list[dict[str, Any]]:
    """The `caption` of each image, in the chat format if `chat`."""
    return [{"caption": text} for text in loaded(setup.loading).describe_image(stack(items), chat=chat)]


def write_captions(setup: Setup, items: list[Scene]) -> list[dict[str, Any]]:
    """Describe scenes in the chat format: `image` and `caption` of each."""
    pipeline = loaded(setup.loading)
    images = [render(scene, pipeline.image_size) for scene in items]
    captions = pipeline.describe_image(stack(images))
    return [{"image": image, "caption": text} for image, text in zip(images, captions, strict=True)]


def reconstruct_images(
    setup: Setup, items: list[tuple[Scene | np.ndarray, int]], counts: list[int], lpips: str | None = None
) -> list[dict[str, Any]]:
    """Encode and decode images, also with the first n tokens only.

    Args:
        setup: model and options; the language model is not needed.
        items: (scene, or uint8 `[H, W, 3]`, and seed) each.
        counts: numbers of first tokens to decode beside all of them.
        lpips: weights for LPIPS.

    Returns:
        `original`, `images` {n: image}, `psnr` {n: dB}, the other fields of `likeness`, `ids`, `errors` {band of noise:
        squared error of x0}, empty where the tokenizer is none of DDT.
    """
    pipeline = loaded(setup.loading, False)
    originals = [x if isinstance(x, np.ndarray) else render(x, pipeline.image_size) for x, _ in items]
    seeds = [seed for _, seed in items]
    truth = stack(originals)
    ids = pipeline.encode(truth)
    made = {
        n: pipeline.decode(ids[:, :n], seed=seeds, **setup.decoding) for n in dict.fromkeys([*counts, ids.shape[1]])
    }
    distances = {n: psnr(images, truth).tolist() for n, images in made.items()}
    alike = likeness(pipeline, made[ids.shape[1]], truth, lpips)
    errors: dict[str, list[float]] = {}
    if isinstance(pipeline.tokenizer, Tokenizer):  # others see no noise
        latents = pipeline.latents.encode(to_float(truth.to(ids.device)))
        noise = normal(tuple(latents.shape[1:]), "band errors", samples=torch.tensor(seeds)).to(ids.device)
        bands = band_errors(pipeline.tokenizer, latents, ids, noise)
        errors = {band: values.tolist() for band, values in bands.items()}
    arrays = {n: unstack(images) for n, images in made.items()}
    return [
        {
            **alike[i],
            "original": originals[i],
            "images": {n: images[i] for n, images in arrays.items()},
            "psnr": {n: values[i] for n, values in distances.items()},
            "ids": ids[i].tolist(),
            "errors": {band: values[i] for band, values in errors.items()},
        }
        for i in range(len(items))
    ]
