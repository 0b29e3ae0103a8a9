"""Pictures in a terminal: what is written is decoded again, by other means than it was made."""

import base64
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt_lightning import terminal
from ddt_lightning.images import to_png
from ddt_lightning.terminal import (
    blocks,
    encode,
    fitted,
    in_a_row,
    iterm,
    kind_by_name,
    kitty,
    names_sixel,
    show,
    sixel,
)


@pytest.fixture
def picture() -> np.ndarray:
    """32 x 48 pixels of 18 colours in blocks, so that runs and several bands occur."""
    few = np.random.default_rng(0).integers(0, 256, (3, 6, 3), dtype=np.uint8)
    return few.repeat(11, axis=0)[:32].repeat(8, axis=1)


def from_png(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


def from_kitty(written: str) -> tuple[dict[str, str], np.ndarray]:
    """Keys of the first command, and the picture; commands as kitty's documentation describes them."""
    commands = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", written)
    assert "".join(f"\x1b_G{keys};{payload}\x1b\\" for keys, payload in commands) == written
    keys = [dict(pair.split("=") for pair in found.split(",")) for found, _ in commands]
    assert [found["m"] for found in keys] == ["1"] * (len(keys) - 1) + ["0"]
    assert all(set(found) == {"m"} for found in keys[1:])
    payloads = [payload for _, payload in commands]
    assert all(len(payload) <= 4096 and len(payload) % 4 == 0 for payload in payloads)
    return keys[0], from_png("".join(payloads))


def from_sixel(written: str) -> np.ndarray:
    """A decoder after DEC's description: colours in percent, bands of six rows, `!` repeats, `$` and `-` return."""
    assert written.startswith("\x1bP") and written.endswith("\x1b\\")
    body = written[2:-2].partition("q")[2]
    size = re.match(r'"1;1;(\d+);(\d+)', body)
    width, height = int(size[1]), int(size[2])
    image = np.full((height + 6, width, 3), -1.0)
    colours: dict[int, list[float]] = {}
    x = top = colour = 0
    times = 1
    rest = body[size.end() :]
    for mark, numbers, count, bare in re.findall(r"(#)([\d;]+)|!(\d+)|([?-~$-])", rest):
        if mark:
            colour, *definition = (int(number) for number in numbers.split(";"))
            if definition:
                assert definition[0] == 2 and all(0 <= part <= 100 for part in definition[1:])
                colours[colour] = [part * 2.55 for part in definition[1:]]
        elif count:
            times = int(count)
        elif bare == "$":
            x = 0
        elif bare == "-":
            x, top = 0, top + 6
        else:
            for row in range(6):
                if (ord(bare) - 63) >> row & 1:
                    image[top + row, x : x + times] = colours[colour]
            x, times = x + times, 1
            assert x <= width
    assert (image[height:] == -1).all() and (image[:height] >= 0).all()
    return image[:height]


def from_blocks(written: str) -> np.ndarray:
    """The pixels of lines of half blocks, by the colours that SGR 38;2 and 48;2 set."""
    rows = []
    for line in written.split("\n"):
        assert line.endswith("\x1b[0m")
        upper, lower = [], []
        for numbers, cells in re.findall(r"\x1b\[38;2;([\d;]+)m(\u2580+)", line.replace(";48;2;", ";")):
            colour = [int(number) for number in numbers.split(";")]
            upper += [colour[:3]] * len(cells)
            lower += [colour[3:]] * len(cells)
        rows += [upper, lower]
    return np.array(rows, dtype=np.uint8)


def test_kitty_in_one_command_and_in_several(picture):
    keys, read = from_kitty(kitty(to_png(picture), 24))
    assert keys == {"a": "T", "f": "100", "c": "24", "q": "2", "m": "0"} and np.array_equal(read, picture)
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    keys, read = from_kitty(kitty(to_png(noise), 10))
    assert keys["m"] == "1" and np.array_equal(read, noise)


def test_iterm_names_the_size_and_the_width(picture):
    png = to_png(picture)
    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):(.*)\x07", iterm(png, 24))
    options = dict(pair.split("=") for pair in found[1].split(";"))
    assert options == {"inline": "1", "size": str(len(png)), "width": "24", "preserveAspectRatio": "1"}
    assert np.array_equal(from_png(found[2]), picture)


