"""Pictures as HTML: small images inside the page itself, so that nothing is written to disk and none is fetched twice.

In: uint8 `[H, W, 3]` arrays and texts. Out: HTML in which every text is escaped. Images of few pixels are shown with
their pixels, larger ones smoothly.
"""

import base64
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ddt_lightning.images import to_png

PIXELATED = 160  # side in pixels up to which an image is enlarged without smoothing
EMPTY = Markup('<div class="ddt-empty">{}</div>')


def empty(text: str) -> Markup:
    """A place without a picture yet, and how one gets there."""
    return EMPTY.format(text)


def image(picture: np.ndarray, alt: str) -> Markup:
    """An `<img>` that holds the picture."""
    look = "pixels" if max(picture.shape[:2]) <= PIXELATED else "smooth"
    uri = f"data:image/png;base64,{base64.b64encode(to_png(picture)).decode()}"
    return Markup('<img class="{}" src="{}" alt="{}">').format(look, uri, alt)


def figure(picture: np.ndarray, alt: str, caption: str = "", share: float | None = None) -> Markup:
    """A picture with a caption.

    Args:
        picture: uint8 `[H, W, 3]`.
        alt: what it shows, for those who do not see it.
        caption: text below.
        share: how much of it has arrived, in [0, 1], as a bar; None for no bar.
    """
    bar = (
        Markup("")
        if share is None
        else Markup('<i class="ddt-bar"><u style="width:{:.1f}%"></u></i>').format(100 * share)
    )
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    return Markup('<figure class="ddt-figure">{}{}{}</figure>').format(image(picture, alt), bar, below)


def row(figures: Sequence[Markup], kind: str = "strip") -> Markup:
    """Figures beside each other: a `strip` of small ones, or a `pair` of large ones."""
    return Markup('<div class="ddt-{}">{}</div>').format(kind, Markup("").join(figures))


def note(text: str) -> Markup:
    """A soft line of text."""
    return Markup('<p class="ddt-note">{}</p>').format(text)
