"""`ddt eval vqa|caption`: questions answered and images described, of held-out scenes or of some shards.

Of scenes the truth is known in full: answers are right or wrong, captions are parsed. Of shards people's answers and
captions are the measure: VQA v2's accuracy where ten people answered, CIDEr-D for captions, equality for names of
classes. Each has a floor: the same questions about another image, the captions of other images.
"""

from itertools import islice

from ddt_lightning.commands.cards import Card, mean_card
from ddt_lightning.commands.files import positive
from ddt_lightning.commands.options import Drawing, Loading
from ddt_lightning.commands.scoring import Session, say, scenes_measured
from ddt_lightning.commands.staging import staged

LOADING, DRAWING = Loading(), Drawing()


def vqa(
    *,
    out: str,
    questions: int = 250,
    shards: list[str] | str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = LOADING,
    drawing: Drawing = DRAWING,
) -> None:
    """Answer held-out questions about the right and about other images; those of scenes have balanced answers.

    Args:
        out: folder for vqa.json, vqa.png and samples; of shards for vqa_shards.json, vqa_shards.png and samples.
        questions: how many, the types of question in turn; of shards the first ones.
        shards: question shards to take them from, scored by VQA v2's rule; held-out scenes if not given.
        seen: scenes of combinations that training shows.
        seed: of the questions.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: recorded with the scores; answers are greedy.
    """
    if questions < 2:
        raise ValueError(f"`--questions` ({questions}) must be at least 2: the blind floor shows another image.")
    session = Session(loading, drawing, processes, seed)
    from ddt_lightning.commands import gallery
    from ddt_lightning.metrics.answers import score
    from ddt_lightning.scenes.suite import val_question
    from ddt_lightning.scenes.tasks import QUESTIONS
    from ddt_lightning.seeding import numpy_rng

    if shards:
        return vqa_shards(session, out, [shards] if isinstance(shards, str) else shards, questions)
    kinds = [QUESTIONS[n % len(QUESTIONS)] for n in range(questions)]
    asked = [val_question(numpy_rng("eval question", seed, n), kind, not seen) for n, kind in enumerate(kinds)]
    items = []
    for n, one in enumerate(asked):
        later = [*asked[n + 1 :], *asked[:n]]
        items.append((one, next((other for other in later if other.kind == one.kind), later[0]).scene))
    found = session.run("answer_questions", items)

    right = [score(r["answer"], one.answer) for one, r in zip(asked, found, strict=True)]
    blind = [score(r["blind"], one.answer) for one, r in zip(asked, found, strict=True)]
    rule = (
        f"{scenes_measured(seen)}: answers equal to the truth after VQA normalisation, greedy, answers balanced within "
        "each type"
    )
    cards = {"vqa/accuracy": mean_card(right, rule)}
    cards["vqa/accuracy"]["by_type"] = {
        kind: float(mean_card([s for one, s in zip(asked, right, strict=True) if one.kind == kind], rule)["value"])
        for kind in dict.fromkeys(kinds)
    }
    cards["vqa/floor_blind"] = mean_card(blind, "the same questions about the image of another question of their type")
    with staged(out) as folder:
        gallery.questions(folder, asked, found, right)
        session.finish(folder, "vqa", cards, {"questions": questions, "seen": seen})
    say(out, cards, "vqa/accuracy", "vqa/floor_blind")