def test_sixel_has_the_colours_to_half_a_percent(picture):
    assert np.abs(from_sixel(sixel(picture)) - picture).max() <= 1.3
    assert np.abs(from_sixel(sixel(picture[:7, :5])) - picture[:7, :5]).max() <= 1.3
    smooth = np.indices((60, 90)).sum(0)[..., None].repeat(3, -1).astype(np.uint8)
    assert np.abs(from_sixel(sixel(smooth)) - smooth).max() <= 3


@pytest.mark.skipif(shutil.which("sixel2png") is None, reason="needs sixel2png of libsixel-bin")
def test_sixel_is_read_by_libsixel(picture, tmp_path):
    (tmp_path / "p.six").write_text(sixel(picture))
    subprocess.run(["sixel2png", "-i", str(tmp_path / "p.six"), "-o", str(tmp_path / "p.png")], check=True)
    read = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    assert read.shape == picture.shape and np.abs(read - picture).max() <= 2


def test_half_blocks_have_every_pixel(picture):
    assert np.array_equal(from_blocks(blocks(picture)), picture)
    odd = from_blocks(blocks(picture[:7]))
    assert np.array_equal(odd[:7], picture[:7]) and (odd[7] == 255).all()


def test_pictures_in_a_row_fit_the_terminal(picture):
    row = in_a_row([picture, picture[::-1]])
    assert row.shape == (32, 99, 3) and np.array_equal(row[:, 51:], picture[::-1]) and (row[:, 48:51] == 255).all()
    assert fitted(row, 200, 100) is row
    assert fitted(row, 50, 100).shape == (16, 50, 3) and fitted(row, 200, 8).shape == (8, 24, 3)
    assert from_blocks(encode(row, "blocks", 51, 40)).shape == (16, 50, 3)
    assert from_kitty(encode(row, "kitty", 30, 40, 2))[0]["c"] == "30"
    assert from_sixel(encode(row, "sixel", 80, 40, 2)).shape[0] == 256


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2", "TERM": "xterm"}, "iterm"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "tmux-256color", "TMUX": "/tmp/tmux"}, None),
        ({"LC_TERMINAL": "iTerm2", "TERM": "screen"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_the_environment_names_the_terminal(environment, kind):
    assert kind_by_name(environment) == kind


@pytest.mark.parametrize(
    ("answer", "sixels"),
    [(b"\x1b[?62;4;6c", True), (b"\x1b[?65;1;4c", True), (b"\x1b[?4c", False), (b"\x1b[?62;14c", False), (b"", False),
     (b"\x1b[?62;4", False)],
)  # fmt: skip
def test_the_terminal_says_whether_it_takes_sixels(answer, sixels):
    assert names_sixel(answer) == sixels


def test_files_and_pipes_get_nothing(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    with (tmp_path / "out.txt").open("w+") as file:
        show([picture], file)
    assert (tmp_path / "out.txt").read_text() == ""
    show([picture])
    assert capsys.readouterr().out == ""


def in_terminal(code: str, answer: bytes, **environment: str) -> str:
    """What a program writes to a pseudo terminal, its controlling one, that answers a question for its attributes."""
    root = str(Path(terminal.__file__).parents[1])
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": root, "LANG": "C.UTF-8", **environment}
    pid, control = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", code], settings)
    termios.tcsetwinsize(control, (40, 80))
    written = b""
    while True:
        try:
            part = os.read(control, 65536)
        except OSError:  # Linux: the program has ended
            break
        if not part:
            break
        written += part
        if part.endswith(b"\x1b[c") and answer:
            os.write(control, answer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, written
    return written.decode().replace("\r\n", "\n")


DRAW = """
import numpy as np, time
from ddt_lightning.terminal import show
time.sleep(0.2)
show([np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo terminals")
def test_in_a_terminal():
    expected = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    asked, _, written = in_terminal(DRAW, b"\x1b[?62;22c", TERM="xterm-256color").partition("\x1b[c")
    assert asked == "" and np.array_equal(from_blocks(written.split("22c")[-1].strip("\n")), expected)
    written = in_terminal(DRAW, b"\x1b[?62;4c", TERM="xterm-256color")
    read = from_sixel(written[written.index("\x1bP") :].strip("\n"))
    assert read.shape == (240, 240, 3) and np.abs(read[::30, ::30] - expected).max() <= 1.3
    assert np.array_equal(from_kitty(in_terminal(DRAW, b"", TERM="xterm-kitty").strip("\n"))[1], expected)
    assert in_terminal(DRAW, b"", TERM="dumb") == ""
    silent = in_terminal(DRAW, b"", TERM="xterm-256color")  # never answers
    assert np.array_equal(from_blocks(silent.split("\x1b[c")[1].strip("\n")), expected)
