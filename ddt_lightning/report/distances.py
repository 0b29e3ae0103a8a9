"""Distances side by side: what several models make of the same reference, as findings for the report.

In: a folder with one folder of `ddt eval distribution` for each model. Out: one table. A distance depends on its
network and on how many pictures there are, which its name says: one column is one measure.
"""

from pathlib import Path

from ddt_lightning.metrics.cards import Card, read_cards
from ddt_lightning.report.findings import Findings, Table

MADE = {"tokenizer/": "reconstructions", "t2i/": "drawings", "pictures/": "pictures"}
"""Sets of pictures compared with the reference, by the start of a card's key."""
MEASURES = ("rfid", "gfid", "FD-", "rkid", "gkid", "KD-", "precision", "recall")
"""Beginnings of the names of measures, in the order of the columns."""
HALVES = "halves/"
"""Beginning of the name of a distance between two halves of the reference."""
PLAIN = (
    "How far sets of pictures are from real ones. Distances (FID, FD; KID, KD) compare what a frozen network sees in "
    "both sets: less is better. Precision is the share of pictures that look like real ones, recall the share of real "
    "ones that look like pictures."
)


def distances(folder: Path) -> Findings | None:
    """The models of a folder side by side; None where none was measured."""
    rows: dict[tuple[str, str], dict[str, Card]] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        rows |= {(place.name, made): own for made, own in measured(read_cards(place)).items()}
    if not rows:
        return None
    names = sorted({name for own in rows.values() for name in own}, key=lambda name: (order(name), name))
    measures = [name for name in names if order(name) < len(MEASURES)]
    cells = [[model, made, *(cell(own.get(name)) for name in measures)] for (model, made), own in rows.items()]
    apart = {name: own[name]["value"] for own in rows.values() for name in own if name.startswith(HALVES)}
    halves = ", ".join(f"{name.removeprefix(HALVES)} {value:.2f}" for name, value in sorted(apart.items()))
    note = "With 95 % intervals where there are some." + (f" Two halves of the reference: {halves}." if halves else "")
    table = Table(["model", "what it made", *measures], cells, names=2)
    return Findings("distances", "Distances", PLAIN, note, [table])


def measured(cards: dict[str, Card]) -> dict[str, dict[str, Card]]:
    """{what was made: {measure: card}} of one model."""
    found = {}
    for start, made in MADE.items():
        own = {key.removeprefix(start): card for key, card in cards.items() if key.startswith(start)}
        if any(order(name) < len(MEASURES) for name in own):
            one_step = any(card["settings"].get("decoder") == "renderer" for card in own.values())
            found[f"{made}, in one step" if one_step else made] = own
    return found


def order(name: str) -> int:
    """The place of a measure's column; `len(MEASURES)` if the name is not a known measure's."""
    return next((place for place, start in enumerate(MEASURES) if name.startswith(start)), len(MEASURES))


def cell(card: Card | None) -> str:
    """Value and interval of a measure; empty where it was not taken."""
    if card is None:
        return ""
    between = " ({:.3g} to {:.3g})".format(*card["interval"]) if card["interval"] else ""
    return f"{card['value']:.3g}{between}"
