"""Floating-point operations of a batch of any shape, from steps of a few shapes on fake tensors."""

from dataclasses import dataclass, replace

from ddt_lightning.cost.settings import Settings
from ddt_lightning.cost.trial import measure

LENGTHS = (64, 128, 256)
"""Row lengths that are measured: three give the square, the linear and the constant part exactly."""


@dataclass(frozen=True)
class Work:
    """Operations of a forward and backward pass, nothing counted twice.

    Args:
        item: of a row or image.
        each: of an id of a row.
        pair: of two ids of a row, its attention.
    """

    item: float
    each: float = 0.0
    pair: float = 0.0

    def flops(self, items: int, length: int = 0) -> float:
        """Operations of `items` rows of `length` ids, or of `items` images."""
        return items * (self.item + self.each * length + self.pair * length**2)


def work_of(settings: Settings) -> Work:
    """The work of a stage that learns from data; practice with a reward draws most of the time and has none."""
    alone = replace(settings.with_checkpointing(False), processes=1, sharded=False, averaged=False)
    if settings.kind != "language":
        return Work(float(sum(measure(alone, [1])[0].flops.values())))
    low, middle, high = (sum(measure(replace(alone, length=n), [1])[0].flops.values()) for n in LENGTHS)
    a, b, c = LENGTHS
    pair = ((high - middle) / (c - b) - (middle - low) / (b - a)) / (c - a)
    each = (middle - low) / (b - a) - pair * (a + b)
    return Work(low - each * a - pair * a**2, each, pair)
