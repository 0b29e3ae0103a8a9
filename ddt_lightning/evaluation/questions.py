"""`ddt eval vqa`: questions about held-out scenes or images of shards, with a blind baseline."""

from itertools import islice

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.session import Session, say, scenes_measured
from ddt_lightning.inputs import Loading
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.sampling import Sampling


def vqa(
    *,
    out: str,
    questions: int = 250,
    shards: list[str] | str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
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
    from ddt_lightning.evaluation import predictions

    if questions < 2:
        raise ValueError(f"`--questions` ({questions}) must be at least 2: the blind floor shows another image.")
    session = Session(loading, drawing, processes, seed)
    from ddt_lightning.evaluation import galleries
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
    found = session.run(predictions.answer_questions, items)

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
        galleries.questions(folder, asked, found, right)
        session.finish(folder, "vqa", cards, {"questions": questions, "seen": seen})
    say(out, cards, "vqa/accuracy", "vqa/floor_blind")


def vqa_shards(session: Session, out: str, patterns: list[str], number: int) -> None:
    """Answer the first questions of some shards about their own and about the next image.

    Raises:
        ValueError: the shards hold no question, or no two images.
    """
    from ddt_lightning.evaluation import galleries, predictions
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
    found = session.run(predictions.answer_pictures, items)

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
        galleries.texts(folder, "vqa_shards", rows)
        session.finish(folder, "vqa_shards", cards, {"questions": len(asked), "source": ", ".join(patterns)})
    say(out, cards, *(key for key in ("vqa/vqav2_accuracy", "vqa/exact_match") if key in cards))
