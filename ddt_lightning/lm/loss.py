"""Next-token cross-entropy as sums and counts, so that a mean over all ranks weighs every token alike.

Logits `[B, T, V]` and labels `[B, T]` in (label t is the id at position t; -100 is not scored), sums in fp32 out.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossSums:
    """Cross-entropy in nats, summed, with the number of labels in each sum; [BOV] and [EOV] are only in the total."""

    total: Tensor
    count: Tensor
    text: Tensor
    text_count: Tensor
    image: Tensor
    image_count: Tensor


def next_token_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the scored labels, and their number.

    Args:
        logits: `[B, T, V]`; position t predicts the label at t + 1.
        labels: int64 `[B, T]`.
    """
    losses = _losses(logits, labels)
    return losses.sum(), (labels[:, 1:] >= 0).sum()


def split_loss(logits: Tensor, labels: Tensor, image_start: int, image_end: int) -> LossSums:
    """The same, with the parts of text (labels below `image_start`) and image (`image_start <= label < image_end`)."""
    losses, targets = _losses(logits, labels), labels[:, 1:]
    text = (targets >= 0) & (targets < image_start)
    image = (targets >= image_start) & (targets < image_end)
    return LossSums(
        losses.sum(), (targets >= 0).sum(), (losses * text).sum(), text.sum(), (losses * image).sum(), image.sum()
    )


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Loss of this rank whose average over all ranks is the mean over the labels of all ranks.

    DDP and FSDP average gradients over ranks; dividing by the global count, times the ranks, turns that average into
    the gradient one process would have had. Zero where no rank has a label.
    """
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        ranks, count = dist.get_world_size(), count.clone()
        dist.all_reduce(count)
    return total * ranks / count.clamp(min=1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """fp32 `[B, T-1]`, zero where not scored."""
    with torch.autocast(logits.device.type, enabled=False):
        flat = F.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
        )
    return flat.view(labels.shape[0], -1)
