"""Contact sheets: labelled rows of images as one picture, for people to look at.

In: rows of a label and uint8 images `[H, W, 3]`. Out: a PIL image. Small images are enlarged without smoothing, so that
what is seen is what was measured.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (250, 250, 248), (28, 28, 30), (128, 128, 132)


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Args:
        label: text at its left, wrapped.
        images: uint8 `[H, W, 3]` each.
        note: a second, fainter text below the label.
    """

    label: str
    images: list[np.ndarray]
    note: str = ""


def sheet(rows: list[Row], *, titles: list[str] | None = None, cell: int = 112, label_width: int = 250) -> Image.Image:
    """Lay rows out below each other.

    Args:
        rows: at least one row.
        titles: texts above the columns, of a line or more.
        cell: side of one image on the sheet in pixels.
        label_width: width of the text column in pixels; 0 for no labels.

    Raises:
        ValueError: where there is no row.
    """
    if not rows:
        raise ValueError("A contact sheet needs at least one row.")
    gap, line = 6, 15
    font = ImageFont.load_default(size=12)
    columns = max(len(row.images) for row in rows)
    top = line * max(title.count("\n") + 1 for title in titles) + 2 * gap if titles else gap
    page = Image.new("RGB", (label_width + columns * (cell + gap) + gap, top + len(rows) * (cell + gap)), PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles or []):
        for position, text in enumerate(title.split("\n")):
            draw.text((label_width + gap + column * (cell + gap), gap + position * line), text, fill=FAINT, font=font)
    per_line = max(1, int(label_width / 6.4))
    for number, row in enumerate(rows):
        y = top + number * (cell + gap)
        lines = [(text, INK) for text in textwrap.wrap(row.label, per_line)]
        lines += [(text, FAINT) for text in textwrap.wrap(row.note, per_line)]
        for position, (text, colour) in enumerate(lines[: cell // line] if label_width else []):
            draw.text((gap, y + position * line), text, fill=colour, font=font)
        for column, image in enumerate(row.images):
            page.paste(enlarge(image, cell), (label_width + gap + column * (cell + gap), y))
    return page


def stacked(parts: list[Image.Image], gap: int = 10) -> Image.Image:
    """Sheets below each other as one picture, as wide as the widest."""
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    page, y = Image.new("RGB", (max(part.width for part in parts), height), PAPER), 0
    for part in parts:
        page.paste(part, (0, y))
        y += part.height + gap
    return page


def enlarge(image: np.ndarray, cell: int) -> Image.Image:
    """An image fitted into a square of `cell` pixels, without smoothing where it is smaller."""
    height, width = image.shape[:2]
    largest = max(height, width)
    factor = cell / largest
    sharp = Image.Resampling.NEAREST if largest < cell else Image.Resampling.LANCZOS
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return Image.fromarray(image).resize(size, sharp)
