"""Steps of a deep language model, on straight lines through those of two shallow ones: its blocks are all alike."""

from collections.abc import Sequence
from dataclasses import replace

from ddt_lightning.cost.settings import Settings
from ddt_lightning.cost.trial import Measured, measure

SHALLOW = (6, 12)
"""Numbers of blocks that are measured; with fewer, the head and not the blocks would make the peak."""


def extrapolated(settings: Settings, items: Sequence[int]) -> list[Measured]:
    """Steps over batches of different sizes; networks that are not deeper than `SHALLOW` are measured as they are."""
    low, high = SHALLOW
    if settings.kind not in ("language", "rl") or settings.depth <= high:
        return measure(settings, items)
    few, more = (measure(replace(settings, layers=layers), items) for layers in SHALLOW)
    far = (settings.depth - low) / (high - low)
    return [deeper(one, other, far) for one, other in zip(few, more, strict=True)]


def deeper(low: Measured, high: Measured, far: float) -> Measured:
    """The step at `low + far * (high - low)`: memory of each phase and kind, products, network and weights."""

    def on_line(a: int, b: int) -> int:
        return round(a + far * (b - a))

    peaks = {
        phase: {kind: on_line(kinds.get(kind, 0), high.peaks[phase].get(kind, 0)) for kind in
                {**kinds, **high.peaks[phase]}}
        for phase, kinds in low.peaks.items()
    }  # fmt: skip
    return replace(
        low,
        peaks=peaks,
        flops={phase: on_line(count, high.flops[phase]) for phase, count in low.flops.items()},
        recomputed=on_line(low.recomputed, high.recomputed),
        network=on_line(low.network, high.network),
        between=on_line(low.between, high.between),
        parts={name: on_line(count, high.parts[name]) for name, count in low.parts.items()},
        frozen=on_line(low.frozen, high.frozen),
    )
