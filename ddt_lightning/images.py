"""Image files: found, decoded to square uint8 arrays, written as PNG; and arrays to tensors and back."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def stack(images: list[np.ndarray]) -> "Tensor":
    """uint8 `[H, W, 3]` arrays to a uint8 `[B, 3, H, W]` tensor."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def unstack(images: "Tensor") -> list[np.ndarray]:
    """uint8 `[B, 3, H, W]` to a list of uint8 `[H, W, 3]`."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in images]


def image_files(image: str) -> list[Path]:
    """An image file, or the image files of a folder in the order of their names.

    Raises:
        FileNotFoundError: where there is no such file or folder.
        ValueError: where a folder holds no image.
    """
    path = Path(image)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"No image file or folder {image}.")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{image} holds no image ({', '.join(IMAGES)}).")
    return files


def read_images(files: list[Path], side: int) -> "Tensor":
    """Image files as uint8 `[B, 3, side, side]`: the largest centred square, resized where it is not `side` wide.

    Raises:
        ValueError: naming a file that is not an image.
    """
    arrays = []
    for file in files:
        try:
            picture = Image.open(file).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"{file} is not a readable image: {error}") from None
        arrays.append(square(picture, side))
    return stack(arrays)


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The largest centred square of a picture, `side` pixels wide, as shards are read: uint8 `[side, side, 3]`."""
    if picture.size != (side, side):
        short = min(picture.size)
        left, top = (picture.width - short) / 2, (picture.height - short) / 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(picture, dtype=np.uint8)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 `[H, W, 3]` array, and its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
