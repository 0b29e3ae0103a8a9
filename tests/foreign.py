"""Shards and pictures as other people make them: small ones, each with the trouble that its name says."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Member = tuple[str, bytes | tarfile.TarInfo]


def picture(number: int = 0, width: int = 16, height: int = 16) -> Image.Image:
    """Four quarters of different colours: whatever turns, mirrors or crops it can be seen."""
    pixels = np.empty((height, width, 3), np.uint8)
    for quarter, colour in enumerate(((200, 40, 30), (40, 180, 60), (50, 60, 190), (220, 200, 90))):
        rows = slice(height // 2) if quarter < 2 else slice(height // 2, None)
        columns = slice(width // 2) if quarter % 2 == 0 else slice(width // 2, None)
        pixels[rows, columns] = np.roll(colour, number)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tar_bytes(members: Sequence[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in members:
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            payload = b"" if isinstance(data, tarfile.TarInfo) else data
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return stream.getvalue()


def js(value: object) -> bytes:
    return json.dumps(value).encode()


def pairs(count: int = 4, prefix: str = "", name: str = "{:04d}", ending: str = "png") -> list[Member]:
    """Pictures with captions."""
    kind = "JPEG" if ending.lower() in ("jpg", "jpeg") else "PNG"
    return [
        member
        for n in range(count)
        for member in (
            (f"{prefix}{name.format(n)}.{ending}", encoded(picture(n), kind)),
            (f"{prefix}{name.format(n)}.txt", f"picture {n}".encode()),
        )
    ]


def with_json(value: object, count: int = 4) -> list[Member]:
    """Pictures with a json each."""
    data = value if isinstance(value, bytes) else js(value)
    return [
        m for n in range(count) for m in ((f"{n:04d}.png", encoded(picture(n))), (f"{n:04d}.json", data))
    ]  # fmt: skip


def with_text(data: bytes, count: int = 4) -> list[Member]:
    """Pictures with a text each."""
    return [m for n in range(count) for m in ((f"{n:04d}.png", encoded(picture(n))), (f"{n:04d}.txt", data))]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


def sideways(orientation: int) -> bytes:
    """A picture stored turned, with the EXIF orientation that turns it back."""
    undone = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture(0, 24, 16).transpose(undone[orientation])
    return encoded(turned, "JPEG", quality=100, subsampling=0, exif=exif)


def logo() -> Image.Image:
    """A red square on a transparent page whose hidden pixels are black."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12] = [200, 30, 30, 255]
    return Image.fromarray(pixels)


def huge() -> bytes:
    """Fewer than 100 kB that hold 400 million pixels."""
    return encoded(Image.new("1", (20_000, 20_000)))


def mixed(n: int) -> list[Member]:
    return pairs(1, name=f"{n:04d}", ending="jpg" if n % 2 else "png")


