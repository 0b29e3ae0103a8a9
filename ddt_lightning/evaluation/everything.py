"""`ddt eval all`: a model folder to scores with intervals, upper bounds and baselines.

Everything is measured on held-out scenes (combinations that no training scene, edit or question shows) drawn from the
seed. With `--seen true` it is measured on scenes of combinations that training shows: the difference tells memorised
from generalised combinations. The evaluations share one folder and one decode setting. Each leaves `NAME.json` (cards),
`NAME.png` (a contact sheet) and `samples/` (images and an index for the report); prompts are also left as images and
rows in GenEval's official layout. Prompts, edits, questions and captions go through the chat format of an instruct
model.
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
    shards: list[str] | None = None,
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
    """Run all five evaluations with one set of workers, which keep the model loaded.

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
    decoding = Decoding(drawing.steps, drawing.decode_guidance, drawing.solver, drawing.shift)
    reconstruction(**shared, images=images, shards=shards, decoding=decoding)  # first: it needs no language model
    t2i(**shared, images=prompt_images, drawing=drawing)
    edit(**shared, edits=edits, drawing=drawing)
    vqa(**shared, questions=questions, drawing=drawing)
    caption(**shared, captions=captions, drawing=drawing)
