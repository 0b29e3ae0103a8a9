"""`ddt eval edit`: held-out edits of scenes, or the edits of some shards, carried out and compared with their targets.

Of scenes the checker says whether the result shows exactly the target, and of a model that plans whether its plan says
so. Of any edit the similarity to the target is measured, also by the scoring networks whose folders are named.
Everything comes per kind of edit, with intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ddt_lightning.evaluation.held_out import scenes_measured, take_samples
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.scorers import check_scorers, load_clip, load_dino, record_scorers
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import Card
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from ddt_lightning.evaluation.edit_scores import Edited
    from ddt_lightning.scenes.render import Scene

SHOWN = 24  # edits of shards on the sheet


@dataclass(frozen=True)
class Fields:
    """Fields of the json of an edit shard's samples that say more about an edit.

    Args:
        kind: field with the kind of edit.
        source_caption: field with a caption of the source.
        target_caption: field with a caption of the target.
    """

    kind: str = "task"
    source_caption: str = "source_caption"
    target_caption: str = "target_caption"


@dataclass(frozen=True)
class Done:
    """Edits that were carried out.

    Args:
        edits: the edits and their results.
        pictures: writes a contact sheet and samples into a folder.
        cards: scores that only scenes have.
        problems: samples of shards that could not be read.
    """

    edits: list["Edited"]
    pictures: Callable[[Path], None]
    cards: dict[str, Card] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def edit(
    *,
    out: str,
    edits: int = 126,
    shards: list[str] | None = None,
    clip: str | None = None,
    dino: str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
    fields: Fields = Fields(),
) -> None:
    """Carry out held-out edits and compare with their targets: the scene the checker finds, and similarity.

    Args:
        out: folder for edit.json, edit.png and samples; of shards for edit_shards.json and edit_shards.png.
        edits: how many, the kinds of edit in turn; of shards the first ones.
        shards: edit shards to take them from; held-out scenes if not given.
        clip: folder of a transformers CLIP, such as openai/clip-vit-base-patch32, for CLIP scores.
        dino: folder of a transformers DINO, such as facebook/dino-vits16, for DINO's.
        seen: scenes of combinations that training shows.
        seed: of the edits and images.
        processes: worker processes, each with its share of the cores.
        loading: which model; its device is also that of CLIP and DINO.
        drawing: how to draw.
        fields: fields of the json of a shard's samples.
    """
    from ddt_lightning.evaluation.edit_scores import measure_cards

    check_scorers({"clip": clip, "dino": dino})
    number = positive("edits", edits)
    session = Session(loading, drawing, processes, seed)
    done = edits_of_shards(session, shards, number, fields) if shards else edits_of_scenes(session, number, seen)

    name = "edit_shards" if shards else "edit"
    one, two = load_clip(clip, loading.device), load_dino(dino, loading.device)
    cards = {**done.cards, **measure_cards(name, done.edits, one, two)}
    for scorer, network in (("clip", one), ("dino", two)):
        scored = [one for key, one in cards.items() if key.startswith(f"{name}/{scorer}")]
        record_scorers(scored, {scorer: network})
    where = ", ".join(shards or []) or scenes_measured(seen)
    settings = {"edits": len(done.edits), "source": where, "clip": clip, "dino": dino}
    shown = [key for key in ("edit/exact_match", "edit/ceiling_tokenizer", f"{name}/l1") if key in cards]
    measured = len(done.edits)
    outcome = Outcome(name, cards, shown, settings, number, measured, "edits", done.problems, done.pictures)
    session.write(out, outcome)


def edits_of_scenes(session: Session, number: int, seen: bool) -> Done:
    """Edits of held-out or seen scenes, with the checker's scores."""
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.evaluation.edit_scores import Edited, kind_cards, plan_cards
    from ddt_lightning.scenes.render import render
    from ddt_lightning.scenes.suite import val_edit
    from ddt_lightning.scenes.tasks import EDITS
    from ddt_lightning.seeding import numpy_rng

    seed, side = session.seed, session.image_size
    asked = [val_edit(numpy_rng("eval edit", seed, n), EDITS[n % len(EDITS)], not seen) for n in range(number)]
    pairs = [(render(one.source, side), render(one.target, side)) for one in asked]
    items = [
        (*pair, one.instruction, session.sample_seed(n)) for n, (pair, one) in enumerate(zip(pairs, asked, strict=True))
    ]
    found = session.run(predictions.edit_images, items)
    edits = []
    for one, (source, target), r in zip(asked, pairs, found, strict=True):
        texts = (describe(one.source), describe(one.target))
        captions = None if texts[0] == texts[1] else texts
        edits.append(Edited(one.kind, source, r["image"], target, r["copy"], captions))
    results = [(one, done.image, done.target, done.copy) for one, done in zip(asked, edits, strict=True)]
    checked = session.run(predictions.check_edits, results)

    rule = (
        f"{scenes_measured(seen)}: the checker finds exactly the target's kinds, colours and counts, centres "
        "within 10 % of the side; global edits: background class right and objects unchanged"
    )
    kinds = [one.kind for one in asked]
    right = [r["correct"] for r in checked]
    cards = kind_cards("edit/exact_match", right, kinds, rule)
    text = "upper bound: the same for the targets as the tokenizer reconstructs them"
    cards |= kind_cards("edit/ceiling_tokenizer", [r["bound_correct"] for r in checked], kinds, text)
    cards |= plan_cards("edit", [r["plan"] for r in found], asked)
    text = "mean absolute error to the target, images in [0, 1], outside the union of the changed boxes, local edits"
    bound = {"tokenizer": [r["bound_kept_l1"] for r in checked]}
    cards |= kind_cards("edit/kept_l1", [r["kept_l1"] for r in checked], kinds, text, bound)

    def pictures(folder: Path) -> None:
        galleries.edits(folder, [one.instruction for one in asked], [r["plan"] for r in found], edits, right)

    return Done(edits, pictures, cards)


