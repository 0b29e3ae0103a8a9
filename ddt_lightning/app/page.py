"""The page: its head and its tabs, put together."""

from pathlib import Path

import gradio as gr
from markupsafe import Markup

from ddt_lightning.app.ask import ask_tab
from ddt_lightning.app.draw import draw_tab
from ddt_lightning.app.edit import edit_tab
from ddt_lightning.app.examples import INSTRUCTIONS, QUESTIONS, known
from ddt_lightning.app.limits import QUEUE
from ddt_lightning.app.studio import Studio
from ddt_lightning.app.tokens import tokens_tab
from ddt_lightning.app.training import training_tab

TITLE = "Diffusion timestep tokens"
KEPT = 3600  # seconds that uploads are kept


def build_page(studio: Studio, runs: Path) -> gr.Blocks:
    """The page of a model, and of the runs in a folder; its queue lets one request at the model at a time."""
    vocab = studio.pipeline.vocab
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.HTML(head(studio), padding=False)
        with gr.Tab("Draw"):
            drawn = draw_tab(studio)
        with gr.Tab("Edit"):
            edit_tab(studio, drawn, known(INSTRUCTIONS, vocab))
        with gr.Tab("Ask"):
            ask_tab(studio, drawn, known(QUESTIONS, vocab))
        with gr.Tab("Tokens"):
            tokens_tab(studio, drawn)
        with gr.Tab("Train") as train:
            training_tab(train, runs)
    page.queue(max_size=QUEUE, default_concurrency_limit=1)
    return page


def head(studio: Studio) -> Markup:
    """Title and what the model is."""
    million = sum(weight.numel() for weight in studio.pipeline.llm.parameters()) / 1e6
    codes = studio.pipeline.vocab.codebook_size
    facts = (
        f"{studio.name} · {studio.side} px from {studio.tokens} tokens of {codes} codes · "
        f"language model of {million:.3g} million weights"
    )
    return Markup('<div class="ddt-head"><h1>{}</h1><span>{}</span></div>').format(TITLE, facts)
