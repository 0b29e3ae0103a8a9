"""The ask tab: a caption of a picture, and answers to questions about it."""

from typing import Any

import gradio as gr
from markupsafe import Markup

from ddt_lightning.app.limits import TEXT_LENGTH, checked, in_words
from ddt_lightning.app.sources import Source, chips, chosen
from ddt_lightning.app.studio import Picture, Studio

Answers = tuple[tuple[str, str], ...]
MOST = 20  # answers that are kept


def ask_tab(studio: Studio, drawn: gr.State, questions: list[str]) -> None:
    """Build the tab; `drawn` is the state of the draw tab, `questions` are examples."""
    answers = gr.State(())
    view = gr.HTML("", elem_id="ask-view", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            source = Source(studio, drawn, "Picture", "ask-source", {answers: (), view: Markup("")})
        with gr.Column(scale=6, min_width=320):
            text = gr.Textbox(
                label="Question", placeholder="how many ... are there?", max_length=TEXT_LENGTH, elem_id="ask-text"
            )
            with gr.Row(elem_classes="ddt-buttons"):
                go = gr.Button("Ask", variant="primary", elem_id="ask-go")
                describe = gr.Button("Describe the picture", elem_id="ask-describe")
            examples = chips(questions, "ask-examples")
            view.render()

    @in_words
    def ask(question: str, picture: Picture | None, so_far: Answers) -> tuple[Answers, Markup]:
        image, asked = chosen(picture).image, checked(question, "The question")
        return show(((asked, studio.describe(image, asked)), *so_far)[:MOST])

    @in_words
    def caption(picture: Picture | None, so_far: Answers) -> tuple[Answers, Markup]:
        return show((("Description", studio.describe(chosen(picture).image)), *so_far)[:MOST])

    model: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private"}
    asked = [text, source.picture, answers]
    gr.on([go.click, text.submit], ask, asked, [answers, view], **model)
    examples.click(lambda sample: sample[0], examples, text, queue=False, api_visibility="private").then(
        ask, asked, [answers, view], **model
    )
    describe.click(caption, [source.picture, answers], [answers, view], **model)


def show(answers: Answers) -> tuple[Answers, Markup]:
    """The state, and questions with their answers, the last one first."""
    line = Markup("<li><span>{}</span><b>{}</b></li>")
    lines = Markup("").join(line.format(question, answer or "(no words)") for question, answer in answers)
    return answers, Markup('<ul class="ddt-answers">{}</ul>').format(lines)
