"""Accuracy of answers and captions: texts and plain data in, shares out.

Answers are compared after the usual VQA normalisation (case, punctuation, articles, number words). A caption comes
parsed, as `(kind, colour or None, count)` entries, and a scene's objects as `(kind, colour)` pairs.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(answer: str) -> str:
    """Lower case, no punctuation, no articles, number words as digits, single spaces."""
    words = re.sub(r"[^\w\s]", " ", answer.lower().replace("'", "")).split()
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def score(prediction: str, answers: str | Sequence[str]) -> float:
    """0-1: one or two reference answers need an exact match; from three on VQA's rule `min(matches / 3, 1)`.

    VQA's rule is averaged over all choices that leave one reference out, as its official code does.
    """
    references = [normalise(answer) for answer in ([answers] if isinstance(answers, str) else answers)]
    said = normalise(prediction)
    if len(references) < 3:
        return float(said in references)
    total = sum(reference == said for reference in references)
    return sum(min((total - (reference == said)) / 3, 1.0) for reference in references) / len(references)


def accuracy(predictions: Sequence[str], answers: Sequence[str | Sequence[str]]) -> float:
    """Mean score; nan without questions.

    Raises:
        ValueError: the numbers of predictions and answers differ.
    """
    if len(predictions) != len(answers):
        raise ValueError(f"`predictions` has {len(predictions)} texts and `answers` {len(answers)}; they must agree.")
    scores = [score(said, known) for said, known in zip(predictions, answers, strict=True)]
    return sum(scores) / len(scores) if scores else math.nan


def caption_match(
    parsed: Sequence[tuple[str, str | None, int]] | None, objects: Sequence[tuple[str, str]], *, colours: bool = False
) -> bool:
    """Whether a parsed caption names all of a scene's objects and no other.

    Args:
        parsed: kind, colour (None: not said) and count of each entry; None: the caption was not understood.
        objects: kind and colour of each object.
        colours: every colour must be said; otherwise it must be right where it is said.
    """
    if parsed is None or (colours and any(colour is None for _, colour, _ in parsed)):
        return False
    left = Counter(objects)
    for kind, colour, count in parsed:
        if colour is not None:
            left[kind, colour] -= count
    if min(left.values(), default=0) < 0:
        return False
    unnamed: Counter[str] = Counter()
    for (kind, _), count in left.items():
        unnamed[kind] += count
    said: Counter[str] = Counter()
    for kind, colour, count in parsed:
        if colour is None:
            said[kind] += count
    return unnamed == said