def describe(scene: "Scene") -> str:
    """A plain caption of all that a scene shows but places, so that captions before and after an edit compare."""
    from ddt_lightning.scenes.language import article

    shapes = " and ".join(article(f"{shape.colour} {shape.kind}") for shape in scene.shapes)
    time = "at night" if scene.background.time == "night" else "by day"
    return f"a photo of {shapes} on a {scene.background.colour} background {time}"


def edits_of_shards(session: Session, shards: Sequence[str], number: int, fields: Fields) -> Done:
    """The first edits of some shards.

    Raises:
        ValueError: the shards hold no edit.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.evaluation.edit_scores import Edited

    problems: dict[str, str] = {}
    samples = take_samples(
        shards,
        session.image_size,
        number,
        problems,
        lambda one: len(one.images) == 2 and bool(one.texts),
        "hold no edit: source, target and instruction",
    )
    items = [(*one.images, one.texts[0], session.sample_seed(n)) for n, one in enumerate(samples)]
    edits = []
    for one, r in zip(samples, session.run(predictions.edit_images, items), strict=True):
        said = one.data if isinstance(one.data, dict) else {}
        before, after = (str(said.get(name) or "") for name in (fields.source_caption, fields.target_caption))
        captions = (before, after) if before and after and before != after else None
        source, target = one.images
        edits.append(Edited(str(said.get(fields.kind) or ""), source, r["image"], target, r["copy"], captions))
    return Done(edits, lambda folder: draw_sheet(folder, [one.texts[0] for one in samples], edits), problems=problems)


def draw_sheet(folder: Path, instructions: Sequence[str], done: Sequence["Edited"]) -> None:
    """Write the contact sheet of the first edits: source, result and target."""
    from ddt_lightning.report.contact_sheet import Row, sheet

    rows = [
        Row(text, [one.source, one.image, one.target], one.kind)
        for text, one in zip(instructions[:SHOWN], done, strict=False)
    ]
    sheet(rows, titles=["source", "result", "target"]).save(folder / "edit_shards.png")
