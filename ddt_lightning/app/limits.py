"""Limits of the page, and its errors in words: what strangers send is checked before a model sees it.

In: texts as they are typed, and paths of uploaded files. Out: the same, checked, or a `gradio.Error` that says what to
change. The limits keep a page that many people use at once from filling the memory or waiting for one of them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ddt_lightning.images import FORMATS, decode, square

UPLOAD_BYTES = 8 * 2**20
UPLOAD_PIXELS = 32_000_000
SMALLEST_SIDE = 8  # pixels of a picture that shows anything
TEXT_LENGTH = 300  # characters of a prompt, an instruction or a question
PLAN_LENGTH = 600  # characters of a plan
QUEUE = 64  # requests that wait for the model
EDITS = 12  # instructions in one conversation


def checked(text: str | None, what: str, most: int = TEXT_LENGTH) -> str:
    """A text without spaces around it.

    Args:
        text: as it was typed.
        what: name of the field, for the error.
        most: largest number of characters.

    Raises:
        ValueError: it is empty or too long.
    """
    text = " ".join((text or "").split())
    if not text:
        raise ValueError(f"{what} is empty: write something first, or choose an example.")
    if len(text) > most:
        raise ValueError(f"{what} has {len(text)} characters: at most {most} are read. Shorten it.")
    return text


def read_upload(path: str, side: int) -> np.ndarray:
    """An uploaded picture as uint8 `[side, side, 3]`, its centred square; its size is looked at before its pixels.

    Raises:
        ValueError: naming the file, where it is no picture, too small or too large.
    """
    name = Path(path).name
    try:
        with Image.open(path, formats=FORMATS) as file:
            width, height = file.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        width, height = 0, 0  # `decode` finds the words for it
    if width * height > UPLOAD_PIXELS:
        most = f"{UPLOAD_PIXELS // 1_000_000} million"
        raise ValueError(f"The file {name} has {width} x {height} pixels: at most {most} are read. Scale it down.")
    try:
        picture = decode(Path(path))
    except ValueError as error:
        raise ValueError(f"The file {name} {error}.") from None
    if min(picture.size) < SMALLEST_SIDE:
        raise ValueError(
            f"The file {name} has {picture.width} x {picture.height} pixels: give {SMALLEST_SIDE} or more on each side."
        )
    return np.asarray(square(picture, side), dtype=np.uint8)


def in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or generator function, whose ValueError is shown on the page as its message."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **options: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **options)
            except (ValueError, FileNotFoundError) as error:
                raise shown(error) from error

        return stream

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the page sends
        try:
            return function(*args, **options)
        except (ValueError, FileNotFoundError) as error:
            raise shown(error) from error

    return call


def shown(error: Exception) -> gr.Error:
    """An error as the page shows it; its traceback is no news to the terminal."""
    message = " ".join(str(error).split())
    return gr.Error(message[:1].upper() + message[1:], print_exception=False, title="This cannot be done")
