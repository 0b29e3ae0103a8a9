"""When a call is killed: a moment that an uninterrupted run had, drawn so that every phase comes as often as another.

Most of a run's seconds are its start and its steps: a moment drawn from the seconds alone would hardly meet a save.
"""

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Moment:
    """A moment of a call, and which of its processes are killed then.

    Args:
        phase: what the first process is doing.
        number: how often it began that before, in this call.
        wait: seconds after it began.
        deed: None, or "before" or "after" the change of a file that the phase is noted for: the process then kills
            itself at exactly this point.
        ranks: the processes that are killed.
    """

    phase: str
    number: int
    wait: float
    deed: str | None = None
    ranks: tuple[int, ...] = (0,)


def draw_moment(lines: list[dict[str, Any]], processes: int, draw: random.Random) -> Moment:
    """A moment of the run that wrote these lines: a phase, one of its beginnings, and a time until the next line."""
    phase = draw.choice(sorted({line["at"] for line in lines}))
    places = [place for place, line in enumerate(lines) if line["at"] == phase]
    number = draw.randrange(len(places))
    line, after = lines[places[number]], lines[places[number] + 1 :]
    if "deed" in line and draw.random() < 0.5:
        return Moment(phase, number, 0.0, draw.choice(["before", "after"]))
    gap = after[0]["time"] - line["time"] if after else 0.0
    ranks = draw.choice([(0,), (1,), (0, 1)]) if processes == 2 else (0,)
    return Moment(phase, number, draw.uniform(0.0, gap), ranks=ranks)


def reached(lines: list[dict[str, Any]], moment: Moment) -> bool:
    """True once a call that has written these lines has begun what the moment is in."""
    return sum(line["at"] == moment.phase for line in lines) > moment.number
