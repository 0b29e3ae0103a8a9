"""The draw tab: a prompt, the plan that the model writes, and the picture while its tokens arrive."""

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from ddt_lightning.app.limits import PLAN_LENGTH, TEXT_LENGTH, checked, in_words
from ddt_lightning.app.pictures import empty, figure, note
from ddt_lightning.app.sources import chips
from ddt_lightning.app.studio import Drawn, Studio, whole
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.layout import read_plan
from ddt_lightning.scenes.render import render

SKETCH = 128  # pixels of the picture of a plan


def draw_tab(studio: Studio) -> gr.State:
    """Build the tab.

    Returns:
        The state of the last picture, a `Drawn` or None.
    """
    drawn = gr.State(None)
    usual = Sampling().settled(studio.plans)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            prompt = gr.Textbox(
                label="Prompt", placeholder="a photo of ...", lines=2, max_length=TEXT_LENGTH, elem_id="draw-prompt",
                autofocus=True,
            )  # fmt: skip
            with gr.Row(elem_classes="ddt-buttons"):
                go = gr.Button("Draw", variant="primary", elem_id="draw-go")
                another = gr.Button("Another one", elem_id="draw-another")
            examples = chips(studio.examples, "draw-examples")
            with gr.Column(visible=studio.plans, elem_classes="ddt-card"):
                plan = gr.Textbox(
                    label="Plan", info="The model writes it before it draws. Change it, and draw again from it.",
                    lines=2, max_length=PLAN_LENGTH, elem_id="draw-plan",
                )  # fmt: skip
                redraw = gr.Button("Draw from this plan", size="sm", elem_id="draw-redraw")
                sketch = gr.HTML("", elem_id="draw-sketch", padding=False)
            with gr.Accordion("Options", open=False):
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="draw-seed")
                guidance = gr.Slider(
                    1, 6, usual.guidance, step=0.1, label="Guidance: how closely it follows the prompt"
                )
                temperature = gr.Slider(0, 1.5, usual.temperature, step=0.05, label="Temperature: how much it varies")
        with gr.Column(scale=6, min_width=320):
            view = gr.HTML(
                empty("The picture appears here while its tokens arrive."), elem_id="draw-view", padding=False
            )
            tokens = gr.Slider(
                1, studio.tokens, studio.tokens, step=1, interactive=False, elem_id="draw-tokens",
                label="Shown from its first tokens",
            )  # fmt: skip
            facts = gr.HTML("", elem_id="draw-facts", padding=False)

    def stream(text: str, seed: float, guidance: float, temperature: float, plan_text: str | None) -> Iterator[Any]:
        """Everything that changes on the page, step by step: the plan, the pictures, then the state."""
        start, number = time.perf_counter(), int(seed or 0)
        asked = checked(text, "The prompt")
        sampling = Sampling(guidance=guidance, temperature=temperature, plan=plan_text)
        prompts, written = studio.plan(studio.pipeline.draw_prompts([asked]), sampling, number)
        yield {plan: written, tokens: gr.update(interactive=False)}
        for part in studio.stream(prompts, sampling, number):
            count, image = part.ids.shape[1], whole(part)
            yield {view: figure(image, asked, asked, count / studio.tokens),
                   tokens: gr.update(value=count, interactive=False),
                   facts: note(f"{count} of {studio.tokens} tokens")}  # fmt: skip
        seconds = time.perf_counter() - start
        yield {
            drawn: Drawn(image, asked, part.ids[0].cpu(), written, number),
            view: figure(image, asked, asked),
            tokens: gr.update(value=studio.tokens, interactive=True),
            facts: note(f"{studio.tokens} tokens, seed {number}, {seconds:.1f} s. {studio.unknown(asked)}"),
        }  # fmt: skip

    @in_words
    def draw(text: str, seed: float, guidance: float, temperature: float) -> Iterator[Any]:
        yield from stream(text, seed, guidance, temperature, None)

    @in_words
    def draw_again(text: str, seed: float, guidance: float, temperature: float, plan_text: str) -> Iterator[Any]:
        yield from stream(text, seed, guidance, temperature, checked(plan_text, "The plan", PLAN_LENGTH))

    @in_words
    def first(picture: Drawn | None, count: int) -> Markup:
        if picture is None:
            raise ValueError("Nothing is drawn yet: draw a picture first.")
        if count == studio.tokens:
            return figure(picture.image, picture.title, picture.title)
        image = studio.first_tokens(picture.ids, [count], picture.seed)[0]
        return figure(image, f"{picture.title}, from {count} tokens", f"{picture.title} · first {count} tokens")

    options = [prompt, seed, guidance, temperature]
    changed = [drawn, view, tokens, facts, plan]
    model: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden"}
    gr.on([go.click, prompt.submit], draw, options, changed, api_name="draw", **model)
    another.click(lambda number: int(number or 0) + 1, seed, seed, queue=False, api_visibility="private").then(
        draw, options, changed, api_visibility="private", **model
    )
    examples.click(lambda sample: sample[0], examples, prompt, queue=False, api_visibility="private").then(
        draw, options, changed, api_visibility="private", **model
    )
    redraw.click(draw_again, [*options, plan], changed, api_name="draw_plan", **model)
    plan.change(sketched, plan, sketch, queue=False, show_progress="hidden", api_visibility="private")
    tokens.input(first, [drawn, tokens], view, trigger_mode="always_last", api_visibility="private", **model)
    return drawn


def sketched(plan: str) -> Markup:
    """A plan of shapes as a picture; a line of text where it is none."""
    scene = read_plan(plan[:PLAN_LENGTH])
    if scene is not None:
        return figure(render(scene, SKETCH), f"Sketch of the plan: {plan}", "what the plan says")
    return note("This plan is no whole layout of shapes; the model is given it as it stands." if plan.strip() else "")
