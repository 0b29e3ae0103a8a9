"""`ddt eval emoji`: attributes of drawings and edits of emoji, read by a small classifier, and copies of training.

Drawings are made for the pictures of held-out shards. Every score stands beside its upper bounds, the same for the
real pictures and for their reconstructions, and its baseline, the drawings against what other prompts ask.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.evaluation.held_out import take_samples
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ddt_lightning.metrics.emoji_attributes import AttributeClassifier
    from ddt_lightning.shards.images import ImageSample

SHOWN = 24  # drawings, and edits, on the sheets
IN_WORDS = {"all": "all its attributes", "noun": "role", "skin": "skin tone"}
"""{attribute: its name on cards}, where it is another."""


def emoji(
    *,
    out: str,
    shards: list[str],
    classifier: str,
    edits: list[str] | None = None,
    train: list[str] | None = None,
    number: int = 200,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw and edit held-out emoji and read role, group, skin tone, gender and style; find copies of training pictures.

    Args:
        out: folder for emoji.json, emoji.png and emoji-edits.png.
        shards: image shards of `ddt data emoji` of a held-out part: what is drawn, and real pictures beside.
        classifier: file of `ddt study attributes`, trained on the training part of the same shards.
        edits: edit shards of that part.
        train: image shards of training, for the nearest training picture of each drawing.
        number: drawings, and edits.
        seed: of the drawings.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.

    Raises:
        ValueError: the shards are not those of `ddt data emoji`.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.images import stack
    from ddt_lightning.metrics.emoji_attributes import AttributeClassifier
    from ddt_lightning.shards.images import read_images

    judge, count = AttributeClassifier.load(classifier), positive("number", number)
    session = Session(loading, drawing, processes, seed, files={"classifier": classifier})
    problems: dict[str, str] = {}
    side = session.image_size
    samples = take_samples(shards, side, count, problems, lambda one: bool(facts_of(one)), "are none of emoji")
    facts = [facts_of(one) for one in samples]
    real = stack([one.images[0] for one in samples])
    items = [(words(one), session.sample_seed(n)) for n, one in enumerate(facts)]
    made = session.run(predictions.draw_prompts, items, True)
    pairs = [(one.images[0], session.sample_seed(n)) for n, one in enumerate(samples)]
    copies = session.run(predictions.reconstruct_images, pairs, [])
    drawn = stack([one["image"] for one in made])
    again = stack([next(iter(one["images"].values())) for one in copies])
    cards = attribute_cards(judge, facts, {"": drawn, "_ceiling_real": real, "_ceiling_tokenizer": again})
    if train is not None:
        others = stack([one.images[0] for one in read_images(train, image_size=side, option="--train")])
        cards |= memory_cards(drawn, again, real, others)
    sheets = {"emoji.png": drawing_rows([text for text, _ in items], drawn, real, again)}
    if edits is not None:
        asked = take_samples(edits, side, count, problems, lambda one: len(one.images) == 2, "hold no edit")
        work = [(*one.images, one.texts[0], session.sample_seed(n)) for n, one in enumerate(asked)]
        results = session.run(predictions.edit_images, work)
        cards |= edit_cards(judge, asked, results)
        sheets["emoji-edits.png"] = [
            ([one.images[0], done["image"], one.images[1]], one.texts[0], str(one.data["task"]))
            for one, done in zip(asked[:SHOWN], results, strict=False)
        ]

    def pictures(folder: Path) -> None:
        from ddt_lightning.report.contact_sheet import Row, sheet

        titles = {"emoji.png": ["drawing", "real", "reconstruction"], "emoji-edits.png": ["source", "result", "target"]}
        for name, rows in sheets.items():
            sheet([Row(text, list(row), note) for row, text, note in rows], titles=titles[name]).save(folder / name)

    shown = [key for key in cards if "_ceiling" not in key and "_floor" not in key]
    settings = {"source": ", ".join(shards), "drawings": len(samples)}
    session.write(
        out, Outcome("emoji", cards, shown, settings, count, len(samples), "emoji", problems, pictures=pictures)
    )


def facts_of(sample: "ImageSample") -> dict[str, Any]:
    """Attributes of the emoji that a sample shows, or nothing."""
    return dict(sample.data.get("emoji") or {}) if isinstance(sample.data, dict) else {}


def words(facts: dict[str, Any]) -> str:
    """The prompt that leaves nothing open."""
    from ddt_lightning.emoji.facts import Emoji
    from ddt_lightning.emoji.language import prompt

    return prompt(Emoji(**{"tags": (), **facts}))


def attribute_cards(
    judge: "AttributeClassifier", facts: Sequence[dict[str, Any]], pictures: dict[str, "Tensor"]
) -> dict[str, Card]:
    """Shares of pictures whose attributes are read as asked, alone and all together.

    Args:
        judge: the classifier.
        facts: what each picture should show.
        pictures: {end of the key: images}; the first are the drawings, which also give the baseline.
    """
    texts = {
        "": "drawings whose attribute the classifier reads as the prompt asks, of those that have it",
        "_ceiling_real": "upper bound: the same for the real pictures",
        "_ceiling_tokenizer": "upper bound: the same for the real pictures as the tokenizer reconstructs them",
        "_floor_shuffled": "baseline: the same drawings against what the next prompt asks",
    }
    from ddt_lightning.metrics.emoji_attributes import marks, read

    seen = {end: (read(judge, images), list(facts)) for end, images in pictures.items()}
    drawn = seen[""][0]
    seen["_floor_shuffled"] = drawn, [*facts[1:], *facts[:1]]
    cards: dict[str, Card] = {}
    for name in (*judge.classes, "all"):
        for end, (found, wanted) in seen.items():
            each = [marks(one, asked, judge.classes) for one, asked in zip(found, wanted, strict=True)]
            right = [all(one.values()) if name == "all" else one[name] for one in each if one and name in (*one, "all")]
            if right:
                cards[f"emoji/{name}{end}"] = mean_card(right, f"{IN_WORDS.get(name, name)}: {texts[end]}")
    return cards


def memory_cards(drawn: "Tensor", copies: "Tensor", real: "Tensor", others: "Tensor") -> dict[str, Card]:
    """Distances to the nearest training picture, and the share of pictures that are nearer than the real ones are."""
    from ddt_lightning.metrics.nearest import nearest

    far = {"": nearest(drawn, others)[0], "_ceiling_real": nearest(real, others)[0],
           "_ceiling_tokenizer": nearest(copies, others)[0]}  # fmt: skip
    what = {"": "drawings", "_ceiling_real": "real held-out pictures", "_ceiling_tokenizer": "their reconstructions"}
    rule = "root mean squared difference to the nearest training picture or its mirror image, at 32 px, of"
    cards = {f"emoji/nearest{end}": mean_card(one.tolist(), f"{rule} {what[end]}") for end, one in far.items()}
    for end in ("", "_ceiling_tokenizer"):
        nearer = (far[end] < far["_ceiling_real"]).tolist()
        text = f"{what[end]} that are nearer to a training picture than the real held-out picture of their prompt is"
        cards[f"emoji/memorised{end}"] = mean_card(nearer, text)
    return cards


def edit_cards(
    judge: "AttributeClassifier", asked: Sequence["ImageSample"], results: Sequence[dict[str, Any]]
) -> dict[str, Card]:
    """Shares of edits whose changed attribute is read as the target's, by kind, and of attributes that are kept."""
    from ddt_lightning.images import stack
    from ddt_lightning.metrics.emoji_attributes import marks, read

    columns = {
        "": [one["image"] for one in results],
        "_ceiling_real": [one.images[1] for one in asked],
        "_ceiling_tokenizer": [one["copy"] for one in results],
        "_floor_unchanged": [one.images[0] for one in asked],
    }
    texts = {
        "": "results whose attribute the classifier reads as the target's",
        "_ceiling_real": "upper bound: the same for the targets",
        "_ceiling_tokenizer": "upper bound: the same for the targets as the tokenizer reconstructs them",
        "_floor_unchanged": "baseline: the same for the sources, unchanged",
    }
    cards: dict[str, Card] = {}
    for end, images in columns.items():
        found = read(judge, stack(images))
        kept: list[bool] = []
        by_kind: dict[str, list[bool]] = {}
        for one, sample in zip(found, asked, strict=True):
            kind, target = sample.data["task"], sample.data["target"]
            each = marks(one, target, judge.classes)
            if kind in each:
                by_kind.setdefault(kind, []).append(each.pop(kind))
            kept += each.values()
        for kind, right in by_kind.items():
            cards[f"emoji/edit_{kind}{end}"] = mean_card(right, f"edits of {kind}: {texts[end]}")
        if kept:
            cards[f"emoji/edit_kept{end}"] = mean_card(kept, f"attributes that the edit leaves alone: {texts[end]}")
    return cards


def drawing_rows(
    prompts: Sequence[str], drawn: "Tensor", real: "Tensor", copies: "Tensor"
) -> list[tuple[list[Any], str, str]]:
    """Rows of the sheet: drawing, real picture and reconstruction of the first prompts."""
    from ddt_lightning.images import unstack

    columns = zip(*(unstack(images[:SHOWN]) for images in (drawn, real, copies)), strict=True)
    return [(list(row), text, "") for row, text in zip(columns, prompts[:SHOWN], strict=False)]
