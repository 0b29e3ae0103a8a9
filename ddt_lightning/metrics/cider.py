"""CIDEr-D of captions, tokenised by a regular expression: hypotheses and references in, one score per image out.

Vedantam et al. 2015 (arXiv 1411.5726) as pycocoevalcap 1.2 computes it: n-grams of one to four words weighted by how
few images' references have them, clipped counts, a Gaussian penalty (sigma 6) on the difference in length counted in
bigrams, mean over n and references, times 10. The official tokenizer is Stanford's in Java; words here are runs of
letters, digits and inner apostrophes in lower case, so a result is called "CIDEr-D, regex tokens" and compares with
its own kind only.

The weights come from the references of the whole set that is evaluated: a subset scores differently, and scores of
parts must not be averaged.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
SIGMA = 6.0

_Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words; punctuation is left out."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'"))


def grams(text: str) -> list[Counter[_Gram]]:
    """Counts of the text's n-grams, for n from 1 to 4."""
    said = words(text)
    return [Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1)) for n in range(1, ORDERS + 1)]


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each image, from 0 up to 10; papers print 100 times the mean.

    Args:
        hypotheses: one caption for each image.
        references: the known captions of each image, one or more.

    Raises:
        ValueError: the numbers differ, or an image has no reference.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"`hypotheses` has {len(hypotheses)} captions and `references` {len(references)} images; they must agree."
        )
    if not all(references):
        raise ValueError("`references` has an image without a caption.")
    known = [[grams(text) for text in texts] for texts in references]
    images: Counter[_Gram] = Counter()
    for texts in known:
        images.update({gram for text in texts for counts in text for gram in counts})
    total = math.log(len(references)) if references else 0.0

    def vector(counts: Counter[_Gram]) -> dict[_Gram, float]:
        return {gram: count * (total - math.log(max(1, images[gram]))) for gram, count in counts.items()}

    scores = []
    for hypothesis, texts in zip(hypotheses, known, strict=True):
        counts = grams(hypothesis)
        mine = [vector(one) for one in counts]
        total_cosine = 0.0
        for text in texts:
            difference = counts[1].total() - text[1].total()
            penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
            total_cosine += penalty * sum(_clipped_cosine(a, vector(b)) for a, b in zip(mine, text, strict=True))
        scores.append(10 * total_cosine / ORDERS / len(texts))
    return scores


def _clipped_cosine(mine: dict[_Gram, float], other: dict[_Gram, float]) -> float:
    """Cosine of two weighted vectors, where saying an n-gram more often than the reference does not help."""
    norm = math.sqrt(sum(value**2 for value in mine.values()) * sum(value**2 for value in other.values()))
    common = sum(min(value, other[gram]) * other[gram] for gram, value in mine.items() if gram in other)
    return common / norm if norm else 0.0
