"""HTML parts of a page that needs no other file: style, figures of inlined images, score bars, tables.

Every function returns a string of HTML and escapes the texts it is given.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { --paper:#fbfbfa; --card:#ffffff; --ink:#1d1d1f; --soft:#6a6a70; --line:#e4e4e2; --accent:#2f6f9f;
  --second:#b5651d;
  --good:#2d7d46; --bad:#b23b3b; --track:#ececea; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper:#161618; --card:#1e1e21; --ink:#ececee; --soft:#9b9ba3;
  --line:#303036;
  --accent:#6fb1e0; --second:#e0a066; --good:#6cc287; --bad:#e58080; --track:#2a2a2f; } }
* { box-sizing: border-box; }
html { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body { margin: 0; background: var(--paper); color: var(--ink); font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; letter-spacing: -.02em; margin: 0 0 .3rem; line-height: 1.2; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 3.2rem 0 .4rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: .4rem 0 1rem; } .soft { color: var(--soft); } small, .small { font-size: .82rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.2rem 0 0; font-size: .88rem; }
code, pre { font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1rem;
  overflow-x: auto; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(155px, 1fr)); gap: .8rem; margin: 1.6rem 0;
  }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .95rem; }
.tile b { display: block; font-size: 1.55rem; font-weight: 600; letter-spacing: -.02em; line-height: 1.25; }
.tile span { color: var(--soft); font-size: .8rem; display: block; line-height: 1.35; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; margin: .6rem 0 1.2rem; }
th { text-align: left; font-weight: 500; color: var(--soft); } th, td { padding: .32rem .7rem .32rem 0;
  border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; } td.wide { width: 38%; }
.bar { position: relative; height: 12px; background: var(--track); border-radius: 3px; min-width: 140px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--accent); border-radius: 3px; }
.bar u { position: absolute; top: 5px; height: 2px; background: var(--ink); opacity: .75; }
.bar s { position: absolute; top: -3px; bottom: -3px; width: 2px; margin-left: -1px; background: var(--good); }
.bar s.floor { background: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1.1rem 1.2rem; }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); }
.grid.widest { grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); }
@media (max-width: 600px) { .grid.wide, .grid.widest { grid-template-columns: 1fr; } }
table.narrow { width: auto; min-width: 24rem; } tr.head td { color: var(--soft); padding-top: 1rem; }
tr.bound td, tr.bound code { color: var(--soft); } tr.bound .bar i { opacity: .35; }
h3 small { font-weight: 400; color: var(--soft); margin-left: .5rem; }
figure { margin: 0; } figure > img { max-width: 100%; display: block; border-radius: 8px; margin: 0 0 1.2rem; }
figcaption { font-size: .82rem; line-height: 1.4; margin-top: .35rem; }
.strip { display: flex; gap: 4px; } .strip div { flex: 1 1 0; min-width: 0; font-size: .7rem; color: var(--soft);
  text-align: center; }
.strip img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; background: var(--track);
  }
.strip img.right { box-shadow: 0 3px 0 var(--good); } .strip img.wrong { box-shadow: 0 3px 0 var(--bad); }
.side { display: flex; gap: .8rem; align-items: flex-start; } .side img { width: 104px; flex: none;
  border-radius: 4px; image-rendering: pixelated; }
.side div { min-width: 0; overflow-wrap: anywhere; } .grid + .grid { margin-top: 1.2rem; }
.right-text { color: var(--good); } .wrong-text { color: var(--bad); }
.missing { border: 1px dashed var(--line); border-radius: 8px; color: var(--soft); padding: .7rem 1rem;
  font-size: .88rem; }
.curve { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .5rem .6rem .3rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 10px;
  font-family: inherit; }
svg .axis { stroke: var(--line); } svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
footer { margin-top: 4rem; color: var(--soft); font-size: .82rem; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def section(anchor: str, title: str, body: str) -> str:
    """A part of the page with a heading that the navigation can point at."""
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>\n{body}</section>\n'


def missing(what: str, how: str) -> str:
    """A box that says what the run does not have, and how to get it."""
    return f'<div class="missing">Not in this run: {escape(what)}. {escape(how)}</div>\n'


def is_missing(html: str) -> bool:
    """Whether this is nothing but a box of `missing`."""
    return html.startswith('<div class="missing">') and html.count("<") == 2


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Boxes with a large number each: (number, name, remark)."""
    boxes = (
        f'<div class="tile"><b>{escape(number)}</b>{escape(name)}<span>{escape(remark)}</span></div>'
        for number, name, remark in items
    )
    return f'<div class="tiles">{"".join(boxes)}</div>\n'


def data_uri(path: Path) -> str:
    """A PNG or GIF file as a data URI."""
    return f"data:image/{path.suffix[1:]};base64," + base64.b64encode(path.read_bytes()).decode()


def picture(path: Path, alt: str, verdict: bool | None = None) -> str:
    """One image; `verdict` underlines it as right or wrong."""
    mark = "" if verdict is None else f' class="{"right" if verdict else "wrong"}"'
    return f'<img{mark} src="{data_uri(path)}" alt="{escape(alt)}" loading="lazy">'


def strip(images: Sequence[str], labels: Sequence[str] | None = None) -> str:
    """Images (HTML of `picture`) side by side, with a small label below each."""
    texts = [f"<span>{escape(label)}</span>" for label in labels] if labels else [""] * len(images)
    return '<div class="strip">' + "".join(f"<div>{i}{t}</div>" for i, t in zip(images, texts, strict=True)) + "</div>"


def figure(content: str, caption: str) -> str:
    """Some images with a caption (HTML) below."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def bar(value: float, interval: Sequence[float] | None, ceilings: Sequence[float], floors: Sequence[float]) -> str:
    """A score in [0, 1] as a bar with its interval, ceilings as green and floors as red marks."""

    def percent(x: float) -> str:
        return f"{100 * min(1.0, max(0.0, x)):.2f}%"

    parts = [f'<i style="width:{percent(value)}"></i>']
    if interval is not None:
        low, high = interval
        parts.append(f'<u style="left:{percent(low)};width:{percent(high - low)}"></u>')
    parts += [f'<s style="left:{percent(x)}" title="ceiling {x:.3f}"></s>' for x in ceilings]
    parts += [f'<s class="floor" style="left:{percent(x)}" title="floor {x:.3f}"></s>' for x in floors]
    return f'<div class="bar">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, narrow: bool = False) -> str:
    """A table of HTML cells; a cell that starts with "<td" brings its own tag, a row of one cell spans the table.

    Args:
        head: names of the columns; empty for none.
        rows: cells; the first of a row may start with "bound:" to be drawn fainter.
        narrow: only as wide as its content.
    """
    full = next((row for row in rows if len(row) == len(head)), [""] * len(head))
    right = [' class="n"' if cell.startswith('<td class="n"') else "" for cell in full]  # as the numbers below
    top = "".join(f"<th{at}>{escape(name)}</th>" for name, at in zip(head, right, strict=True))
    body = ""
    for row in rows:
        if len(row) == 1:
            body += f'<tr class="head"><td colspan="{len(head)}">{row[0]}</td></tr>'
            continue
        faint = ' class="bound"' if row[0].startswith("bound:") else ""
        cells = [cell.removeprefix("bound:") for cell in row]
        body += f"<tr{faint}>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in cells) + "</tr>"
    style = ' class="narrow"' if narrow else ""
    return f"<table{style}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>\n"
