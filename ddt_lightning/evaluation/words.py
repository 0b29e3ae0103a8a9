"""`ddt eval words`: edits and questions about layouts in words, without images.

An instruct model is given a layout in words, and changes it or answers a question about it. The scores measure what
the model does with a layout, apart from how well it reads one from an image.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ddt_lightning.evaluation.held_out import scenes_measured
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import mean_card_by_type
from ddt_lightning.sampling import PLAN_END, Sampling

if TYPE_CHECKING:
    from ddt_lightning.scenes.render import Scene


def words(
    *,
    out: str,
    edits: int = 280,
    questions: int = 200,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
) -> None:
    """Let an instruct model edit layouts in words and answer questions about them: how often it does so rightly.

    Edits and questions are those of `ddt eval edit` and `ddt eval vqa`; the user says what their images show. The
    score `words/edits` asks for exact places and sizes; `words/plan_source` and `words/plan_target` have the rule of
    `edit/plan_source` and `edit/plan_target`, and are left out where the model writes nothing at all.

    Args:
        out: folder for words.json and words.jsonl, what was asked, wanted and written.
        edits: how many, the kinds of edit in turn.
        questions: how many, the types of question in turn.
        seen: scenes of combinations that training shows.
        seed: of the edits and questions.
        processes: worker processes, each with its share of the cores.
        loading: which model.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.evaluation.edit_scores import plan_cards
    from ddt_lightning.metrics.answers import score
    from ddt_lightning.scenes.layout import read_edit_plan, write_edit_plan, write_plan
    from ddt_lightning.scenes.suite import val_edit, val_question
    from ddt_lightning.scenes.tasks import EDITS, QUESTIONS
    from ddt_lightning.seeding import numpy_rng

    positive("edits", edits)
    positive("questions", questions)
    session = Session(loading, Sampling(), processes, seed)
    changes = [val_edit(numpy_rng("eval edit", seed, n), EDITS[n % len(EDITS)], not seen) for n in range(edits)]
    kinds = [QUESTIONS[n % len(QUESTIONS)] for n in range(questions)]
    asked = [val_question(numpy_rng("eval question", seed, n), kind, not seen) for n, kind in enumerate(kinds)]
    requests = [(write_plan(one.source), one.instruction) for one in changes]
    requests += [(write_plan(one.scene), one.question) for one in asked]
    wanted = [write_edit_plan(one) for one in changes] + [one.answer for one in asked]
    written = [found["text"] for found in session.run(predictions.write_texts, requests)]

    targets = [[(read_edit_plan(text) or (None, None))[1] for text in texts[:edits]] for texts in (written, wanted)]
    planned = [same(*pair) for pair in zip(*targets, strict=True)]
    answers = [text.rpartition(PLAN_END)[2].strip() for text in written[edits:]]
    answered = [score(answer, one.answer) for answer, one in zip(answers, asked, strict=True)]
    where, changed = f"{scenes_measured(seen)}, said as layouts; greedy", [one.kind for one in changes]
    cards = {
        "words/edits": mean_card_by_type(planned, f"{where}: the plan says what the source becomes", changed),
        "words/questions": mean_card_by_type(answered, f"{where}: answers equal to the truth after VQA rules", kinds),
        **plan_cards("words", written[:edits], changes),
    }

    def texts(folder: Path) -> None:
        names = ("layout", "request", "wanted", "written", "right")
        rows = zip(requests, wanted, written, [*planned, *answered], strict=True)
        lines = (dict(zip(names, (*said, *rest), strict=True)) for said, *rest in rows)
        (folder / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    shown = [key for key in cards if key.count("/") == 1]  # not those of single kinds of edit
    settings = {"edits": edits, "questions": questions, "seen": seen}
    number = edits + questions
    session.write(out, Outcome("words", cards, shown, settings, number, number, "texts", pictures=texts))


def same(found: "Scene | None", wanted: "Scene | None") -> bool:
    """Whether two layouts that were read say the same, in any order; False where one was not understood.

    Places and sizes must be equal, since words give them exactly. `plan.shows`, made for images, lets centres be off.
    """
    from ddt_lightning.scenes.layout import mentioned

    if found is None or wanted is None:
        return False
    return found.background == wanted.background and mentioned(found) == mentioned(wanted)
