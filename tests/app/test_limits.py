"""Limits of the page: what is read, and the words for what is not."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ddt-lightning[app]'")

from ddt_lightning.app.limits import TEXT_LENGTH, UPLOAD_PIXELS, checked, in_words, read_upload  # noqa: E402


def blank_png(path: Path, width: int, height: int) -> Path:
    """A white PNG of one bit a pixel, written row by row, so that a huge one takes neither time nor memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    line = b"\0" + b"\xff" * ((width + 7) // 8)
    pixels = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\0\0\0\0"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def test_texts_are_trimmed_and_measured():
    assert checked("  two   rings\n", "The prompt") == "two rings"
    with pytest.raises(ValueError, match="The prompt is empty"):
        checked(" \n", "The prompt")
    with pytest.raises(ValueError, match=rf"The prompt has {TEXT_LENGTH + 1} characters: at most {TEXT_LENGTH}"):
        checked("a" * (TEXT_LENGTH + 1), "The prompt")


def test_pictures_become_squares_of_the_model(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 14:66] = (10, 200, 30)  # the centred square and a little more
    Image.fromarray(wide).save(tmp_path / "wide.png")
    read = read_upload(str(tmp_path / "wide.png"), 16)
    assert read.shape == (16, 16, 3) and read.dtype == np.uint8 and np.all(read == (10, 200, 30))


def test_bad_pictures_are_named_without_their_folder(tmp_path):
    (tmp_path / "notes.png").write_text("this is a text")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    side = int(UPLOAD_PIXELS**0.5) + 8
    blank_png(tmp_path / "huge.png", side, side)
    for name, words in (
        ("notes.png", "notes.png is not a readable image"),
        ("dot.png", "dot.png has 1 x 1 pixels: give 8 or more"),
        ("huge.png", rf"huge.png has {side} x {side} pixels: at most 32 million"),
    ):
        with pytest.raises(ValueError, match=words) as refused:
            read_upload(str(tmp_path / name), 16)
        assert str(tmp_path) not in str(refused.value)


def test_errors_are_shown_as_their_message():
    @in_words
    def fails() -> None:
        raise ValueError("the prompt\nis empty")

    @in_words
    def fails_later():
        yield 1
        raise ValueError("too long")

    with pytest.raises(gr.Error, match=r"^'The prompt is empty'$"):
        fails()
    stream = fails_later()
    assert next(stream) == 1
    with pytest.raises(gr.Error, match="Too long"):
        next(stream)
