"""Frozen networks that see images, with weights from files the user names; nothing is downloaded.

LPIPS: a torchvision AlexNet or VGG-16 under the linear layers of Zhang et al. 2018 (arXiv 1801.03924), which come with
torchmetrics; only the backbone's file is needed. The published numbers are those of AlexNet.
Inception: the network of FID and KID, as torch-fidelity has it, from its file of weights.
"""

import io
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SMALLEST_SIDE = 32
"""Sides below this leave AlexNet no pixel after its pools."""


def read_tensors(path: str | Path, option: str, wanted: str) -> dict[str, Tensor]:
    """The tensors of a .pth or safetensors file; nothing else in it is ever unpickled.

    Args:
        path: the file.
        option: the option that names it, for errors.
        wanted: what the option should name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{option}` ({path}) does not exist: name {wanted}.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"`{option}` ({path}) is not a file of tensors: {reason}") from error
    return dict(state)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in float32 proper, neither in autocast's type nor in TF32: features must not depend on the run."""
    with (
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
    ):
        yield


def read_features(path: str | Path) -> dict[str, Tensor]:
    """The `features.*` tensors of a torchvision classifier, from its .pth or a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors, or no `features.*`.
    """
    state = read_tensors(path, "lpips", "torchvision's alexnet or vgg16 weights")
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


class Inception(nn.Module):
    """Inception v3 of 2015 as torch-fidelity converted it, with TensorFlow 1's resizing (no antialias) to 299 pixels.

    Args:
        path: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors, or the weights are of another network.
    """

    num_features = 2048

    def __init__(self, path: str | Path) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # slow to import

        super().__init__()
        # torch-fidelity unpickles whatever its file holds: it gets the tensors that were read safely.
        plain = io.BytesIO()
        torch.save(read_tensors(path, "inception", "torch-fidelity's Inception weights"), plain)
        plain.seek(0)
        try:
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], plain)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"`inception` ({path}) is not torch-fidelity's Inception: {reason}") from error
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features float32 `[B, 2048]` of images uint8 `[B, 3, H, W]`."""
        with full_precision(images.device):
            return self.net(images)[0]
