"""Weights of networks that judge pictures and texts: the folder that `make judges` fills, and names for its files.

Everything that takes a file of weights takes one of these names in its place. The folder is `judges/` where one is, or
the one that the environment variable `DDT_JUDGES` names. Nothing is downloaded when a judge is used.
"""

import os
from pathlib import Path
from typing import overload

JUDGES = {
    "alexnet": "alexnet.safetensors",
    "vgg16": "vgg16.safetensors",
    "efficientnet_lite0": "efficientnet_lite0.safetensors",
    "yolox_nano": "yolox_nano.onnx",
    "minilm": "minilm",
}
"""{name: file or folder below the folder of judges}."""


def judges_folder() -> Path:
    """The folder of judges."""
    return Path(os.environ.get("DDT_JUDGES") or "judges")


@overload
def find_judge(named: str, option: str) -> str: ...
@overload
def find_judge(named: str | None, option: str) -> str | None: ...
def find_judge(named: str | None, option: str) -> str | None:
    """The path of a judge's weights; a path, or None, is returned as it is.

    Args:
        named: a name of `JUDGES`, or a path.
        option: what the user named it by, for errors.

    Raises:
        FileNotFoundError: the folder of judges does not have it.
    """
    if named not in JUDGES:
        return named
    path = judges_folder() / JUDGES[named]
    if not path.exists():
        raise FileNotFoundError(
            f"`{option}` ({named}): {path} does not exist: run `make judges`, or set `DDT_JUDGES` to a folder of them."
        )
    return str(path)
