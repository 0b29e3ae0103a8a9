"""The tokens tab: what the first tokens of a picture carry, and what happens when two pictures exchange them."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from markupsafe import Markup
from torch import Tensor

from ddt_lightning.app.limits import in_words
from ddt_lightning.app.pictures import empty, figure, note, row
from ddt_lightning.app.sources import Source, chosen
from ddt_lightning.app.studio import PREVIEW, Picture, Studio
from ddt_lightning.images import stack, unstack
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline


@dataclass(frozen=True)
class Coded:
    """A picture with its ids `[K]`."""

    picture: Picture
    ids: Tensor


def tokens_tab(studio: Studio, drawn: gr.State) -> None:
    """Build the tab; `drawn` is the state of the draw tab."""
    states = [gr.State(None), gr.State(None)]
    with gr.Row():
        sources = []
        for letter in "AB":
            with gr.Column(min_width=300, elem_classes="ddt-card"):
                gr.HTML(f"<h3>Picture {letter}</h3>", padding=False)
                sources.append(Source(studio, drawn, f"Picture {letter}", f"tokens-{letter.lower()}"))
    gr.HTML("<h3>Picture A from its first tokens</h3>", padding=False)
    strip = gr.HTML(empty("Choose picture A."), elem_id="tokens-strip", padding=False)
    gr.HTML("<h3>The first tokens change places</h3>", padding=False)
    count = gr.Slider(
        0, studio.tokens, studio.tokens // 2, step=1, elem_id="tokens-count",
        label="First tokens that are exchanged",
    )  # fmt: skip
    mixed = gr.HTML(empty("Choose pictures A and B."), elem_id="tokens-mixed", padding=False)
    if studio.others:
        gr.HTML("<h3>Other tokenizers on picture A</h3>", padding=False)
        beside = gr.HTML(empty("Choose picture A."), elem_id="tokens-beside", padding=False)

    @in_words
    def encode(picture: Picture | None) -> Coded:
        one = chosen(picture)
        return Coded(one, studio.ids(one.image))

    @in_words
    def progressive(one: Coded | None) -> Markup:
        return first_tokens(studio.plain, one.picture) if one else empty("Choose picture A.")

    @in_words
    def exchange(one: Coded | None, other: Coded | None, number: int) -> Markup:
        if one is None or other is None:
            return empty("Choose pictures A and B.")
        made = exchanged(studio.plain, one.ids, other.ids, number)
        names = [f"A with the first {number} of B", f"B with the first {number} of A"]
        ends = [figure(side.picture.image, f"picture {letter}", letter) for side, letter in ((one, "A"), (other, "B"))]
        middle = [figure(image, name, name) for image, name in zip(made, names, strict=True)]
        return row([ends[0], *middle, ends[1]], "four")

    @in_words
    def compare(one: Coded | None) -> Markup:
        if one is None:
            return empty("Choose picture A.")
        rows = {f"{studio.pipeline.tokenizer.kind.upper()} (this model)": studio.plain, **studio.others}
        parts = [note(name) + first_tokens(pipeline, one.picture) for name, pipeline in rows.items()]
        return Markup("").join(parts)

    model: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private", "show_progress": "hidden"}
    for source, state in zip(sources, states, strict=True):
        for event in source.events:
            read = event.success(encode, source.picture, state, **model)
            if source is sources[0]:
                read.success(progressive, state, strip, **model)
                if studio.others:
                    read.success(compare, state, beside, **model)
            read.success(exchange, [*states, count], mixed, **model)
    count.input(exchange, [*states, count], mixed, trigger_mode="always_last", **model)


def counts(tokens: int) -> list[int]:
    """Numbers of first tokens that a strip shows: doubled from one to the last, with all of them."""
    doubled = [2**n for n in range(tokens.bit_length())]
    return sorted({*(n for n in doubled if n <= tokens), tokens})


def first_tokens(pipeline: Pipeline, picture: Picture) -> Markup:
    """A strip of a picture from its first n tokens, with the peak signal-to-noise ratio to the picture."""
    side = pipeline.image_size
    original = stack([picture.image])
    if original.shape[-1] != side:
        original = torch.nn.functional.interpolate(original.float(), side, mode="area").round().to(torch.uint8)
    ids = pipeline.encode(original)
    figures = [figure(unstack(original)[0], "original", "original")]
    for number in counts(pipeline.tokenizer.config.tokens):
        made = pipeline.decode(ids[:, :number], PREVIEW, seed=0).cpu()
        name = f"{number} token{'s' if number > 1 else ''}"
        figures.append(figure(unstack(made)[0], name, f"{name} · {float(psnr(made, original)):.1f} dB"))
    return row(figures)


def exchanged(pipeline: Pipeline, one: Tensor, other: Tensor, count: int) -> list[Any]:
    """Pictures of ids `[K]` whose first `count` are those of the other, uint8 `[H, W, 3]` each, from the same noise."""
    mixed = torch.stack([torch.cat([other[:count], one[count:]]), torch.cat([one[:count], other[count:]])])
    return unstack(pipeline.decode(mixed, PREVIEW, seed=[0, 0]).cpu())
