"""`ddt eval reconstruction|t2i|all`: a model folder to scores with intervals, ceilings and floors.

Everything is measured on held-out scenes (combinations that no training scene, edit or question shows) drawn from the
seed; with `--seen true` on scenes of combinations that training shows, which tells what is learned from what is made
of it. Out, in one folder that the verbs may share, edit, vqa and caption (`evaluate_edit.py`, `evaluate_text.py`) too:
`NAME.json` (cards), `NAME.png` (a contact sheet), `samples/` (images and an index for the report), and of t2i the
images and rows in GenEval's official layout. Prompts, edits, questions and captions go through the chat format of an
instruct model, all with one decode setting.
"""

from typing import Any

from ddt_lightning.evaluation.captions import caption
from ddt_lightning.evaluation.drawing import t2i
from ddt_lightning.evaluation.editing import edit
from ddt_lightning.evaluation.questions import vqa
from ddt_lightning.evaluation.reconstruction import reconstruction
from ddt_lightning.inputs import Loading
from ddt_lightning.sampling import Decoding, Sampling


def everything(
    *,
    out: str,
    images: int = 256,
    shards: list[str] | str | None = None,
    prompt_images: int = 4,
    edits: int = 126,
    questions: int = 250,
    captions: int = 128,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """All five evaluations with one set of workers, which load the model once.

    Args:
        out: folder for everything.
        images: as in `ddt eval reconstruction`.
        shards: as there.
        prompt_images: images for each prompt of `ddt eval t2i`.
        edits: as in `ddt eval edit`.
        questions: as in `ddt eval vqa`.
        captions: as in `ddt eval caption`.
        seen: combinations that training shows, in place of held-out ones, everywhere.
        seed: of everything.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.
    """
    shared: dict[str, Any] = {"out": out, "seen": seen, "seed": seed, "processes": processes, "loading": loading}
    t2i(**shared, images=prompt_images, drawing=drawing)
    decoding = Decoding(drawing.steps, drawing.decode_guidance)
    reconstruction(**shared, images=images, shards=shards, decoding=decoding)
    edit(**shared, edits=edits, drawing=drawing)
    vqa(**shared, questions=questions, drawing=drawing)
    caption(**shared, captions=captions, drawing=drawing)