PAIRS = pairs()
HALF_EMOJI = js({"caption": "a red kite \ud83d"})
SHARDS: dict[str, Callable[[], bytes]] = {
    "plain": lambda: tar_bytes(PAIRS),
    "exif": lambda: tar_bytes([m for n in (3, 6, 8) for m in ((f"{n}.jpg", sideways(n)), (f"{n}.txt", b"turned"))]),
    "alpha": lambda: tar_bytes([("0.png", encoded(logo())), ("0.txt", b"a logo"), *pairs(3, "x")]),
    "dot_slash": lambda: tar_bytes(pairs(prefix="./")),
    "dot_folder": lambda: tar_bytes(pairs(prefix="train.v1/")),
    "absolute": lambda: tar_bytes(pairs(prefix="/data/set/")),
    "climbing": lambda: tar_bytes(pairs(prefix="../../")),
    "dots_in_names": lambda: tar_bytes(pairs(name="model.v2_{:04d}")),
    "version_numbers": lambda: tar_bytes(pairs(name="photo_1.{}")),
    "upper_case": lambda: tar_bytes(pairs(ending="JPG")),
    "mac": lambda: tar_bytes(
        [m for name, data in pairs(prefix="set/") for m in (("set/._" + name[4:], b"\0\5\26\7" * 9), (name, data))]
    ),
    "mac_zip": lambda: tar_bytes([*PAIRS, *(("__MACOSX/" + name, b"\0\5\26\7" * 9) for name, _ in PAIRS)]),
    "hidden": lambda: tar_bytes([(".DS_Store", b"x"), (".json", b"{"), *PAIRS]),
    "pax": lambda: tar_bytes(pairs(prefix="набор ü/"), tarfile.PAX_FORMAT),
    "gzip": lambda: gzip.compress(tar_bytes(PAIRS)),
    "joined": lambda: tar_bytes(PAIRS[:4]) + tar_bytes(PAIRS[4:]),
    "joined_gzip": lambda: gzip.compress(tar_bytes(PAIRS[:4])) + gzip.compress(tar_bytes(PAIRS[4:])),
    "apart": lambda: tar_bytes([*PAIRS[::2], *PAIRS[1::2]]),
    "twice_apart": lambda: tar_bytes([*PAIRS, *PAIRS[:2]]),
    "twice_together": lambda: tar_bytes([*PAIRS[:2], *PAIRS[:2], *PAIRS[2:], *PAIRS[6:]]),
    "links": lambda: tar_bytes(
        [*PAIRS, link("0009.png", "0000.png"), ("0009.txt", b"linked"), link("8.png", "0000.png", tarfile.LNKTYPE)]
    ),
    "formats": lambda: tar_bytes([m for n in range(6) for m in mixed(n)]),
    "some_json": lambda: tar_bytes([*PAIRS, ("0003.json", js({"url": "x"}))]),
    "cut_off": lambda: tar_bytes(PAIRS)[:4000],
    "no_end": lambda: tar_bytes(PAIRS)[: 512 * 16],
    "bad_header": lambda: (data := tar_bytes(PAIRS))[:4096] + b"x" * 12 + data[4108:],
    "cut_pictures": lambda: tar_bytes([(n, d[:60] if n.endswith("1.png") else d) for n, d in PAIRS]),
    "huge": lambda: tar_bytes([*PAIRS, ("9.png", huge()), ("9.txt", b"huge")]),
    "caption_text": lambda: tar_bytes(with_json({"caption": "a red kite"})),
    "caption_list": lambda: tar_bytes(with_json({"caption": ["a red kite", "a kite in the air"]})),
    "captions_text": lambda: tar_bytes(with_json({"captions": "a red kite"})),
    "captions_coco": lambda: tar_bytes(with_json({"captions": [{"id": 1, "caption": "a red kite"}]})),
    "captions_null": lambda: tar_bytes(with_json({"caption": None, "captions": [None, "a red kite", ""]})),
    "captions_wrong": lambda: tar_bytes(with_json({"caption": {"en": "a red kite"}}, 2) + pairs(2, "x")),
    "json_list": lambda: tar_bytes(with_json(["a red kite", "a kite in the air"])),
    "json_mark": lambda: tar_bytes(with_json(b"\xef\xbb\xbf" + js({"caption": "a red kite"}))),
    "json_broken": lambda: tar_bytes([*PAIRS, ("0003.json", b"{")]),
    "json_deep": lambda: tar_bytes([*PAIRS, ("0003.json", b"[" * 100_000)]),
    "text_mark": lambda: tar_bytes(with_text("\ufeffa red kite\r\n".encode())),
    "text_utf16": lambda: tar_bytes(with_text("a red kite".encode("utf-16"))),
    "text_latin1": lambda: tar_bytes([*PAIRS, ("x.png", encoded(picture())), ("x.txt", "café".encode("latin-1"))]),
    "text_empty": lambda: tar_bytes(with_text(b"")),
    "half_emoji": lambda: tar_bytes([*with_json({"caption": "a red kite"}), ("x.png", encoded(picture())),
                                     ("x.json", HALF_EMOJI)]),
    "half_emoji_elsewhere": lambda: tar_bytes(with_json({"caption": "a red kite", "url": "\ud83d"})),
    "answer_number": lambda: tar_bytes(with_json({"question": "how many?", "answer": 2})),
    "answers_text": lambda: tar_bytes(with_json({"question": "which colour?", "answers": "yellow"})),
    "answers_numbers": lambda: tar_bytes(with_json({"question": "how many?", "answers": [2, 2, 3]})),
    "answers_vqa": lambda: tar_bytes(
        with_json({"question": "how many?", "answers": [{"answer": "two", "answer_confidence": "yes"}] * 3})
    ),
    "answers_none": lambda: tar_bytes(with_json({"question": "which?", "answers": []}, 2) + pairs(2, "x")),
    "answers_wrong": lambda: tar_bytes(with_json({"question": "is it?", "answer": True}, 1) + pairs(3, "x")),
    "colliding_keys": lambda: tar_bytes(
        [*with_json({"vqa": [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]}, 2),
         *pairs(2, name="0000-{}"), *pairs(2, name="0001-{}")]
    ),
    "half_edit": lambda: tar_bytes([*PAIRS, ("e.source.png", encoded(picture())), ("e.txt", b"turn it")]),
    "mute_edit": lambda: tar_bytes(
        [*PAIRS, ("e.source.png", encoded(picture())), ("e.target.png", encoded(picture(1))), ("e.txt", b" ")]
    ),
    "wrong_turns": lambda: tar_bytes([*PAIRS, ("c.0.png", encoded(picture())), ("c.json", js({"turns": [1]}))]),
    "no_pictures": lambda: tar_bytes([("a.txt", b"one"), ("b.txt", b""), ("c.json", HALF_EMOJI), ("d.txt", b"two")]),
    "empty": lambda: tar_bytes([]),
    "no_tar": lambda: b"<!DOCTYPE html><html>404</html>" * 40,
}  # fmt: skip


def write(folder: Path, name: str) -> Path:
    """One of the shards as a file."""
    data = SHARDS[name]()
    path = folder / (f"{name}.tar.gz" if data[:2] == b"\x1f\x8b" else f"{name}.tar")
    path.write_bytes(data)
    return path
