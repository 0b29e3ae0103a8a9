"""Batches of work that evaluation workers do: plain items in, plain results out, one result for each item.

An item holds what is asked (a prompt, an image with an instruction or a question) and its seed. Images are uint8
`[H, W, 3]`. The pipeline is loaded once in each process and kept.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ddt_lightning.evaluation.session import Setup
from ddt_lightning.evaluation.similarity import similarity
from ddt_lightning.images import stack, unstack
from ddt_lightning.inputs import Loading, load_pipeline
from ddt_lightning.latents.pixels import PixelLatents, to_float
from ddt_lightning.metrics.editing import exact_match, kept_l1
from ddt_lightning.metrics.reconstruction import psnr, seams
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.check import detect
from ddt_lightning.scenes.render import CANVAS, Scene, render
from ddt_lightning.scenes.suite import as_circles
from ddt_lightning.scenes.tasks import GLOBAL_EDITS, Edit
from ddt_lightning.seeding import normal
from ddt_lightning.tokens.base import weights_hash
from ddt_lightning.tokens.error_by_noise import band_errors
from ddt_lightning.tokens.tokenizer import Tokenizer


@lru_cache(maxsize=1)
def loaded(loading: Loading, llm: bool = True) -> Pipeline:
    """The pipeline of this process."""
    return load_pipeline(loading, llm=llm)


def facts(setup: Setup, llm: bool = True) -> dict[str, Any]:
    """Facts about a model for its cards.

    Returns:
        `weights` (hashes), `model` (token order, K, image size, device), and `plan`, how it plans in the chat format.
    """
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
    plan = setup.drawing.plan_for(pipeline.vocab.plans) if llm else "none"
    return {"weights": {**pipeline.fingerprints(), **vae}, "model": {**sizes, **order, **device}, "plan": plan}


def pixels(image: Scene | np.ndarray, side: int) -> np.ndarray:
    """An image as it is, or a scene rendered at `side` pixels."""
    return render(image, side) if isinstance(image, Scene) else image


def draw_prompts(setup: Setup, items: list[tuple[str, int]], chat: bool) -> list[dict[str, Any]]:
    """Draw prompts.

    Args:
        setup: model and options.
        items: (prompt, seed) each.
        chat: ask in the chat format.

    Returns:
        `image`.
    """
    prompts, seeds = (list(column) for column in zip(*items, strict=True))
    images = loaded(setup.loading).text_to_image(prompts, setup.drawing, seed=seeds, chat=chat)
    return [{"image": image} for image in unstack(images)]


def draw_and_check(
    setup: Setup, items: list[tuple[str, Scene, int]], chat: bool, kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Draw prompts, and find the objects in the drawings and in the images of the upper bounds and the baseline.

    Args:
        setup: model and options.
        items: (prompt, a scene that fulfils it, seed) each.
        chat: ask in the chat format.
        kinds: what an object can be.

    Returns:
        `image`, its `plan`, and the objects found: `drawn` in it, `render` in the rendered scene, `reconstruction` in
        that as the tokenizer reconstructs it, `circles` in the scene with all shapes drawn as circles.
    """
    pipeline = loaded(setup.loading)
    prompts, scenes, seeds = (list(column) for column in zip(*items, strict=True))
    renders = [render(scene, pipeline.image_size) for scene in scenes]
    drawing = pipeline.draw(pipeline.draw_prompts(prompts, chat=chat), setup.drawing, seed=seeds)
    images = {
        "drawn": unstack(drawing.images),
        "render": renders,
        "reconstruction": unstack(pipeline.reconstruct(stack(renders), decoding=setup.drawing, seed=seeds)),
        "circles": [render(as_circles(scene), pipeline.image_size) for scene in scenes],
    }
    found = {name: [detect(image, kinds).objects for image in column] for name, column in images.items()}
    return [
        {"image": image, "plan": drawing.plans[n], **{name: column[n] for name, column in found.items()}}
        for n, image in enumerate(images["drawn"])
    ]


