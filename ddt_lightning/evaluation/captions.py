"""`ddt eval caption`: descriptions of held-out scenes, or of images of shards.

The objects of a scene are known, so captions of scenes are parsed and checked. Captions of images from shards are
compared with people's, by CIDEr-D and, for names of classes, by equality; the baseline takes the captions of another
image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ddt_lightning.evaluation.boxes import check_side
from ddt_lightning.evaluation.held_out import scenes_measured, take_samples
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.scorers import check_scorers
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.sampling import Sampling


@dataclass(frozen=True)
class Judges:
    """Networks that judge captions of photos.

    Args:
        minilm: folder of MiniLM, or None.
        detector: file of YOLOX-Nano, or None.
    """

    minilm: str | None = None
    detector: str | None = None


def caption(
    *,
    out: str,
    captions: int = 128,
    shards: list[str] | None = None,
    chat: bool = True,
    minilm: str | None = None,
    detector: str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Describe held-out scenes, and check by parsing that the objects are named; or images of shards, by CIDEr-D.

    Args:
        out: folder for caption.json, caption.png and samples; of shards for caption_shards.json, .png and samples.
        captions: how many; of shards of the first images.
        shards: image shards with captions, scored by CIDEr-D; held-out scenes if not given.
        chat: ask in the chat format of an instruct model; false for captions of a pretrained one, of shards only.
        minilm: MiniLM's folder, or `minilm` of `make judges`, for the similarity by meaning; of shards only.
        detector: YOLOX-Nano's ONNX file, or `yolox_nano` of `make judges`, for the objects that captions of photos
            name; of shards only.
        seen: scenes of combinations that training shows.
        seed: of the scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: recorded with the scores; captions are greedy and heed `looks` alone.
    """
    if not shards and not chat:
        raise ValueError("`--chat false` needs `--shards`: held-out scenes are described in the chat format.")
    if not shards and (minilm or detector):
        raise ValueError("`--minilm` and `--detector` need `--shards`: captions of scenes are parsed.")
    number = positive("captions", captions)
    judges = Judges(find_judge(minilm, "--minilm"), find_judge(detector, "--detector"))
    if judges.minilm is not None:
        check_scorers({"minilm": judges.minilm})
    session = Session(loading, drawing, processes, seed, files={"detector": judges.detector})
    if shards:
        outcome = describe_shards(session, shards, number, chat, judges)
    else:
        outcome = describe_scenes(session, number, seen)
    session.write(out, outcome)


def describe_scenes(session: Session, number: int, seen: bool) -> Outcome:
    """Captions of held-out or seen scenes, checked by parsing."""
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.metrics.answers import caption_match
    from ddt_lightning.scenes.language import parse_caption
    from ddt_lightning.scenes.render import render
    from ddt_lightning.scenes.suite import val_scene
    from ddt_lightning.seeding import numpy_rng

    scenes = [val_scene(numpy_rng("eval caption", session.seed, n), unseen=not seen) for n in range(number)]
    images = [render(scene, session.image_size) for scene in scenes]
    written = [r["caption"] for r in session.run(predictions.describe_images, images, True)]

    present = [[(shape.kind, shape.colour) for shape in scene.shapes] for scene in scenes]
    right = [caption_match(parse_caption(text), objects) for text, objects in zip(written, present, strict=True)]
    rule = (
        f"{scenes_measured(seen)}: the parsed caption, greedy, names all objects of the scene and no other; colours "
        "right where they are said"
    )
    return Outcome(
        "caption",
        {"caption/scene_match": mean_card(right, rule)},
        ["caption/scene_match"],
        {"captions": number, "seen": seen},
        number,
        number,
        pictures=lambda folder: galleries.captions(folder, images, written, present, right),
    )


def describe_shards(
    session: Session, shards: Sequence[str], number: int, chat: bool, judges: Judges = Judges()
) -> Outcome:
    """Captions of the first captioned images of some shards, scored against people's.

    Raises:
        ValueError: the shards hold no two captioned images.
    """
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.evaluation.caption_judges import meaning_cards, object_cards

    if judges.detector is not None:
        check_side(session.image_size, "--detector")
    problems: dict[str, str] = {}
    samples = take_samples(
        shards,
        session.image_size,
        number,
        problems,
        lambda one: bool(one.texts),
        "need two captioned images: CIDEr-D weighs a word by how few images have it",
        least=2,
    )
    found = session.run(predictions.describe_images, [one.images[0] for one in samples], chat)
    written = [r["caption"] for r in found]
    rows = [
        (one.images[0], text or "(nothing)", f"a person: {one.texts[0]}")
        for one, text in zip(samples, written, strict=True)
    ]
    cards = reference_cards(written, [one.texts for one in samples])
    if judges.minilm is not None:
        device = session.setup.loading.device
        cards |= meaning_cards(judges.minilm, device, written, [one.texts for one in samples])
    if judges.detector is not None:
        photos = [one.images[0] for one in samples]
        cards |= object_cards(judges.detector, photos, written, [one.texts for one in samples])
    return Outcome(
        "caption_shards",
        cards,
        ["caption/cider_d_regex", "caption/cider_d_regex_floor_shuffled", "caption/exact_match"],
        {"captions": len(samples), "source": ", ".join(shards), "chat": chat},
        number,
        len(samples),
        problems=problems,
        pictures=lambda folder: galleries.texts(folder, "caption_shards", rows),
    )


def reference_cards(written: Sequence[str], known: Sequence[Sequence[str]]) -> dict[str, Card]:
    """Scores of captions against the references of their images, with a baseline and, as an upper bound, a person.

    Args:
        written: one caption for each image.
        known: the references of each image.
    """
    from ddt_lightning.metrics.answers import normalise
    from ddt_lightning.metrics.cider import cider_d

    rule = (
        f"CIDEr-D x 10 with words by a regular expression (not the PTB tokenizer), greedy captions of {len(written)} "
        "images; word weights from the references of just these, held fixed in the interval"
    )
    others = [*known[1:], known[0]]
    baseline = "baseline: the same captions against the references of the next image"
    cards = {
        "caption/cider_d_regex": mean_card(cider_d(written, known), rule),
        "caption/cider_d_regex_floor_shuffled": mean_card(cider_d(written, others), baseline),
    }
    exact = "captions equal to a reference after VQA normalisation: of class names, the accuracy of a classifier"
    for name, wanted, text in (("", known, exact), ("_floor_shuffled", others, baseline)):
        pairs = zip(written, wanted, strict=True)
        right = [float(normalise(one) in {normalise(text) for text in references}) for one, references in pairs]
        cards[f"caption/exact_match{name}"] = mean_card(right, text)
    several = [texts for texts in known if len(texts) > 1]
    if several:
        people = cider_d([texts[0] for texts in several], [texts[1:] for texts in several])
        text = "the first reference of each image against its others: the score of a person"
        cards["caption/cider_d_regex_person"] = mean_card(people, text)
    return cards
