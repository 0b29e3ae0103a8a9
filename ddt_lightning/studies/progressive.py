"""Progressive decoding: an image from the first t of its tokens, for growing t, by several tokenizers.

In: images (or what a language model draws) and models. Out: pictures, PSNR, SSIM and LPIPS against t, and how often one
more token brings the picture closer. Where the decoder is a flow, also the other reading of "recursive": from the true
x_t, which noise has robbed of something, and the tokens 0..d(t), how well is the image known in one step, against the
same without tokens? Source: project page of DDT-LLaMA, "Progressively Image Decoding"; Selftok decodes 32 prefixes of
K/32 tokens each.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddt_lightning.latents.pixels import to_float, to_uint8
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.metrics.reconstruction import psnr, ssim
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.plans.cached_arrays import Arrays, measured
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.style import spread_of
from ddt_lightning.sampling import Sampling
from ddt_lightning.seeding import normal
from ddt_lightning.studies.side_by_side import Model, device_of, digest, file_name
from ddt_lightning.tokens.flow import interpolate, x0_from_velocity
from ddt_lightning.tokens.schedule import visible_mask
from ddt_lightning.tokens.tokenizer import Tokenizer

NAME = "progressive"
PLAIN = (
    "From left to right the decoder is given more of an image's tokens, in their order: watch whether the picture "
    "comes place by place, or all of it at once and ever more like the original."
)


@dataclass(frozen=True)
class Plan:
    """Settings of a call: numbers of first tokens and decoding.

    Args:
        points: numbers of first tokens, evenly spaced up to all; also the noise levels of the other reading.
        shown: how many of the images are kept as pictures.
        seed: of the decoder's noise.
        batch: images at a time.
        lpips: torchvision's weights of AlexNet or VGG-16; LPIPS is left out without.
        drawing: how a language model draws, and how ids become images.
    """

    points: int
    shown: int
    seed: int
    batch: int
    lpips: str | None
    drawing: Sampling

    def __post_init__(self) -> None:
        for name in ("points", "shown", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` ({getattr(self, name)}) must be at least 1.")

    def seeds(self, rows: slice) -> list[int]:
        """The seed of each image."""
        return [1_000_000 * self.seed + n for n in range(rows.start, rows.stop)]

    def kept(self, rows: slice) -> int:
        """Number of these rows that are kept as pictures."""
        return max(0, min(rows.stop, self.shown) - rows.start)

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoder's options."""
        return {name: getattr(self.drawing, name) for name in ("steps", "decode_guidance", "solver", "shift")}


@dataclass(frozen=True)
class Progress:
    """Scores of one model.

    Args:
        name: of the model.
        folder: of the model.
        weights: hashes of its parts.
        tokens: K.
        counts: numbers of first tokens.
        psnr: a score for each count; empty for drawn images, which have no truth.
        ssim: the same.
        lpips: the same; empty without its weights too.
        falls: share of the steps from one count to the next in which an image's error falls; None without a truth.
        times: noise levels t of the true x_t; empty where the decoder is no flow.
        seen: tokens visible at each.
        informed: squared error of the x0 seen in one step from x_t and these tokens, in units of the latents.
        uninformed: the same without tokens.
    """

    name: str
    folder: str
    weights: dict[str, str]
    tokens: int
    counts: list[int]
    psnr: list[Card]
    ssim: list[Card]
    lpips: list[Card]
    falls: Card | None
    times: list[float]
    seen: list[int]
    informed: list[Card]
    uninformed: list[Card]