def write_plans(setup: Setup, items: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Plan prompts without drawing them: the `plan` of each (prompt, seed)."""
    pipeline = loaded(setup.loading)
    prompts, seeds = (list(column) for column in zip(*items, strict=True))
    _, plans = pipeline.plan(pipeline.draw_prompts(prompts), setup.drawing, seed=seeds)
    return [{"plan": plan} for plan in plans]


def write_texts(setup: Setup, items: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    """The `text` that answers each request in words; an item holds the parts of a request."""
    pipeline = loaded(setup.loading)
    rows = [pipeline.vocab.chat_prompt([{"role": "user", "content": list(parts)}]) for parts in items]
    return [{"text": pipeline.vocab.read_text(ids).strip()} for ids in pipeline.write_ids(rows, Sampling.plan_length)]


def edit_images(setup: Setup, items: list[tuple[np.ndarray, np.ndarray, str, int]]) -> list[dict[str, Any]]:
    """Carry out edits.

    Args:
        setup: model and options.
        items: (source, target, instruction, seed) each.

    Returns:
        `image`, its `plan`, and `copy`: the tokenizer's reconstruction of the target.
    """
    pipeline = loaded(setup.loading)
    sources, targets, instructions, seeds = (list(column) for column in zip(*items, strict=True))
    drawing = pipeline.draw(pipeline.edit_prompts(stack(sources), instructions), setup.drawing, seed=seeds)
    copies = pipeline.reconstruct(stack(targets), decoding=setup.drawing, seed=seeds)
    made = zip(unstack(drawing.images), drawing.plans, unstack(copies), strict=True)
    return [{"image": image, "plan": plan, "copy": copy} for image, plan, copy in made]


def check_edits(setup: Setup, items: list[tuple[Edit, np.ndarray, np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Compare edits of scenes with their ground truth.

    Args:
        setup: not used; every batch of work has one.
        items: (edit, image, target, copy) each; the copy is the tokenizer's reconstruction of the target.

    Returns:
        `correct` and `kept_l1` of the image; `bound_correct` and `bound_kept_l1` of the copy, their upper bounds. The
        `kept_l1` of a global edit is None, as it keeps nothing.
    """
    return [
        {
            f"{of}{name}": value
            for of, picture in (("", image), ("bound_", copy))
            for name, value in check_edit(edit, picture, target).items()
        }
        for edit, image, target, copy in items
    ]


def check_edit(edit: Edit, image: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """`correct` and `kept_l1` of one image as the result of an edit."""
    everywhere, scale = edit.kind in GLOBAL_EDITS, len(image) / CANVAS
    boxes = [(a * scale, b * scale, c * scale, d * scale) for a, b, c, d in edit.boxes]
    return {
        "correct": exact_match(image, edit.target.to_dict(), background=everywhere),
        "kept_l1": None if everywhere else kept_l1(image, target, boxes),
    }


def answer_questions(setup: Setup, items: list[tuple[np.ndarray, str, np.ndarray]]) -> list[dict[str, Any]]:
    """Answer questions, and the same questions about another image: a blind baseline.

    Args:
        setup: model and options.
        items: (image, question, another image) each.

    Returns:
        `answer`, the `plan` before it, and `blind`, the answer about the other image.
    """
    pipeline = loaded(setup.loading)
    images, questions, others = (list(column) for column in zip(*items, strict=True))
    looks = setup.drawing.looks
    said = pipeline.write_planned(pipeline.describe_prompts(stack(images), questions), max_new_tokens=12, looks=looks)
    blind = pipeline.describe_image(stack(others), questions, max_new_tokens=12, looks=looks)
    return [{"answer": text, "plan": plan, "blind": guess} for (plan, text), guess in zip(said, blind, strict=True)]


def describe_images(setup: Setup, items: list[np.ndarray], chat: bool) -> list[dict[str, Any]]:
    """The `caption` of each image, in the chat format if `chat`."""
    looks = setup.drawing.looks
    return [{"caption": text} for text in loaded(setup.loading).describe_image(stack(items), chat=chat, looks=looks)]


def reconstruct_images(
    setup: Setup, items: list[tuple[Scene | np.ndarray, int]], counts: list[int], lpips: str | None = None
) -> list[dict[str, Any]]:
    """Encode and decode images, also with the first n tokens only.

    Args:
        setup: model and options; the language model is not needed.
        items: (image or scene, seed) each.
        counts: numbers of first tokens to decode beside all of them.
        lpips: weights for LPIPS.

    Returns:
        `original`, `images` {n: image}, `psnr` {n: dB}, the other fields of `similarity`, `ids`, `errors` {band of
        noise: squared error of x0}, empty where the tokenizer is none of DDT, and `seams` of one whose patches are
        several pixels of an image.
    """
    pipeline = loaded(setup.loading, False)
    originals = [pixels(image, pipeline.image_size) for image, _ in items]
    seeds = [seed for _, seed in items]
    truth = stack(originals)
    ids = pipeline.encode(truth)
    numbers = dict.fromkeys([*counts, ids.shape[1]])
    made = {n: pipeline.decode(ids[:, :n], setup.drawing, seed=seeds) for n in numbers}
    distances = {n: psnr(images, truth).tolist() for n, images in made.items()}
    pairs = similarity(pipeline, made[ids.shape[1]], truth, lpips)
    errors: dict[str, list[float]] = {}
    borders: dict[str, list[float]] = {}
    if isinstance(pipeline.tokenizer, Tokenizer):  # others see no noise, and have no patches
        patch = pipeline.tokenizer.config.patch
        if isinstance(pipeline.latents, PixelLatents) and 1 < patch < pipeline.image_size:
            borders["seams"] = seams(made[ids.shape[1]], truth, patch).tolist()
        latents = pipeline.latents.encode(to_float(truth.to(ids.device)))
        noise = normal(tuple(latents.shape[1:]), "band errors", samples=torch.tensor(seeds)).to(ids.device)
        bands = band_errors(pipeline.tokenizer, latents, ids, noise)
        errors = {band: values.tolist() for band, values in bands.items()}
    arrays = {n: unstack(images) for n, images in made.items()}
    return [
        {
            **pairs[i],
            **{name: values[i] for name, values in borders.items()},
            "original": originals[i],
            "images": {n: images[i] for n, images in arrays.items()},
            "psnr": {n: values[i] for n, values in distances.items()},
            "ids": ids[i].tolist(),
            "errors": {band: values[i] for band, values in errors.items()},
        }
        for i in range(len(items))
    ]
