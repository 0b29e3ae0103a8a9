"""Scoring networks named by a local folder (CLIP, DINO, a detector): checked early, loaded, and hashed for cards."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.cards import Card, file_hashes

if TYPE_CHECKING:
    from ddt_lightning.metrics.embeddings import Clip, Dino
    from ddt_lightning.metrics.image_text import FrozenPair


def check_scorers(folders: dict[str, str | None]) -> None:
    """Fail if a given weights folder is missing; print which optional scorers are skipped.

    Args:
        folders: option -> folder; None where it was not given.

    Raises:
        FileNotFoundError: a named folder is not there.
    """
    from ddt_lightning.metrics.frozen import check_folder

    for option, folder in folders.items():
        if folder is not None:
            check_folder(folder, option)
    skipped = [option for option, folder in folders.items() if folder is None]
    if skipped:
        options = " ".join(f"--{option} FOLDER" for option in skipped)
        print(f"scores by {' and '.join(skipped)} are left out: `{options}` names local copies of the weights")


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


def load_pair(backbone: str, minilm: str, device: str) -> "FrozenPair":
    """EfficientNet-Lite0 and MiniLM, between which `ddt study fit` fits a map.

    Args:
        backbone: file of weights, or the name of a judge.
        minilm: folder, or the name of a judge.
        device: where they run.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: it is another network.
    """
    from ddt_lightning.inputs import pick_device
    from ddt_lightning.metrics.efficientnet import EfficientNetLite0
    from ddt_lightning.metrics.image_text import FrozenPair
    from ddt_lightning.metrics.sentences import Sentences
    from ddt_lightning.tokens.base import weights_hash

    place, file = pick_device(device), find_judge(backbone, "--backbone")
    eye, reader = EfficientNetLite0(file).to(place), Sentences(find_judge(minilm, "--minilm"), place)
    return FrozenPair(eye, reader, {**file_hashes({"backbone": file}), "minilm": weights_hash(reader.model)})


def record_scorers(cards: Iterable[Card], scorers: dict[str, Any]) -> None:
    """Put the hashes of scoring networks on cards, as `scorers`: {name: hash}; networks that are None are left out."""
    from ddt_lightning.tokens.base import weights_hash

    hashes = {name: weights_hash(scorer.model) for name, scorer in scorers.items() if scorer is not None}
    for card in cards:
        card["scorers"] = hashes
