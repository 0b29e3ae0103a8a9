"""Pictures: found, decoded in one way everywhere, cut to a square, written as PNG; and arrays to tensors and back.

A picture is read as a viewer shows it: turned upright by its EXIF orientation, transparent parts on a white page, deep
and palette and CMYK colours as 8-bit RGB, of an animation the first frame. What a file's name ends in does not matter.
"""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # never EPS and the like, which start other programs
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for damaged files (a broken PNG is a SyntaxError).
BROKEN = (
    OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, AttributeError, EOFError, ArithmeticError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip

# Pillow refuses twice as many pixels as it warns of before it decodes them; the error is the limit here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")  # damaged EXIF data


def decode(source: bytes | Path) -> Image.Image:
    """A picture as upright 8-bit RGB.

    Args:
        source: the bytes of a file, or its path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, damaged, or of so many pixels that a few bytes would fill the memory.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            picture.load()  # before EXIF data are read: damaged pixels are an error, damaged EXIF data are none
            return rgb(turned(picture))
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"is too large, scale it down: {str(error).partition(',')[0]}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"is not a readable image: no {', '.join(FORMATS)} file") from None
    except BROKEN as error:
        raise ValueError(f"is not a readable image: {type(error).__name__}: {error}") from None


def turned(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says; damaged EXIF data say nothing."""
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except BROKEN:
        orientation = None
    return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


def rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, transparent parts on white.

    Raises:
        ValueError: its pixels are floating-point numbers, which have no known range.
    """
    if picture.mode == "F":
        raise ValueError("pixels are floating-point numbers: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        hidden = deep == picture.info["transparency"] if isinstance(picture.info.get("transparency"), int) else None
        grey = (np.clip(deep, 0, 65535) >> 8).astype(np.uint8)
        return Image.fromarray(grey if hidden is None else np.where(hidden, np.uint8(255), grey)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    page = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(page, picture.convert("RGBA")).convert("RGB")


def square(
    picture: Image.Image, side: int, offset: tuple[float, float] = (0.5, 0.5), margin: float = 1.0
) -> Image.Image:
    """A square cut out of a picture: the shorter side becomes `side * margin`, of that `side` pixels are kept.

    Args:
        picture: any size.
        side: wanted side.
        offset: where it is cut out, 0 to 1 from left and top; the default is the centre.
        margin: 1 keeps the whole shorter side.
    """
    width, height = picture.size
    if (width, height) == (side, side) and margin == 1:
        return picture
    length = min(width, height) / margin
    left, top = (width - length) * offset[0], (height - length) * offset[1]
    box = (left, top, left + length, top + length)
    return picture.resize((side, side), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def stack(images: list[np.ndarray]) -> "Tensor":
    """uint8 `[H, W, 3]` arrays to a uint8 `[B, 3, H, W]` tensor."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def unstack(images: "Tensor") -> list[np.ndarray]:
    """uint8 `[B, 3, H, W]` to a list of uint8 `[H, W, 3]`."""
    return [image.permute(1, 2, 0).contiguous().numpy() for image in images]


def is_image(path: Path) -> bool:
    """Whether a file's name is an image's; hidden files are none, such as the `._1.png` that macOS adds to `1.png`."""
    return path.suffix.lower() in IMAGES and not path.name.startswith(".")


def image_files(image: str) -> list[Path]:
    """An image file, or the image files of a folder in the order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder holds no image.
    """
    path = Path(os.path.expanduser(image))
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"No image file or folder {image}.")
    files = sorted(file for file in path.iterdir() if is_image(file))
    if not files:
        raise ValueError(f"{image} holds no image ({', '.join(IMAGES)}).")
    return files


def read_image(file: Path) -> Image.Image:
    """An image file as upright RGB.

    Raises:
        ValueError: naming a file that is not an image, or too large.
    """
    try:
        return decode(file)
    except ValueError as error:
        raise ValueError(f"{file} {error}.") from None


def read_images(files: list[Path], side: int) -> "Tensor":
    """Image files as uint8 `[B, 3, side, side]`: the largest centred square, resized where it is not `side` wide.

    Raises:
        ValueError: naming a file that is not an image, or too large.
    """
    return stack([np.asarray(square(read_image(file), side), dtype=np.uint8) for file in files])


def to_png(image: np.ndarray) -> bytes:
    """A uint8 `[H, W, 3]` array as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 `[H, W, 3]` array, and its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_png(image))
