"""What evaluations by frozen networks share: loading them once, saying which are left out, hashing them for cards."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddt_lightning.metrics.cards import Card

if TYPE_CHECKING:
    from ddt_lightning.metrics.embeddings import Clip, Dino


def check_judges(folders: dict[str, str | None]) -> None:
    """Refuse what is named and not there, and say what is not named, before anything heavy runs.

    Args:
        folders: option -> folder; None where it was not given.

    Raises:
        FileNotFoundError: a named folder is not there.
    """
    from ddt_lightning.metrics.frozen import check_folder

    for option, folder in folders.items():
        if folder is not None:
            check_folder(folder, option)
    left = [option for option, folder in folders.items() if folder is None]
    if left:
        named = " ".join(f"--{option} FOLDER" for option in left)
        print(f"scores by {' and '.join(left)} are left out: `{named}` names local copies of the weights")


def load_clip(folder: str | None, device: str) -> "Clip | None":
    """CLIP, or None without a folder."""
    from ddt_lightning.inputs import pick_device
    from ddt_lightning.metrics.embeddings import Clip

    return None if folder is None else Clip(folder, pick_device(device))


def load_dino(folder: str | None, device: str) -> "Dino | None":
    """DINO, or None without a folder."""
    from ddt_lightning.inputs import pick_device
    from ddt_lightning.metrics.embeddings import Dino

    return None if folder is None else Dino(folder, pick_device(device))


def name_judges(cards: Iterable[Card], judges: dict[str, Any]) -> None:
    """Put the hash of each judge's weights on cards, as `judges`: {name: hash}; those that are None are left out."""
    from ddt_lightning.tokens.base import weights_hash

    hashes = {name: weights_hash(judge.model) for name, judge in judges.items() if judge is not None}
    for card in cards:
        card["judges"] = hashes
