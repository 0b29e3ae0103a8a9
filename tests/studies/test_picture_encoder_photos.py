"""An encoder of labelled photos: it learns their classes, and what cannot be learnt from is refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.picture_encoder import PictureEncoder, file_hash
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies.picture_encoder import features
from ddt_lightning.studies.picture_encoder_photos import Photos

SIDE = 32


def photo(label: str, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Stripes across or along, anywhere."""
    wave = np.sin(np.arange(side) * 0.8 + rng.uniform(0, 6))[:, None] * np.ones((side, side))
    wave = wave if label == "across" else wave.T
    return np.uint8(128 + 60 * wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 10, (side, side, 3)))


def pack(folder: Path, name: str, labels: list[str], seed: int, sides: tuple[int, ...] = (SIDE,)) -> list[str]:
    rng, samples = np.random.default_rng(seed), []
    for n, label in enumerate(labels):
        held = io.BytesIO()
        Image.fromarray(photo(label, rng, sides[n % len(sides)])).save(held, "PNG")
        samples.append({"__key__": f"{n:05d}", "png": held.getvalue(), "txt": label})
    write_shards(folder, name, samples, 10_000)
    return [f"{folder}/{name}-*.tar"]


def test_classes_and_damage_are_seen(tmp_path, capsys):
    train = pack(tmp_path, "train", ["across", "along"] * 60, 0)
    val = pack(tmp_path, "val", ["along", "across"] * 200, 1)
    words = ["--shards", *train, "--val_shards", *val, "--steps", "40", "--batch", "16", "--check", "200"]
    main(["study", "encoder", *words, "--out", str(tmp_path / "out")])
    file = tmp_path / "out" / "encoder.safetensors"
    card = json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert card["name"] == f"FD-{file_hash(file)}" and card["name"] in capsys.readouterr().out
    assert card["reads"]["class right"] > 0.9
    away = card["frechet_distance"]
    assert away["other pictures"] < away["noise 32"] and away["noise 8"] < away["noise 32"]
    assert 5 * away["other pictures"] < min(away["grey"], away["only across"])
    assert train[0] in card["made_by"] and "2 classes" in card["for"]
    rng = np.random.default_rng(2)
    along, more, across = ([photo(label, rng) for _ in range(100)] for label in ("along", "along", "across"))
    one, two, three = (features(PictureEncoder.load(file), images) for images in (along, more, across))
    assert frechet(one, three) > 5 * frechet(one, two)


def test_what_has_no_classes_is_refused(tmp_path):
    val = pack(tmp_path, "val", ["along", "across"] * 3, 1)
    with pytest.raises(ValueError, match="hold 1 different captions"):
        Photos(pack(tmp_path, "same", ["along"] * 4, 0), val)
    with pytest.raises(ValueError, match=r"`--val_shards` .* a class that training lacks: along"):
        Photos(pack(tmp_path, "other", ["across", "askew"], 0), val)
    with pytest.raises(ValueError, match=r"`--shards`: 00001 has no caption, or another size"):
        Photos(pack(tmp_path, "sides", ["along", "across"], 0, (32, 16)), val)
    with pytest.raises(SystemExit):
        main(["study", "encoder", "--shards", *val, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main(["study", "encoder", "--shards", *val, "--val_shards", *val, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
