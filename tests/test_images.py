"""Pictures as people store them are decoded as a viewer shows them, or refused by name before they are decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.images import decode, image_files, read_image, read_images, to_png, unstack
from tests.foreign import encoded, huge, logo, picture, sideways

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
PAGE = np.full((16, 16, 3), 255, np.uint8)
PAGE[4:12, 4:12] = [200, 30, 30]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_stored_sideways_is_turned_upright(orientation, tmp_path):
    upright = np.asarray(picture(0, 24, 16)).astype(int)
    found = np.asarray(decode(sideways(orientation))).astype(int)
    assert found.shape == upright.shape and abs(found - upright).mean() < 3
    (tmp_path / "photo.jpg").write_bytes(sideways(orientation))
    (cut,) = unstack(read_images([tmp_path / "photo.jpg"], 16))
    assert abs(cut.astype(int) - upright[:, 4:20]).mean() < 3


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_undone(orientation):
    """The tag names the corner of the scene that the first stored row and column show (EXIF 2.3, 4.6.4)."""
    first = {2: "top right", 3: "bottom right", 4: "bottom left", 5: "left top", 6: "right top", 7: "right bottom",
             8: "left bottom"}[orientation]  # fmt: skip
    row, column = first.split()
    scene = np.arange(12, dtype=np.uint8).reshape(3, 4)
    stored = scene if row in ("top", "bottom") else scene.T
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("right", "bottom") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data))[..., 0], scene)


def test_damaged_exif_data_say_nothing():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20)
    assert np.array_equal(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


def transparent_palette() -> bytes:
    flat = logo().convert("RGB").quantize(4)
    return encoded(flat, transparency=flat.getpixel((0, 0)))


def grey_alpha() -> bytes:
    pixels = np.zeros((16, 16, 2), np.uint8)
    pixels[4:12, 4:12] = [60, 255]
    return encoded(Image.fromarray(pixels, "LA"))


GREY_PAGE = np.where((PAGE == 255).all(-1)[..., None], 255, 60).repeat(3, -1)[..., :3]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(logo()), PAGE),
        (encoded(logo(), "WEBP", lossless=True), PAGE),
        (transparent_palette(), PAGE),
        (grey_alpha(), GREY_PAGE),
        (encoded(Image.fromarray(PAGE), transparency=(200, 30, 30)), np.full_like(PAGE, 255)),
        (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 51))), np.full((4, 4, 3), (255, 204, 204))),
        (encoded(Image.new("LA", (4, 4), (0, 51))), np.full((4, 4, 3), 204)),
    ],
    ids=["rgba", "webp", "palette", "grey", "colour key", "faint red", "faint grey"],
)
def test_transparent_parts_lie_on_a_white_page(data, expected):
    assert np.array_equal(decode(data), expected)


def deep(ramp: np.ndarray) -> Image.Image:
    return Image.fromarray(ramp.astype(np.uint16) * 257)


def deep_colour(rows: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write: uint8 `[H, W, 3]`, each value repeated in both bytes."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.repeat(2).tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_deep_pictures_keep_their_brightness():
    grey = RAMP[..., None].repeat(3, -1)
    assert np.array_equal(decode(encoded(deep(RAMP))), grey)
    assert np.array_equal(decode(encoded(deep(RAMP), "TIFF")), grey)
    assert np.array_equal(decode(deep_colour(np.asarray(picture()))), picture())
    hidden = np.asarray(decode(encoded(deep(RAMP), transparency=0)))
    assert (hidden[:, 0] == 255).all() and np.array_equal(hidden[:, 1:], grey[:, 1:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_grey_and_one_bit_pictures(kind):
    assert np.array_equal(decode(encoded(Image.fromarray(RAMP), kind)), RAMP[..., None].repeat(3, -1))
    bits = RAMP > 127
    if kind != "GIF":
        assert np.array_equal(
            decode(encoded(Image.fromarray(bits), kind)), np.where(bits, 255, 0)[..., None].repeat(3, -1)
        )


def test_cmyk_photos_keep_their_colours():
    data = encoded(picture().convert("CMYK"), "JPEG", quality=100)
    assert abs(np.asarray(decode(data)).astype(int) - np.asarray(picture())).max() <= 3


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=90,
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0]


def test_a_few_bytes_of_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    (tmp_path / "9.png").write_bytes(huge())
    with pytest.raises(ValueError, match=r"9\.png is too large, scale it down: .*400000000 pixels.* limit"):
        read_image(tmp_path / "9.png")
    assert decode(encoded(Image.new("1", (9_500, 9_500)))).size == (9_500, 9_500)  # above Pillow's warning


def test_what_is_no_picture_is_named(tmp_path):
    for name, data in {"page.jpg": b"<!DOCTYPE html>", "cut.png": encoded(picture())[:60], "none.webp": b"",
                       "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
                       "float.png": encoded(Image.new("F", (4, 4)), "TIFF")}.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is not a readable image"):
            read_images([tmp_path / name], 8)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "gone.png")


def test_files_of_a_folder(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "._b.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in image_files(str(tmp_path))] == ["a.JPG", "b.png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_files("~/b.png") == [tmp_path / "b.png"]


def test_png_files_hold_their_pixels():
    assert np.array_equal(decode(to_png(np.asarray(picture(3)))), picture(3))
