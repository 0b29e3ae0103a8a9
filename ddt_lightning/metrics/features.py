"""Frozen networks that see images, with weights from files the user names; nothing is downloaded.

LPIPS: a torchvision AlexNet or VGG-16 under the linear layers of Zhang et al. 2018 (arXiv 1801.03924), which come with
torchmetrics; only the backbone's file is needed. The published numbers are those of AlexNet.
"""

import pickle
import re
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SMALLEST_SIDE = 32
"""Sides below this leave AlexNet no pixel after its pools."""


def read_features(path: str | Path) -> dict[str, Tensor]:
    """The `features.*` tensors of a torchvision classifier, from its .pth or a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors, or no `features.*`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`lpips` ({path}) does not exist: name torchvision's alexnet or vgg16 weights.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"`lpips` ({path}) is not a file of tensors: {' '.join(str(error).split())[:200]}") from error
    found = {name: value for name, value in state.items() if name.startswith("features.")}
    if not found:
        raise ValueError(f"`lpips` ({path}) holds no features.*: name torchvision's alexnet or vgg16 weights.")
    return found


class Lpips(nn.Module):
    """Perceptual distance of images.

    Args:
        path: torchvision's weights of AlexNet or VGG-16, told apart by their layers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights are of another network.
    """

    def __init__(self, path: str | Path) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS  # slow to import

        super().__init__()
        weights = read_features(path)
        backbone: Literal["alex", "vgg"] = "vgg" if "features.28.weight" in weights else "alex"
        self.net = _LPIPS(pretrained=True, net=backbone, pnet_rand=True).eval()
        ours = {name: re.sub(r"^slice\d+", "features", name) for name in self.net.net.state_dict()}
        if set(ours.values()) != weights.keys():
            odd = sorted(set(ours.values()) ^ weights.keys())
            raise ValueError(f"`lpips` ({path}) is neither AlexNet nor VGG-16 of torchvision: {odd[0]} differs.")
        try:
            self.net.net.load_state_dict({name: weights[source] for name, source in ours.items()})
        except RuntimeError as error:
            raise ValueError(f"`lpips` ({path}) does not fit: {' '.join(str(error).split())[:200]}") from error
        self.requires_grad_(False)

    def forward(self, image: Tensor, original: Tensor) -> Tensor:
        """Distance of each image in [-1, 1] from its original, both `[B, 3, H, W]`: `[B]`, 0 for equal ones.

        Raises:
            ValueError: the images are too small.
        """
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs images of at least {SMALLEST_SIDE} pixels, not {tuple(image.shape[-2:])}.")
        return self.net(image, original).flatten()
