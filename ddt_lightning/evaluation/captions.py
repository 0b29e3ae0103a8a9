"""`ddt eval vqa|caption`: questions answered and images described, of held-out scenes or of some shards.

Of scenes the truth is known in full: answers are right or wrong, captions are parsed. Of shards people's answers and
captions are the measure: VQA v2's accuracy where ten people answered, CIDEr-D for captions, equality for names of
classes. Each has a floor: the same questions about another image, the captions of other images.
"""

from itertools import islice

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.session import Session, say, scenes_measured
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import mean_card
from ddt_lightning.sampling import Sampling


def caption(
    *,
    out: str,
    captions: int = 128,
    shards: list[str] | str | None = None,
    chat: bool = True,
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
        seen: scenes of combinations that training shows.
        seed: of the scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: recorded with the scores; captions are greedy.
    """
    from ddt_lightning.evaluation import predictions

    if not shards and not chat:
        raise ValueError("`--chat false` needs `--shards`: held-out scenes are described in the chat format.")
    session = Session(loading, drawing, processes, seed)
    if shards:
        return caption_shards(session, out, [shards] if isinstance(shards, str) else shards, captions, chat)
    from ddt_lightning.evaluation import galleries
    from ddt_lightning.metrics.answers import caption_match
    from ddt_lightning.scenes.language import parse_caption
    from ddt_lightning.scenes.suite import val_scene
    from ddt_lightning.seeding import numpy_rng

    number = positive("captions", captions)
    scenes = [val_scene(numpy_rng("eval caption", seed, n), unseen=not seen) for n in range(number)]
    found = session.run(predictions.write_captions, scenes)

    looks = [[(shape.kind, shape.colour) for shape in scene.shapes] for scene in scenes]
    right = [caption_match(parse_caption(r["caption"]), look) for r, look in zip(found, looks, strict=True)]
    rule = (
        f"{scenes_measured(seen)}: the parsed caption, greedy, names all objects of the scene and no other; colours "
        "right where they are said"
    )
    cards = {"caption/scene_match": mean_card(right, rule)}
    with staged(out) as folder:
        galleries.captions(folder, looks, found, right)
        session.finish(folder, "caption", cards, {"captions": number, "seen": seen})
    say(out, cards, "caption/scene_match")


def caption_shards(session: Session, out: str, patterns: list[str], number: int, chat: bool) -> None:
    """Describe the first captioned images of some shards, scored against their captions and those of other images.

    Raises:
        ValueError: the shards hold no two captioned images.
    """
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.metrics.answers import normalise
    from ddt_lightning.metrics.cider import cider_d
    from ddt_lightning.shards.images import read_images

    side = session.facts["model"]["image_size"]
    read = read_images(patterns, image_size=side, option="--shards")
    samples = list(islice((one for one in read if one.texts), positive("captions", number)))
    if len(samples) < 2:
        raise ValueError(f"`--shards` ({', '.join(patterns)}) need two captioned images: CIDEr weighs words by images.")
    found = session.run(predictions.caption_pictures, [one.images[0] for one in samples], chat)

    said = [r["caption"] for r in found]
    known = [one.texts for one in samples]
    rule = (
        f"CIDEr-D x 10 with words by a regular expression (not the PTB tokenizer), greedy captions of {len(samples)} "
        "images; word weights from the references of just these, held fixed in the interval"
    )
    others = [*known[1:], known[0]]
    cards = {"caption/cider_d_regex": mean_card(cider_d(said, known), rule)}
    text = "the same captions against the references of the next image"
    cards["caption/cider_d_regex_floor_shuffled"] = mean_card(cider_d(said, others), text)
    exact = "captions equal to a reference after VQA normalisation: of class names, the accuracy of a classifier"
    for name, wanted, rule in (("", known, exact), ("_floor_shuffled", others, text)):
        pairs = zip(said, wanted, strict=True)
        right = [float(normalise(one) in {normalise(text) for text in references}) for one, references in pairs]
        cards[f"caption/exact_match{name}"] = mean_card(right, rule)
    several = [texts for texts in known if len(texts) > 1]
    if several:
        people = cider_d([texts[0] for texts in several], [texts[1:] for texts in several])
        text = "the first reference of each image against its others, as a person's caption"
        cards["caption/cider_d_regex_person"] = mean_card(people, text)
    rows = [
        (one.images[0], r["caption"] or "(nothing)", f"a person: {one.texts[0]}")
        for one, r in zip(samples, found, strict=True)
    ]
    with staged(out) as folder:
        galleries.texts(folder, "caption_shards", rows)
        sizes = {"captions": len(samples), "source": ", ".join(patterns), "chat": chat}
        session.finish(folder, "caption_shards", cards, sizes)
    say(out, cards, "caption/cider_d_regex", "caption/cider_d_regex_floor_shuffled", "caption/exact_match")
