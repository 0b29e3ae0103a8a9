"""The edit tab: instructions one after the other change a picture, with the way back."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup

from ddt_lightning.app.limits import EDITS, TEXT_LENGTH, checked, in_words
from ddt_lightning.app.pictures import empty, figure, note, row
from ddt_lightning.app.sources import Source, chips, chosen
from ddt_lightning.app.studio import Picture, Studio, whole
from ddt_lightning.chat import Edits
from ddt_lightning.images import stack
from ddt_lightning.pipeline import Drawing, Prompts
from ddt_lightning.sampling import Sampling

SHORTEST_PLAN = 24  # ids that a plan has room for at least


@dataclass(frozen=True)
class Step:
    """A picture on the way, and the conversation up to it.

    Args:
        image: uint8 `[H, W, 3]`.
        instruction: what led to it; empty for the source.
        plan: what the model wrote before it.
        edits: the conversation that the next instruction continues.
    """

    image: np.ndarray
    instruction: str
    plan: str
    edits: Edits


Steps = tuple[Step, ...]


def edit_tab(studio: Studio, drawn: gr.State, instructions: list[str]) -> None:
    """Build the tab; `drawn` is the state of the draw tab, `instructions` are examples."""
    steps = gr.State(())
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            source = Source(studio, drawn, "Picture", "edit-source")
        with gr.Column(scale=6, min_width=320):
            view = gr.HTML(empty("Before and after appear here."), elem_id="edit-view", padding=False)
            text = gr.Textbox(
                label="Instruction", placeholder="change the background to ...", max_length=TEXT_LENGTH,
                elem_id="edit-text",
            )  # fmt: skip
            with gr.Row(elem_classes="ddt-buttons"):
                go = gr.Button("Edit", variant="primary", elem_id="edit-go")
                undo = gr.Button("Undo", elem_id="edit-undo")
                anew = gr.Button("Go on from here", elem_id="edit-anew")
            examples = chips(instructions, "edit-examples")
            history = gr.HTML("", elem_id="edit-history", padding=False)

    @in_words
    def begin(picture: Picture | None) -> tuple[Steps, Markup, Markup]:
        image = chosen(picture).image
        return show((Step(image, "", "", Edits.of(studio.pipeline, stack([image]))),))

    @in_words
    def edit(instruction: str, so_far: Steps) -> Iterator[tuple[Any, Any, Any]]:
        asked = checked(instruction, "The instruction")
        if not so_far:
            chosen(None)
        if len(so_far) > EDITS:
            raise ValueError(f"This conversation has {EDITS} instructions, the most: press `Go on from here`.")
        now, seed = so_far[-1], len(so_far)
        prompts = now.edits.asked(studio.pipeline, asked)
        sampling = fitting(studio, prompts)
        prompts, plan = studio.plan(prompts, sampling, seed)
        for part in studio.stream(prompts, sampling, seed):
            share = part.ids.shape[1] / studio.tokens
            yield gr.skip(), pair(now.image, whole(part), asked, share), gr.skip()
        done = Drawing(part.images, [plan], part.ids)
        state, view, history = show((*so_far, Step(whole(part), asked, plan, now.edits.answered(asked, done))))
        yield state, view, history + note(studio.unknown(asked))

    @in_words
    def back(so_far: Steps) -> tuple[Steps, Markup, Markup]:
        if len(so_far) < 2:
            raise ValueError("There is nothing to undo: no instruction has been followed yet.")
        return show(so_far[:-1])

    @in_words
    def go_on(so_far: Steps) -> tuple[Steps, Markup, Markup]:
        if len(so_far) < 2:
            raise ValueError("There is no edited picture to go on from yet.")
        return begin(Picture(so_far[-1].image, "edited"))

    shown = [steps, view, history]
    source.then(begin, [source.picture], shown)
    model: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden"}
    gr.on([go.click, text.submit], edit, [text, steps], shown, api_visibility="private", **model)
    examples.click(lambda sample: sample[0], examples, text, queue=False, api_visibility="private").then(
        edit, [text, steps], shown, api_visibility="private", **model
    )
    undo.click(back, steps, shown, concurrency_limit=None, show_progress="hidden", api_visibility="private")
    anew.click(go_on, steps, shown, api_visibility="private", **model)


def fitting(studio: Studio, prompts: Prompts) -> Sampling:
    """Options whose plan fits into the language model's context beside the prompts and a picture.

    Raises:
        ValueError: there is no room for a picture, or for a plan of any length worth the name.
    """
    room = studio.pipeline.llm.config.max_position_embeddings - max(map(len, prompts[0])) - studio.tokens - 1
    if room < (SHORTEST_PLAN if studio.plans else 0):
        raise ValueError("This conversation fills the model's context: undo, or press `Go on from here`.")
    usual = Sampling().settled(studio.plans)
    return replace(usual, plan_length=min(usual.plan_length, max(1, room)))


def pair(before: np.ndarray, after: np.ndarray | None, instruction: str, share: float | None = None) -> Markup:
    """Before and after beside each other."""
    right = empty("?") if after is None else figure(after, f"after: {instruction}", f"after: {instruction}", share)
    return row([figure(before, "before", "before"), right], "pair")


def show(steps: Steps) -> tuple[Steps, Markup, Markup]:
    """The state, before and after of the last step, and all steps as a strip."""
    last = steps[-1]
    if len(steps) == 1:
        return steps, row([figure(last.image, "before", "before"), empty("Write an instruction.")], "pair"), Markup("")
    strip = [figure(step.image, step.instruction or "source", step.instruction or "source") for step in steps]
    planned = note(f"plan: {last.plan}") if last.plan else Markup("")
    return steps, pair(steps[-2].image, last.image, last.instruction), row(strip) + planned
