"""Use of a codebook: usage and perplexity.

In: ids, int64 `[N, K]`, of as many images as one can afford (usage of one batch misleads: count over a whole set).
Out: usage (share of codes seen at least once) and perplexity (exp of the entropy of the code frequencies; the number of
codes that would be used if all were used equally).
"""

import torch
from torch import Tensor


def code_counts(ids: Tensor, codebook_size: int) -> Tensor:
    """Occurrences of each code: int64 `[codebook_size]`. Counts of several batches or processes may be added."""
    return torch.bincount(ids.reshape(-1), minlength=codebook_size)


def usage(counts: Tensor) -> float:
    """The share of codes that occur at all, in [0, 1]."""
    return float((counts > 0).double().mean())


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of the code frequencies, between 1 and the codebook size; 0 where nothing was counted."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0].double() / total
    return float(torch.exp(-(share * share.log()).sum()))


def perplexity_by_position(ids: Tensor, codebook_size: int, groups: int = 4) -> list[float]:
    """Perplexity of the codes in each of `groups` equal spans of token positions, finest first.

    A codebook can look healthy as a whole while the coarse tokens use a handful of codes.

    Args:
        ids: int64 `[N, K]`.
        codebook_size: number of codes.
        groups: number of spans; at most K.
    """
    spans = torch.tensor_split(ids, min(groups, ids.shape[1]), dim=1)
    return [perplexity(code_counts(span, codebook_size)) for span in spans]
