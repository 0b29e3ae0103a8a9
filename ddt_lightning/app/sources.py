"""A place for a picture that a tab works on: uploaded, drawn in the first tab, or drawn anew from an example."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from ddt_lightning.app.limits import in_words, read_upload
from ddt_lightning.app.pictures import empty, figure
from ddt_lightning.app.studio import Picture, Studio, whole
from ddt_lightning.sampling import Sampling

NOTHING = "Upload a picture, take the one that was drawn, or let the model draw an example."


class Source:
    """Components that choose a picture; built inside the layout where they stand.

    Args:
        studio: the model.
        drawn: state of the picture that the draw tab made.
        label: name of the picture, for people.
        name: start of the names of its elements in the page.
        resets: {component: value} that another picture sets in the same event. What is set in an event of its own may
            come after what a visitor did meanwhile, and undo it.

    Attributes:
        picture: state, a `Picture` or None.
        view: the picture as HTML.
    """

    def __init__(
        self, studio: Studio, drawn: gr.State, label: str, name: str, resets: Mapping[Any, Any] | None = None
    ) -> None:
        self.studio, self.label, self.resets = studio, label, dict(resets or {})
        self.picture = gr.State(None)
        self.view = gr.HTML(empty(NOTHING), elem_id=f"{name}-view", padding=False)
        with gr.Row(elem_classes="ddt-buttons"):
            take = gr.Button("Take the drawn one", size="sm", elem_id=f"{name}-take")
            example = gr.Button("Draw an example", size="sm", visible=bool(studio.examples), elem_id=f"{name}-example")
        upload = gr.File(
            label=f"{label}: upload", file_types=["image"], type="filepath", height=128, elem_id=f"{name}-upload"
        )
        shown = [self.picture, self.view, *self.resets]
        quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        uploaded = upload.upload(self._upload, upload, shown, **quick)
        for after in (uploaded.success, uploaded.failure):
            after(lambda: None, None, upload, **quick)  # ready for the next one
        self.events = [
            uploaded,
            take.click(self._take, drawn, shown, **quick),
            example.click(self._example, None, shown, concurrency_id="model", api_visibility="private"),
        ]

    def then(self, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Call `function` whenever another picture is chosen."""
        for event in self.events:
            event.success(function, inputs, outputs, concurrency_id="model", api_visibility="private")

    def _shown(self, picture: Picture) -> tuple[Any, ...]:
        return picture, figure(picture.image, picture.title, picture.title), *self.resets.values()

    @in_words
    def _take(self, drawn: Picture | None) -> tuple[Any, ...]:
        if drawn is None:
            raise ValueError("Nothing is drawn yet: draw a picture in the first tab.")
        return self._shown(Picture(drawn.image, drawn.title))

    @in_words
    def _example(self) -> tuple[Any, ...]:
        prompt, seed = random.choice(self.studio.examples), random.randrange(10_000)
        drawing = self.studio.pipeline.draw(self.studio.pipeline.draw_prompts([prompt]), Sampling(), seed=seed)
        return self._shown(Picture(whole(drawing), prompt))

    @in_words
    def _upload(self, path: str | None) -> tuple[Any, ...]:
        if path is None:
            raise ValueError("The upload is empty: choose a picture.")
        return self._shown(Picture(read_upload(path, self.studio.side), f"{self.label}: as uploaded"))


def chosen(picture: Picture | None) -> Picture:
    """The picture.

    Raises:
        ValueError: there is none yet.
    """
    if picture is None:
        raise ValueError(f"There is no picture yet. {NOTHING}")
    return picture


def chips(samples: Sequence[str], name: str) -> gr.Dataset:
    """Texts to click; nothing where there are none."""
    return gr.Dataset(
        components=[gr.Textbox(visible=False)], samples=[[text] for text in samples], type="values", label="Examples",
        layout="gallery", visible=bool(samples), elem_id=name,
    )  # fmt: skip
