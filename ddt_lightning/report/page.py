"""The page as jinja2 templates: one HTML document that needs no other file, with every text escaped.

In: facts as plain values, and the name of a file in `templates/`. Out: HTML. Pictures become data URIs, charts are
inline SVG, so that the page can be sent around and opened without a network.
"""

import base64
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ddt_lightning.report import templates
from ddt_lightning.report.style import COLOURS, lighter


def render(template: str, **facts: Any) -> Markup:
    """HTML of a file in `templates/`.

    Args:
        template: name of the section without ".html".
        facts: variables of the template.
    """
    return Markup(environment().get_template(f"{template}.html").render(facts))


@cache
def environment() -> Environment:
    """The templates with their filters: texts are escaped, and a variable that is not given is an error."""
    found = Environment(
        loader=PackageLoader(templates.__name__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"data_uri": data_uri, "duration": duration, "marked": marked, "width": width}
    found.globals |= {"light": COLOURS, "dark": [lighter(colour) for colour in COLOURS]}
    return found


def data_uri(path: Path) -> str | None:
    """A PNG or GIF file as a data URI; None where the file does not exist."""
    if not path.is_file():
        return None
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def marked(text: str) -> Markup:
    """An escaped text whose words between backticks are set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def duration(seconds: float) -> str:
    """Seconds for people, such as "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def width(share: float) -> str:
    """A number, cut to [0, 1], as a CSS length."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