def vqa_shards(session: Session, out: str, patterns: list[str], number: int) -> None:
    """Answer the first questions of some shards about their own and about the next image.

    Raises:
        ValueError: the shards hold no question, or no two images.
    """
    from ddt_lightning.commands import gallery
    from ddt_lightning.metrics import vqav2
    from ddt_lightning.metrics.answers import score
    from ddt_lightning.shards.images import read_images

    side = session.facts["model"]["image_size"]
    samples = [one for one in read_images(patterns, image_size=side, option="--shards") if one.questions]
    asked = list(islice(((n, entry) for n, one in enumerate(samples) for entry in one.questions), number))
    if len(samples) < 2:
        raise ValueError(
            f"`--shards` ({', '.join(patterns)}) need two images with questions: one is the other's floor."
        )
    pictures = [one.images[0] for one in samples]
    items = [(pictures[n], entry["question"], pictures[(n + 1) % len(pictures)]) for n, entry in asked]
    found = session.run("answer_pictures", items)

    cards: dict[str, Card] = {}
    known = [entry["answers"] for _, entry in asked]
    kinds = [str(entry.get("type") or "") for _, entry in asked]
    by_people = [n for n, answers in enumerate(known) if len(answers) == vqav2.PEOPLE]
    others = [n for n, answers in enumerate(known) if len(answers) != vqav2.PEOPLE]
    rule = (
        "VQA v2's accuracy: min(matches / 3, 1) over the choices of nine of ten people, official normalisation, greedy"
    )
    exact = "answers equal to one of the known ones after VQA normalisation, greedy, questions without ten answers"
    for name, places, text, measure in (
        ("vqav2_accuracy", by_people, rule, vqav2.accuracy),
        ("exact_match", others, exact, score),
    ):
        if not places:
            continue
        right = {n: measure(found[n]["answer"], known[n]) for n in places}
        blind = [measure(found[n]["blind"], known[n]) for n in places]
        cards[f"vqa/{name}"] = mean_card(list(right.values()), text)
        for kind in sorted({kinds[n] for n in places} - {""}):
            values = [right[n] for n in places if kinds[n] == kind]
            cards[f"vqa/{name}/{kind}"] = mean_card(values, f"{text}, type {kind}")
        cards[f"vqa/{name}_floor_blind"] = mean_card(blind, "the same questions about another image")
    rows = [
        (pictures[n], entry["question"], f"said: {r['answer']}; known: {', '.join(dict.fromkeys(entry['answers']))}")
        for (n, entry), r in zip(asked, found, strict=True)
    ]
    with staged(out) as folder:
        gallery.texts(folder, "vqa_shards", rows)
        session.finish(folder, "vqa_shards", cards, {"questions": len(asked), "source": ", ".join(patterns)})
    say(out, cards, *(key for key in ("vqa/vqav2_accuracy", "vqa/exact_match") if key in cards))


def caption(
    *,
    out: str,
    captions: int = 128,
    shards: list[str] | str | None = None,
    chat: bool = True,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = LOADING,
    drawing: Drawing = DRAWING,
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
    if not shards and not chat:
        raise ValueError("`--chat false` needs `--shards`: held-out scenes are described in the chat format.")
    session = Session(loading, drawing, processes, seed)
    if shards:
        return caption_shards(session, out, [shards] if isinstance(shards, str) else shards, captions, chat)
    from ddt_lightning.commands import gallery
    from ddt_lightning.metrics.answers import caption_match
    from ddt_lightning.scenes.language import parse_caption
    from ddt_lightning.scenes.suite import val_scene
    from ddt_lightning.seeding import numpy_rng

    number = positive("captions", captions)
    scenes = [val_scene(numpy_rng("eval caption", seed, n), unseen=not seen) for n in range(number)]
    found = session.run("write_captions", scenes)

    looks = [[(shape.kind, shape.colour) for shape in scene.shapes] for scene in scenes]
    right = [caption_match(parse_caption(r["caption"]), look) for r, look in zip(found, looks, strict=True)]
    rule = (
        f"{scenes_measured(seen)}: the parsed caption, greedy, names all objects of the scene and no other; colours "
        "right where they are said"
    )
    cards = {"caption/scene_match": mean_card(right, rule)}
    with staged(out) as folder:
        gallery.captions(folder, looks, found, right)
        session.finish(folder, "caption", cards, {"captions": number, "seen": seen})
    say(out, cards, "caption/scene_match")


def caption_shards(session: Session, out: str, patterns: list[str], number: int, chat: bool) -> None:
    """Describe the first captioned images of some shards, scored against their captions and those of other images.

    Raises:
        ValueError: the shards hold no two captioned images.
    """
    from ddt_lightning.commands import gallery
    from ddt_lightning.metrics.answers import normalise
    from ddt_lightning.metrics.cider import cider_d
    from ddt_lightning.shards.images import read_images

    side = session.facts["model"]["image_size"]
    read = read_images(patterns, image_size=side, option="--shards")
    samples = list(islice((one for one in read if one.texts), positive("captions", number)))
    if len(samples) < 2:
        raise ValueError(f"`--shards` ({', '.join(patterns)}) need two captioned images: CIDEr weighs words by images.")
    found = session.run("caption_pictures", [one.images[0] for one in samples], (chat,))

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
        gallery.texts(folder, "caption_shards", rows)
        sizes = {"captions": len(samples), "source": ", ".join(patterns), "chat": chat}
        session.finish(folder, "caption_shards", cards, sizes)
    say(out, cards, "caption/cider_d_regex", "caption/cider_d_regex_floor_shuffled", "caption/exact_match")
