"""Next-token cross-entropy that never holds all logits, as sums and counts so that a mean over ranks weighs all alike.

Hidden states `[B, T, D]`, head `[V, D]` and labels `[B, T]` in (label t is the id at position t; -100 is not scored),
sums in fp32 out. Only scored positions are multiplied with the head, a chunk of them at a time, and each chunk's
gradients are formed at once: the logits of a chunk are the most that exists, and nothing is computed twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddt_lightning.distributed import summed, world

LOGITS = 2**25  # logits of a chunk: 128 MB in fp32
LEAST_ROWS = 128  # positions of a chunk where the vocabulary is large: fewer would read the whole head for little


@dataclass(frozen=True)
class LossSums:
    """Cross-entropy in nats, summed, with the number of labels in each sum; [BOV] and [EOV] are only in the total.

    `total` alone has a gradient, holds the z-loss where there is one, and weighs text as it was asked to; so does
    `count`.
    """

    total: Tensor
    count: Tensor
    text: Tensor
    text_count: Tensor
    image: Tensor
    image_count: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    z_weight: float = 0.0,
    rows: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T` without the logits.

    Under autocast the products are in its dtype; softmax, sums and the weight's gradient are in fp32. The gradient can
    be asked for once.

    Args:
        hidden: `[N, D]`.
        weight: the head `[V, D]`.
        targets: int64 `[N]`, each in 0 .. V-1.
        softcap: c of `c tanh(logits / c)` (Gemma 2), or None.
        z_weight: weight of the squared log-partition (PaLM, arXiv 2204.02311, section 5), which keeps it near 0.
        rows: positions of a chunk; None chooses by V.
        weights: of the positions in the sum, `[N]`; None for 1.

    Returns:
        The weighted sum over positions, z-loss included, fp32; and the plain cross-entropies `[N]`, fp32, without a
        gradient.
    """
    rows = rows or max(LEAST_ROWS, LOGITS // weight.shape[0])
    wanted = torch.is_grad_enabled()
    if weights is None:
        weights = torch.ones(len(targets), device=hidden.device)
    return _LinearCrossEntropy.apply(hidden, weight, targets, softcap, z_weight, rows, weights, wanted)


def split_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    image_start: int,
    image_end: int,
    softcap: float | None = None,
    z_weight: float = 0.0,
    text_weight: float = 1.0,
) -> LossSums:
    """Sums over all scored labels, text (below `image_start`) and image (`image_start <= label < image_end`).

    `text_weight` weighs the labels below `image_start` in `total` and `count`, so that `total / count` is a weighted
    mean; the other sums are plain.

    Args:
        hidden: `[B, T, D]`, what the head is applied to; position t predicts the label at t + 1.
        weight: the head `[V, D]`.
        labels: int64 `[B, T]`.
        image_start: first id of an image.
        image_end: the id after the last one.
        softcap: see `linear_cross_entropy`.
        z_weight: see there.
        text_weight: above 0.
    """
    scored = labels[:, 1:] >= 0
    targets = labels[:, 1:][scored]
    text, image = targets < image_start, (targets >= image_start) & (targets < image_end)
    weights = torch.where(text, text_weight, 1.0)
    total, losses = linear_cross_entropy(hidden[:, :-1][scored], weight, targets, softcap, z_weight, weights=weights)
    return LossSums(total, weights.sum(), losses[text].sum(), text.sum(), losses[image].sum(), image.sum())


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Loss of this rank whose average over all ranks is the mean over the labels of all ranks.

    DDP and FSDP average gradients over ranks; dividing by the global count, times the ranks, turns that average into
    the gradient one process would have had. Zero where no rank has a label.
    """
    _, ranks = world()
    count = summed(count.clone())
    return total * ranks / (count + (count == 0))


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward and backward in one pass over chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softcap: float | None,
        z_weight: float,
        rows: int,
        weights: Tensor,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        """Losses, and the gradients of their sum, kept for `backward`."""
        kind = hidden.device.type
        product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        penalty = torch.zeros((), dtype=torch.float32, device=hidden.device)
        ctx.hidden = torch.empty_like(hidden) if wanted and ctx.needs_input_grad[0] else None
        ctx.weight = torch.zeros_like(weight, dtype=torch.float32) if wanted and ctx.needs_input_grad[1] else None
        with torch.autocast(kind, enabled=False):
            head = weight.to(product)
            for start in range(0, len(hidden), rows):
                chunk = slice(start, start + rows)
                states = hidden[chunk].to(product)
                each = weights[chunk]
                losses[chunk], partition, slope = _chunk(states, head, targets[chunk], each, softcap, z_weight)
                penalty += (each * partition.square()).sum()
                slope = slope.to(product)
                if ctx.hidden is not None:
                    ctx.hidden[chunk] = slope @ head
                if ctx.weight is None:
                    continue
                if product == torch.float32:
                    ctx.weight.addmm_(slope.T, states)
                else:
                    ctx.weight += slope.T @ states
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(losses)
        return (weights * losses).sum() + z_weight * penalty, losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """The kept gradients times that of the sum, in place: one buffer of the head's size, not two."""
        if ctx.dtype is None:
            raise RuntimeError("the gradient of linear_cross_entropy was asked for twice: compute the loss again.")
        hidden = ctx.hidden.mul_(upstream) if ctx.hidden is not None else None
        weight = ctx.weight.mul_(upstream).to(ctx.dtype) if ctx.weight is not None else None
        ctx.hidden = ctx.weight = ctx.dtype = None
        return hidden, weight, None, None, None, None, None, None


def _chunk(
    states: Tensor, head: Tensor, targets: Tensor, weights: Tensor, softcap: float | None, z_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies `[n]`, log-partitions `[n]`, and the weighted gradient of the logits `[n, V]`, all fp32."""
    logits = (states @ head.T).float()
    capped = None
    if softcap is not None:
        capped = logits.div_(softcap).tanh_()
        logits = capped * softcap
    at_target = logits.gather(1, targets[:, None]).squeeze(1)
    top = logits.amax(1, keepdim=True)
    shares = logits.sub_(top).exp_()
    sums = shares.sum(1, keepdim=True)
    partition = (top + sums.log()).squeeze(1)
    slope = shares.mul_(weights[:, None] * (1 + 2 * z_weight * partition[:, None]) / sums)
    slope.scatter_add_(1, targets[:, None], -weights[:, None])
    if capped is not None:
        slope.mul_(capped.square_().neg_().add_(1))
    return partition - at_target, partition, slope
