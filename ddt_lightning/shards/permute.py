"""Orders in which a language model may see the ids of an image, beside their own: for studies of what order is worth.

    natural    as they are                      reversed   last first
    stride-N   every (N+1)th id, in N+1 passes  random-S   one permutation, the same for all images, from seed S

`stride-1` is the odd places (1, 3, 5, ...) and then the even ones, `stride-2` every third in three passes: the shuffles
of Selftok's appendix C (arXiv 2505.07538).
"""

import re

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.seeding import numpy_rng

NATURAL = "natural"


def permutation(name: str, length: int) -> NDArray[np.int64]:
    """The order `[length]`: which natural place the model sees first, second and so on; every place once.

    Args:
        name: `natural`, `reversed`, `stride-N` or `random-SEED`.
        length: K.

    Raises:
        ValueError: another name.
    """
    places = np.arange(length)
    kind, _, number = name.partition("-")
    if name == NATURAL:
        return places
    if name == "reversed":
        return places[::-1].copy()
    if kind == "stride" and re.fullmatch(r"[1-9]\d*", number):
        step = int(number) + 1
        return np.concatenate([places[start::step] for start in range(step)])
    if kind == "random" and re.fullmatch(r"\d+", number):
        return numpy_rng("permutation", int(number), length).permutation(length)
    raise ValueError(f"`permute` ({name}) must be natural, reversed, stride-N (N from 1 on) or random-SEED.")


def marked(tokenizer: str, name: str) -> str:
    """The fingerprint of ids in another order: no tokenizer has it, so nothing decodes them by mistake."""
    return tokenizer if name == NATURAL else f"{tokenizer}:{name}"
