"""`ddt eval vqa`: questions about held-out scenes or images of shards, with a blind baseline.

Answers about scenes are right or wrong. Answers about images from shards are compared with people's: by VQA v2's
accuracy where ten people answered, by equality elsewhere. The baseline asks the same questions about another image.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from ddt_lightning.evaluation.held_out import scenes_measured, take_samples
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading
from ddt_lightning.metrics.cards import Card, mean_card, mean_card_by_type
from ddt_lightning.sampling import Sampling


def vqa(
    *,
    out: str,
    questions: int = 250,
    shards: list[str] | None = None,
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
        drawing: recorded with the scores; answers are greedy and heed `looks` alone.
    """
    if questions < 2:
        raise ValueError(f"`--questions` ({questions}) must be at least 2: the blind baseline shows another image.")
    session = Session(loading, drawing, processes, seed)
    outcome = ask_about_shards(session, shards, questions) if shards else ask_about_scenes(session, questions, seen)
    session.write(out, outcome)


def ask_about_scenes(session: Session, number: int, seen: bool) -> Outcome:
    """Questions about held-out or seen scenes, the types of question in turn."""
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.evaluation.plan import shows
    from ddt_lightning.metrics.answers import score
    from ddt_lightning.scenes.layout import read_plan
    from ddt_lightning.scenes.render import render
    from ddt_lightning.scenes.suite import val_question
    from ddt_lightning.scenes.tasks import QUESTIONS
    from ddt_lightning.seeding import numpy_rng

    kinds = [QUESTIONS[n % len(QUESTIONS)] for n in range(number)]
    asked = [val_question(numpy_rng("eval question", session.seed, n), kind, not seen) for n, kind in enumerate(kinds)]
    images = [render(one.scene, session.image_size) for one in asked]
    items = []
    for n, one in enumerate(asked):
        later = [*range(n + 1, number), *range(n)]
        other = next((m for m in later if kinds[m] == one.kind), later[0])
        items.append((images[n], one.question, images[other]))
    found = session.run(predictions.answer_questions, items)

    right = [score(r["answer"], one.answer) for one, r in zip(asked, found, strict=True)]
    blind = [score(r["blind"], one.answer) for one, r in zip(asked, found, strict=True)]
    rule = (
        f"{scenes_measured(seen)}: answers equal to the truth after VQA normalisation, greedy, answers balanced within "
        "each type"
    )
    baseline = "baseline: the same questions about the image of another question of their type"
    cards = {"vqa/accuracy": mean_card_by_type(right, rule, kinds), "vqa/floor_blind": mean_card(blind, baseline)}
    plans = [r["plan"] for r in found]
    if any(plans):
        text = "the plan before the answer has exactly the objects of the scene, centres within 10 % of the side"
        seen_right = [shows(read_plan(plan), one.scene) for plan, one in zip(plans, asked, strict=True)]
        cards["vqa/plan_right"] = mean_card(seen_right, text)
    answers = [f"{r['plan']} {r['answer']}".strip() for r in found]
    return Outcome(
        "vqa",
        cards,
        ["vqa/accuracy", "vqa/floor_blind"],
        {"questions": number, "seen": seen},
        number,
        number,
        "questions",
        pictures=lambda folder: galleries.questions(folder, asked, images, answers, right),
    )


def ask_about_shards(session: Session, shards: Sequence[str], number: int) -> Outcome:
    """The first questions of some shards, asked about their own and about the next image.

    Raises:
        ValueError: the shards hold no two images with questions.
    """
    from ddt_lightning.evaluation import galleries, predictions

    problems: dict[str, str] = {}
    samples = take_samples(
        shards,
        session.image_size,
        None,
        problems,
        lambda one: bool(one.questions),
        "need two images with questions: the blind baseline asks about the next image",
        least=2,
    )
    asked = list(islice(((n, entry) for n, one in enumerate(samples) for entry in one.questions), number))
    pictures = [one.images[0] for one in samples]
    items = [(pictures[n], entry["question"], pictures[(n + 1) % len(pictures)]) for n, entry in asked]
    found = session.run(predictions.answer_questions, items)
    cards = people_cards([entry for _, entry in asked], found)
    rows = [
        (pictures[n], entry["question"], f"said: {r['answer']}; known: {', '.join(dict.fromkeys(entry['answers']))}")
        for (n, entry), r in zip(asked, found, strict=True)
    ]
    return Outcome(
        "vqa_shards",
        cards,
        [key for key in ("vqa/vqav2_accuracy", "vqa/exact_match") if key in cards],
        {"questions": len(asked), "source": ", ".join(shards)},
        number,
        len(asked),
        "questions",
        problems,
        lambda folder: galleries.texts(folder, "vqa_shards", rows),
    )


def people_cards(asked: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, Card]:
    """Scores of answers against people's, overall and by type of question, with the blind baseline.

    Args:
        asked: questions of shards: `answers`, perhaps a `type`.
        found: `answer` and `blind` of each.
    """
    from ddt_lightning.metrics import vqav2
    from ddt_lightning.metrics.answers import score

    cards: dict[str, Card] = {}
    known = [entry["answers"] for entry in asked]
    kinds = [str(entry.get("type") or "") for entry in asked]
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
        cards[f"vqa/{name}_floor_blind"] = mean_card(blind, "baseline: the same questions about another image")
    return cards
