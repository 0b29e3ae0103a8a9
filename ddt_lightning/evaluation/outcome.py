"""The outcome of an evaluation: scores as cards, pictures, and how many of the samples asked for were measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import staged
from ddt_lightning.metrics.cards import Card, write_cards

NAMED = 10
"""Unreadable samples that are named; `ddt data check` names all."""


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation verb.

    Args:
        name: of the card file, without `.json`.
        cards: the scores.
        shown: keys of the scores that are printed.
        settings: sizes and options that belong on every card.
        asked: samples that the call asked for.
        measured: samples that were measured.
        unit: the samples in one word, for the printed line.
        problems: samples and shards that could not be read, `SHARD:KEY` -> reason.
        pictures: writes contact sheets, samples and other files into a folder.
    """

    name: str
    cards: dict[str, Card]
    shown: Sequence[str]
    settings: dict[str, Any]
    asked: int
    measured: int
    unit: str = "images"
    problems: dict[str, str] = field(default_factory=dict)
    pictures: Callable[[Path], None] | None = None

    def write(self, out: str, shared: dict[str, Any]) -> None:
        """Write cards and pictures into `out`, whole or not at all, and print the main scores.

        Args:
            out: the folder.
            shared: `seed`, `weights` and `settings` of every card.

        Raises:
            ValueError: there is no score to show.
        """
        if not self.shown:
            raise ValueError(f"No score could be computed from {self.counts}{because(self.problems)}.")
        everything = {**shared, "settings": {**shared["settings"], **self.settings}, "asked": self.asked}
        if self.problems:
            everything["unreadable"] = named(self.problems)
        with staged(out) as folder:
            if self.pictures is not None:
                self.pictures(folder)
            write_cards(folder / f"{self.name}.json", self.cards, everything)
        if self.problems:
            print(f"{len(self.problems)} could not be read: {'; '.join(named(self.problems))}")
        scores = ", ".join(f"{key} {self.cards[key]['value']:.4g}" for key in self.shown)
        print(f"{scores} ({self.counts}); everything in {out}")

    @property
    def counts(self) -> str:
        """The numbers of samples measured and asked for, in words."""
        return f"{self.measured} of {self.asked} {self.unit}"


def named(problems: dict[str, str]) -> list[str]:
    """`SHARD:KEY (reason)` of the first problems, and how many more there are."""
    first = [f"{name} ({reason})" for name, reason in islice(problems.items(), NAMED)]
    more = len(problems) - len(first)
    return [*first, f"and {more} more, see `ddt data check`"] if more else first


def because(problems: dict[str, str]) -> str:
    """The end of an error about missing samples: those that could not be read; empty where all could be."""
    return f"; could not be read: {'; '.join(named(problems))}" if problems else ""
