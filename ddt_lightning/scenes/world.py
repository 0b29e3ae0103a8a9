"""Settings of a world of scenes: the things in it, and the share that training shows (`combinations.py` names them)."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["mirror", "novel"]  # of the places that are held out
Asked = Literal["mirror", "novel", "groups"]  # what prompts ask for
SIZES = (6, 12, 18)


@dataclass(frozen=True)
class World:
    """A world of scenes.

    Args:
        kinds: how many kinds of shapes there are: 6, 12 or 18.
        held_out: places that training never shows: one place of a pair of kinds whose mirror image is shown (mirror),
            or both along one axis (novel), or both sorts.
        pairs_shown: share of the pairs of kinds that training shows, 0.5 to 0.95. Below 0.8 of 6 kinds one kind is
            never seen in one of the four places.
    """

    kinds: Literal[6, 12, 18] = 6
    held_out: Literal["mirror", "novel", "both"] = "mirror"
    pairs_shown: float = 0.8

    def __post_init__(self) -> None:
        if self.kinds not in SIZES:
            raise ValueError(f"`kinds` ({self.kinds}) must be one of {', '.join(map(str, SIZES))}.")
        if self.held_out not in ("mirror", "novel", "both"):
            raise ValueError(f"`held_out` ({self.held_out}) must be mirror, novel or both.")
        if not 0.5 <= self.pairs_shown <= 0.95:
            raise ValueError(f"`pairs_shown` ({self.pairs_shown}) must be between 0.5 and 0.95.")

    def holds(self, split: Split) -> bool:
        """Whether training shows none of the places of this split."""
        return self.held_out in (split, "both")
