"""A small classifier of the attributes of emoji: role, group, skin tone, gender and style of a picture.

`ddt study attributes` trains it. A file holds the names of the classes, so that a file of other styles judges those. A
judge of drawings should not have been trained on what it judges: no held-out picture is in its training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddt_lightning.metrics.features import full_precision
from ddt_lightning.metrics.picture_encoder import PictureEncoder, to_side

AT_ONCE = 100
"""Pictures that are read at once."""


class AttributeClassifier(nn.Module):
    """Convolutions over a picture of 64 px, and a head for each attribute.

    Args:
        classes: {attribute: names of its classes}.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.classes = {name: list(names) for name, names in classes.items()}
        self.trunk = PictureEncoder().trunk
        self.drop = nn.Dropout(0.3)
        self.heads = nn.ModuleDict({name: nn.Linear(128 * 16, len(names)) for name, names in self.classes.items()})

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{attribute: `[B, classes]`} of images in [-1, 1] `[B, 3, 64, 64]`."""
        seen = self.drop(self.trunk(images).flatten(1))
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, list[str]]:
        """{attribute: class of each image} of images uint8 `[B, 3, H, W]` of any side."""
        with full_precision(images.device):
            found = self.logits(to_side(images))
        return {name: [self.classes[name][at] for at in one.argmax(1).tolist()] for name, one in found.items()}

    def save(self, path: str | Path) -> None:
        """Write weights and names."""
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, path, metadata={"classes": json.dumps(self.classes)})

    @classmethod
    def load(cls, path: str | Path, option: str = "classifier") -> Self:
        """The frozen classifier of a file; `option` is where its path comes from, for errors.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not one of this network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"`{option}` ({path}) does not exist: name a file of `ddt study attributes`.")
        try:
            with safe_open(path, "pt") as file:
                found = cls(json.loads(file.metadata()["classes"]))
                found.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
        except (SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"`{option}` ({path}) was not written by `ddt study attributes`: {reason}") from error
        return found.requires_grad_(False).eval()


def read(judge: AttributeClassifier, images: Tensor) -> list[dict[str, str]]:
    """{attribute: class} of each image uint8 `[N, 3, H, W]`."""
    found = [judge(part) for part in images.split(AT_ONCE)]
    return [{name: one[name][n] for name in one} for one in found for n in range(len(next(iter(one.values()))))]


def marks(found: Mapping[str, str], asked: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    """{attribute: whether it is read as it should be}, of those that a picture has and the classifier knows.

    Args:
        found: classes that were read.
        asked: what the picture should show, as `Emoji.facts` has it.
        classes: those of the classifier.
    """
    return {name: found[name] == asked[name] for name, names in classes.items() if asked.get(name) in names}
