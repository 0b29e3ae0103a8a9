"""A picture in a terminal: kitty's graphics, iTerm2's inline images, sixel, or half blocks in 24-bit colour.

The environment tells which one, or else the terminal is asked. Encoders turn a uint8 `[H, W, 3]` array into the text
that a terminal shows as a picture.
"""

import base64
import io
import os
import select
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, TextIO

import numpy as np
from PIL import Image

from ddt_lightning.images import to_png

Kind = Literal["kitty", "iterm", "sixel", "blocks"]
MOST = 4  # pictures in a row
CELLS = 24  # columns of a picture where the terminal scales it, lines are half as many
PIXELS = 240  # least side of a picture that a terminal shows pixel by pixel
CHUNK = 4096  # most characters of a command of kitty's
ANSWER_S = 0.5  # how long a terminal may take to say what it can
ATTRIBUTES = "\x1b[c"  # DEC's question for device attributes; 4 among the answers means sixel


def show(pictures: Sequence[np.ndarray], stream: TextIO | None = None) -> None:
    """Write the first few pictures side by side to a terminal; nothing to a file, a pipe or a terminal without UTF-8.

    Args:
        pictures: uint8 `[H, W, 3]` of one size.
        stream: where to; standard output if not given.
    """
    stream = stream or sys.stdout
    if not pictures or not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return
    if "utf" not in (stream.encoding or "").lower():
        return
    columns, lines = shutil.get_terminal_size()
    shown = pictures[:MOST]
    kind = kind_by_name(os.environ) or ("sixel" if ask_for_sixel(stream) else "blocks")
    stream.write(encode(in_a_row(shown), kind, columns, lines, len(shown)) + "\n")
    stream.flush()


def encode(picture: np.ndarray, kind: Kind, columns: int, lines: int, count: int = 1) -> str:
    """A picture as a terminal of `columns` x `lines` cells takes it; `count` are side by side in it."""
    if kind == "kitty":
        return kitty(to_png(picture), min(count * CELLS, columns))
    if kind == "iterm":
        return iterm(to_png(picture), min(count * CELLS, columns))
    if kind == "sixel":
        return sixel(enlarged(picture))
    return blocks(fitted(picture, columns - 1, 2 * max(lines - 2, 1)))


def kind_by_name(environment: Mapping[str, str]) -> Kind | None:
    """What the terminal takes, where the environment names it; None where it must be asked."""
    if "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux")):
        return None  # the variables are of the terminal outside, which sees only what tmux knows
    program = environment.get("TERM_PROGRAM", "")
    term = environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return None


def ask_for_sixel(stream: TextIO) -> bool:
    """Whether the terminal answers a question for its attributes and names sixel among them."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        before = termios.tcgetattr(terminal)
    except termios.error:
        os.close(terminal)
        return False
    answer = b""
    try:
        tty.setcbreak(terminal)
        stream.flush()
        os.write(terminal, ATTRIBUTES.encode())
        while not answer.endswith(b"c") and select.select([terminal], [], [], ANSWER_S)[0]:
            answer += os.read(terminal, 1)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(terminal)
    return names_sixel(answer)


def names_sixel(answer: bytes) -> bool:
    """Whether an answer to the question for attributes, `ESC [ ? 62 ; 4 c`, has 4 behind the first number."""
    _, _, numbers = answer.partition(b"\x1b[?")
    return numbers.endswith(b"c") and b"4" in numbers[:-1].split(b";")[1:]


def in_a_row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size as one, with white between them."""
    gap = np.full((len(pictures[0]), max(2, pictures[0].shape[1] // 16), 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture made smaller, where it must be, to fit into `width` x `height`; the sides keep their ratio."""
    scale = min(1.0, width / picture.shape[1], height / picture.shape[0])
    if scale == 1:
        return picture
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with every pixel repeated, so that its height is `PIXELS` or a little more."""
    times = -(-PIXELS // len(picture))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def kitty(png: bytes, columns: int) -> str:
    """A PNG file in kitty's graphics protocol, `columns` cells wide: base64 in chunks, m=1 in all but the last."""
    text = base64.standard_b64encode(png).decode()
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    keys = [f"a=T,f=100,c={columns},q=2,", *[""] * (len(chunks) - 1)]
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\x1b_G{key}m={m};{chunk}\x1b\\" for key, m, chunk in zip(keys, more, chunks, strict=True))


def iterm(png: bytes, columns: int) -> str:
    """A PNG file as an inline image of iTerm2, `columns` cells wide."""
    text = base64.standard_b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};width={columns};preserveAspectRatio=1:{text}\a"


def sixel(picture: np.ndarray) -> str:
    """A picture in at most 256 colours as DEC sixels: bands of six rows, colour by colour, with repeats counted."""
    indexed = Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE)
    palette = np.array(indexed.getpalette(), dtype=np.float64).reshape(-1, 3)
    codes = np.asarray(indexed)
    height, width = codes.shape
    out = io.StringIO()
    out.write(f'\x1bP0;1q"1;1;{width};{height}')
    for number in np.unique(codes):
        red, green, blue = np.rint(palette[number] * (100 / 255)).astype(int)
        out.write(f"#{number};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = codes[top : top + 6]
        bits = 1 << np.arange(len(band))
        for number in np.unique(band):
            column = (band == number).T @ bits  # [W], bit n for row n of the band
            runs = (repeated(chr(63 + bits), len(list(same))) for bits, same in groupby(column.tolist()))
            out.write(f"#{number}{''.join(runs)}$")
        out.write("-")
    return out.getvalue() + "\x1b\\"


def repeated(character: str, count: int) -> str:
    """A sixel several times: as often as it is, or with its number where that is shorter."""
    return f"!{count}{character}" if count > 3 else character * count


def blocks(picture: np.ndarray) -> str:
    """A picture as lines of upper half blocks: a cell's foreground is the upper pixel, its background the lower one."""
    if len(picture) % 2:
        picture = np.concatenate([picture, np.full((1, picture.shape[1], 3), 255, dtype=np.uint8)])
    lines = []
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        cells, before = [], None
        for top, bottom in zip(upper, lower, strict=True):
            if (top, bottom) != before:
                cells.append("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*top, *bottom))
                before = (top, bottom)
            cells.append("\u2580")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