def first_tokens(tokens: int, points: int) -> list[int]:
    """At most `points` numbers of first tokens, evenly spaced from `tokens / points` to `tokens`."""
    return sorted({-(-tokens * point // points) for point in range(1, points + 1)})


def rising(scores: np.ndarray) -> np.ndarray:
    """Share of the steps in which a score rises, for each row of `[N, points]`; nan for one point."""
    if scores.shape[1] < 2:
        return np.full(len(scores), np.nan)
    return (np.diff(scores, axis=1) > 0).mean(1)


def prefixes(
    pipeline: Pipeline, ids: Tensor, truth: Tensor | None, counts: Sequence[int], plan: Plan, rows: slice,
    lpips: Lpips | None,
) -> Arrays:  # fmt: skip
    """Decode the first tokens of some images.

    Args:
        pipeline: the model.
        ids: `[B, K]`.
        truth: the images, uint8 `[B, 3, H, W]`; None for ids that were drawn.
        counts: numbers of first tokens.
        plan: what is kept, and how to decode.
        rows: which of all images these are.
        lpips: the distance, if there is one.

    Returns:
        `pictures` uint8 `[kept, points, 3, H, W]`; with a truth `psnr`, `ssim`, and `lpips` if given, `[B, points]`.
    """
    pictures, scores = [], dict[str, list[Tensor]]()
    for count in counts:
        made = pipeline.decode(ids[:, :count], seed=plan.seeds(rows), **plan.decoding)
        pictures.append(made[: plan.kept(rows)])
        if truth is None:
            continue
        scores.setdefault("psnr", []).append(psnr(made, truth))
        scores.setdefault("ssim", []).append(ssim(made, truth))
        if lpips is not None:
            scores.setdefault("lpips", []).append(lpips(to_float(made), to_float(truth)))
    arrays = {key: torch.stack(values, 1).double().numpy() for key, values in scores.items()}
    return {"pictures": torch.stack(pictures, 1).numpy(), **arrays}


@torch.no_grad()
def from_noisy(
    tokenizer: Tokenizer,
    pipeline: Pipeline,
    ids: Tensor,
    truth: Tensor,
    times: Sequence[float],
    plan: Plan,
    rows: slice,
) -> Arrays:
    """One-step predictions of x0 from the true x_t, with the tokens visible at t and without any.

    Args:
        tokenizer: of the pipeline; its decoder is a flow.
        pipeline: the model.
        ids: `[B, K]`.
        truth: the images, uint8 `[B, 3, H, W]`.
        times: t, above 0 up to 1.
        plan: what is kept.
        rows: which of all images these are.

    Returns:
        Squared errors of x0 in units of the latents, `informed` and `uninformed` `[B, times]`; `noisy_pictures` uint8
        `[kept, times, 3, 3, H, W]`: x_t, x0 without tokens, x0 with tokens.
    """
    device = device_of(pipeline)
    latents = pipeline.latents.encode(to_float(truth.to(device)))
    noise = normal(tuple(latents.shape[1:]), NAME, samples=torch.tensor(plan.seeds(rows))).to(device)
    tokens = tokenizer.embed(ids.to(device))
    errors: dict[str, list[Tensor]] = {"uninformed": [], "informed": []}
    pictures, kept = [], plan.kept(rows)
    for time in times:
        t = latents.new_full((len(latents),), time)
        x_t = interpolate(latents, noise, t)
        shown = [x_t]
        for key, count in (("uninformed", 0), ("informed", visible_count(tokenizer, time))):
            x0 = x0_from_velocity(x_t, tokenizer.velocity(x_t, t, tokens[:, :count]), t)
            errors[key].append((x0 - latents).square().flatten(1).mean(1))
            shown.append(x0)
        if kept:
            pictures.append(torch.stack([to_uint8(pipeline.latents.decode(one[:kept])) for one in shown], 1))
    arrays = {key: torch.stack(values, 1).double().cpu().numpy() for key, values in errors.items()}
    none = truth.new_empty(0, len(times), 3, *truth.shape[1:])
    return {"noisy_pictures": (torch.stack(pictures, 1) if kept else none).numpy(), **arrays}


def visible_count(tokenizer: Tokenizer, time: float) -> int:
    """Number of tokens that the decoder sees at t."""
    config = tokenizer.config
    return int(visible_mask(config.schedule, config.tokens, torch.tensor([time])).sum())


def draw(model: Model, prompts: Sequence[str], chat: bool, plan: Plan, out: Path) -> tuple[Tensor, Tensor]:
    """Ids `[N, K]` that a model's language model draws for prompts, and their whole images uint8 `[N, 3, H, W]`."""
    pipeline, sampling = model.pipeline, plan.drawing

    def make(rows: slice) -> Arrays:
        asked = pipeline.draw_prompts(prompts[rows], chat=chat)
        ids = pipeline.draw_ids(asked, sampling, seed=plan.seeds(rows)).cpu()
        return {"ids": ids.numpy(), "images": pipeline.decode(ids, seed=plan.seeds(rows), **plan.decoding).numpy()}

    facts = {"prompts": list(prompts), "chat": chat, "seed": plan.seed, "weights": pipeline.fingerprints()}
    name = f"{NAME}.drawn.{file_name(model.name)}"
    found = measured(out, name, {**facts, **asdict(plan.drawing)}, len(prompts), plan.batch, make)
    return torch.from_numpy(found["ids"]), torch.from_numpy(found["images"])


def follow(
    model: Model, images: Tensor, drawn: Tensor | None, scored: bool, plan: Plan, out: Path
) -> tuple[Progress, Arrays]:
    """Everything about one model.

    Args:
        model: the model.
        images: uint8 `[N, 3, H, W]`.
        drawn: the ids of these images where the model's language model drew them; otherwise they are encoded.
        scored: whether the images are a truth to compare with.
        plan: what to do.
        out: the study's folder.

    Returns:
        The scores, and the pictures of `prefixes` and `from_noisy`.
    """
    pipeline = model.pipeline
    counts = first_tokens(model.tokens, plan.points)
    flow = pipeline.tokenizer if scored and isinstance(pipeline.tokenizer, Tokenizer) else None
    times = [] if flow is None else [point / plan.points for point in range(1, plan.points + 1)]
    lpips = Lpips(plan.lpips) if scored and plan.lpips is not None else None

    def make(rows: slice) -> Arrays:
        part = images[rows]
        ids = pipeline.encode(part) if drawn is None else drawn[rows]
        arrays = prefixes(pipeline, ids, part if scored else None, counts, plan, rows, lpips)
        if flow is not None:
            arrays |= from_noisy(flow, pipeline, ids, part, times, plan, rows)
        return arrays

    weights = pipeline.fingerprints()
    facts: dict[str, Any] = {
        "images": digest(images), "drawn": None if drawn is None else digest(drawn), "scored": scored,
        "weights": weights, "points": plan.points, "shown": plan.shown, "seed": plan.seed, "lpips": plan.lpips,
    }  # fmt: skip
    name = f"{NAME}.{file_name(model.name)}"
    arrays = measured(out, name, {**facts, **plan.decoding}, len(images), plan.batch, make)
    seen = [] if flow is None else [visible_count(flow, time) for time in times]
    return Progress(
        model.name, model.folder, weights, model.tokens, counts, times=times, seen=seen, **cards(arrays)
    ), arrays


def cards(arrays: Arrays) -> dict[str, Any]:
    """The scores of `Progress`: means over images with 95 % intervals."""
    texts = {
        "psnr": "PSNR of each uint8 image from its first t tokens against the original, in dB; mean over images",
        "ssim": "SSIM of the same, Gaussian window 11 x 11",
        "lpips": "LPIPS of the same",
        "informed": "squared error of the x0 seen in one step from the true x_t and the tokens visible at t",
        "uninformed": "squared error of the same without tokens",
    }
    found: dict[str, Any] = {
        key: [mean_card(column.tolist(), text) for column in arrays[key].T] if key in arrays else []
        for key, text in texts.items()
    }
    text = "share of the steps from one number of first tokens to the next in which an image's error falls"
    steps = "psnr" in arrays and arrays["psnr"].shape[1] > 1
    return {**found, "falls": mean_card(rising(arrays["psnr"]).tolist(), text) if steps else None}


def count_at(one: Progress, point: int, points: int) -> int:
    """The number of first tokens nearest above `point / points` of a model's tokens that was decoded."""
    return next(count for count in one.counts if count * points >= one.tokens * point)


def gain(one: Progress, level: float) -> str:
    """Error without tokens divided by the error with them, at the noise level nearest to `level`."""
    if not one.times:
        return ""
    at = min(range(len(one.times)), key=lambda n: abs(one.times[n] - level))
    return f"{one.uninformed[at]['value'] / one.informed[at]['value']:.2f}"


def score_table(outcomes: Sequence[Progress]) -> Table:
    """PSNR by share of the tokens, how often it rises, and what tokens are worth at each noise level."""
    quarters = (1, 2, 3, 4)
    levels = [part / 4 for part in quarters] if any(one.times for one in outcomes) else []
    head = ["model", "tokens", *(f"PSNR, first {25 * part} %" for part in quarters), "error falls"]
    rows = []
    for one in outcomes:
        cells = [spread_of(one.psnr[one.counts.index(count_at(one, part, 4))], 1) for part in quarters]
        falls = spread_of(one.falls, 0, 100, " %") if one.falls else ""
        rows.append([one.name, str(one.tokens), *cells, falls, *(gain(one, level) for level in levels)])
    return Table([*head, *(f"gain at t {level:g}" for level in levels)], rows)


def findings(outcomes: Sequence[Progress], plan: Plan, source: str, images: int, pictures: dict[str, str]) -> Findings:
    """The outcome of the study.

    Args:
        outcomes: of each model.
        plan: what was decoded.
        source: where the images come from, in words.
        images: how many there are.
        pictures: {file: caption} of what was drawn.
    """
    scored = [one for one in outcomes if one.psnr]
    explained = f"{source}."
    if scored:
        explained += (
            " PSNR in dB; ±: 95 % over images. Error falls: share of the steps to more tokens that bring an image "
            "closer to its original."
        )
    if any(one.times for one in outcomes):
        explained += (
            " Gain at t: how much smaller the squared error of the image seen in one step from the true x_t is with "
            "the tokens visible there than without any; 1 is no gain."
        )
    numbers = {"source": source, "images": images, "settings": asdict(plan),
               "models": [asdict(one) for one in outcomes]}  # fmt: skip
    tables = [score_table(scored)] if scored else []
    return Findings(NAME, "Decoding the first tokens", PLAIN, explained, tables, pictures, numbers)
