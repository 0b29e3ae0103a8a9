"""`ddt eval edit`: held-out edits of scenes, or the edits of some shards, carried out and compared with their targets.

Of scenes the checker reads what came out, so that an edit is right or wrong; of any edit the likeness to the target is
measured, with the judges whose folders are named. Everything comes per kind of edit, with intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.networks import check_judges, load_clip, load_dino, name_judges
from ddt_lightning.evaluation.session import Session, say, scenes_measured
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from ddt_lightning.evaluation.edit_scores import Edited
    from ddt_lightning.scenes.render import Scene

SHOWN = 24  # edits of shards on the sheet


@dataclass(frozen=True)
class Fields:
    """Where the json of an edit shard's sample says more.

    Args:
        kind: field with the kind of edit.
        source_caption: field with a caption of the source.
        target_caption: field with a caption of the target.
    """

    kind: str = "task"
    source_caption: str = "source_caption"
    target_caption: str = "target_caption"


def edit(
    *,
    out: str,
    edits: int = 126,
    shards: list[str] | str | None = None,
    clip: str | None = None,
    dino: str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
    fields: Fields = Fields(),
) -> None:
    """Carry out held-out edits and compare with their targets: the scene the checker finds, and likeness.

    Args:
        out: folder for edit.json, edit.png and samples; of shards for edit_shards.json and edit_shards.png.
        edits: how many, the kinds of edit in turn; of shards the first ones.
        shards: edit shards to take them from; held-out scenes if not given.
        clip: folder of a transformers CLIP, such as openai/clip-vit-base-patch32, for CLIP scores.
        dino: folder of a transformers DINO, such as facebook/dino-vits16, for DINO's.
        seen: scenes of combinations that training shows.
        seed: of the edits and images.
        processes: worker processes, each with its share of the cores.
        loading: which model; its device is also the judges'.
        drawing: how to draw.
        fields: what the json of a shard's samples says.
    """
    check_judges({"clip": clip, "dino": dino})
    session = Session(loading, drawing, processes, seed)
    patterns = [shards] if isinstance(shards, str) else shards or []
    number = positive("edits", edits)
    if patterns:
        done, cards, sheets = of_shards(session, patterns, number, fields)
    else:
        done, cards, sheets = of_scenes(session, number, seed, seen)

    from ddt_lightning.evaluation.edit_scores import measure_cards

    name = "edit_shards" if patterns else "edit"
    reader, looker = load_clip(clip, loading.device), load_dino(dino, loading.device)
    alike = measure_cards(name, done, reader, looker)
    for judge, network in (("clip", reader), ("dino", looker)):
        name_judges((own for key, own in alike.items() if key.startswith(f"{name}/{judge}")), {judge: network})
    cards = {**cards, **alike}
    with staged(out) as folder:
        sheets(folder)
        where = ", ".join(patterns) or scenes_measured(seen)
        session.finish(folder, name, cards, {"edits": len(done), "source": where, "clip": clip, "dino": dino})
    say(out, cards, *(key for key in ("edit/exact_match", "edit/ceiling_tokenizer", f"{name}/l1") if key in cards))


def of_scenes(session: Session, number: int, seed: int, seen: bool) -> tuple[list["Edited"], dict[str, Card], Any]:
    """Edits of held-out or seen scenes: what came of them, the checker's cards, and what writes the sheet."""
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.evaluation.edit_scores import Edited, kind_cards
    from ddt_lightning.scenes.suite import val_edit
    from ddt_lightning.scenes.tasks import EDITS
    from ddt_lightning.seeding import numpy_rng

    asked = [val_edit(numpy_rng("eval edit", seed, n), EDITS[n % len(EDITS)], not seen) for n in range(number)]
    found = session.run(predictions.make_edits, [(one, session.sample_seed(n)) for n, one in enumerate(asked)])

    rule = (
        f"{scenes_measured(seen)}: the checker finds exactly the target's kinds, colours and counts, centres "
        "within 10 % of the side; global edits: background class right and objects unchanged"
    )
    kinds = [one.kind for one in asked]
    cards = kind_cards("edit/exact_match", [r["correct"] for r in found], kinds, rule)
    cards["edit/ceiling_tokenizer"] = mean_card([r["ceiling"] for r in found], "the same for reconstructed targets")
    text = "mean absolute error to the target, images in [0, 1], outside the union of the changed boxes, local edits"
    beside = {"tokenizer": [r["ceiling_kept_l1"] for r in found]}
    cards |= kind_cards("edit/kept_l1", [r["kept_l1"] for r in found], kinds, text, beside)
    done = []
    for one, r in zip(asked, found, strict=True):
        texts = (describe(one.source), describe(one.target))
        captions = None if texts[0] == texts[1] else texts
        done.append(Edited(one.kind, r["source"], r["image"], r["target"], r["copy"], captions))
    return done, cards, lambda folder: galleries.edits(folder, asked, found)


def describe(scene: "Scene") -> str:
    """A plain caption with all that a scene shows but places, so that captions before and after an edit compare."""
    from ddt_lightning.scenes.language import article

    shapes = " and ".join(article(f"{shape.colour} {shape.kind}") for shape in scene.shapes)
    time = "at night" if scene.background.time == "night" else "by day"
    return f"a photo of {shapes} on a {scene.background.colour} background {time}"


def of_shards(
    session: Session, patterns: list[str], number: int, fields: Fields
) -> tuple[list["Edited"], dict[str, Card], Any]:
    """The first edits of some shards: what came of them, no cards, and what writes the sheet.

    Raises:
        ValueError: the shards hold no edit.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.evaluation.edit_scores import Edited
    from ddt_lightning.shards.images import read_images

    read = read_images(patterns, image_size=session.facts["model"]["image_size"], option="--shards")
    samples = list(islice((one for one in read if len(one.images) == 2 and one.texts), number))
    if not samples:
        raise ValueError(f"`--shards` ({', '.join(patterns)}) hold no edit: source, target and instruction.")
    items = [(*one.images, one.texts[0], session.sample_seed(n)) for n, one in enumerate(samples)]
    found = session.run(predictions.edit_pictures, items)
    done = []
    for one, r in zip(samples, found, strict=True):
        said = one.data if isinstance(one.data, dict) else {}
        before, after = (str(said.get(field) or "") for field in (fields.source_caption, fields.target_caption))
        captions = (before, after) if before and after and before != after else None
        source, target = one.images
        done.append(Edited(str(said.get(fields.kind) or ""), source, r["image"], target, r["copy"], captions))
    return done, {}, lambda folder: sheet_of(folder, [one.texts[0] for one in samples], done)


def sheet_of(folder: Path, instructions: Sequence[str], done: Sequence["Edited"]) -> None:
    """The first edits: source, result and target."""
    from ddt_lightning.report.contact_sheet import Row, sheet

    rows = [
        Row(text, [one.source, one.image, one.target], one.kind)
        for text, one in zip(instructions[:SHOWN], done, strict=False)
    ]
    sheet(rows, titles=["source", "result", "target"]).save(folder / "edit_shards.png")
