"""Counterfactual interpolation: tokenizers that are spatial or global by construction are told apart; the command."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from ddt_lightning.cli import main
from ddt_lightning.metrics.locality import change_spread
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.report.contact_sheet import enlarge
from ddt_lightning.report.findings import read_findings
from ddt_lightning.sampling import Decoding
from ddt_lightning.studies.interpolation import BLEND, CUT, Plan, blend, count_of, cut, mix, pixels, replaced
from ddt_lightning.studies.interpolation_figures import CELL, LABEL
from ddt_lightning.studies.side_by_side import Model, originals
from tests.tiny import taught_tokenizer

SIDE, PAIRS = 32, 3
FAST = ["--pairs", str(PAIRS), "--steps", "2", "--batch", "2", "--device", "cpu"]


class Mosaic(nn.Module):
    """A spatial tokenizer without training: one grey level for each patch, in reading order."""

    side = 8  # patches along a side

    def __init__(self):
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(-1, 1, 64))
        self.config = SimpleNamespace(tokens=self.side**2, codebook_size=64, latent_channels=3, latent_size=SIDE)
        self.latent_shape = (3, SIDE, SIDE)

    def encode(self, latents):
        grey = avg_pool2d(latents.mean(1, keepdim=True), SIDE // self.side).flatten(1)  # [B, K]
        return (grey[..., None] - self.levels).abs().argmin(-1)

    @torch.no_grad()
    def decode(self, ids, *, steps, decode_guidance, solver, shift, noise):
        grey = torch.zeros(len(ids), self.config.tokens)
        grey[:, : ids.shape[1]] = self.levels[ids]
        grey = grey.view(-1, 1, self.side, self.side).expand(-1, 3, -1, -1)
        return interpolate(grey, size=(SIDE, SIDE), mode="nearest")

    def fingerprint(self):
        return hashlib.sha256(type(self).__name__.encode()).hexdigest()[:16]


class Votes(Mosaic):
    """A global tokenizer: all tokens hold the image's mean, and a picture is the mean of its tokens over a pattern."""

    def encode(self, latents):
        grey = latents.mean((1, 2, 3))
        return (grey[:, None] - self.levels).abs().argmin(-1)[:, None].expand(-1, self.config.tokens).clone()

    @torch.no_grad()
    def decode(self, ids, *, steps, decode_guidance, solver, shift, noise):
        pattern = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        return self.levels[ids].mean(1)[:, None, None, None] * pattern


@pytest.fixture
def images():
    return originals([], 2 * PAIRS, SIDE, 0).unflatten(0, (-1, 2))


@pytest.fixture
def plan():
    return Plan([0.25, 0.5, 0.75], 2, 0, 2, Decoding(2, 1.0))


def test_spatial_and_global_tokens_are_told_apart(images, plan, tmp_path):
    for kind, low, high in ((Mosaic, 0.0, 1e-9), (Votes, 0.95, 1.0)):
        outcome, arrays = mix(Model(kind.__name__, "", Pipeline(kind())), images, plan, tmp_path)
        assert outcome.counts == [16, 32, 48]
        told = [score for score in outcome.spread if score is not None]
        assert told and all(low <= score["value"] <= high for score in told), kind
        moved = [score["value"] for score in outcome.moved]
        assert moved == sorted(moved) and 0 < moved[0] < moved[-1] < 1
        assert arrays["pictures"].shape == (2, 5, 3, SIDE, SIDE)
    (_, cuts), (_, blends) = pixels(images, plan)
    assert np.nanmax(cuts["spread"]) < 1e-9 and np.nanmin(blends["spread"]) > 0.97  # rows meet the places' borders
    # a mosaic's mix is the cut of its pictures: the tokens are in reading order
    ids = Mosaic().encode(images.flatten(0, 1).float() / 127.5 - 1).unflatten(0, (-1, 2))
    pipeline = Pipeline(Mosaic())
    mixed = pipeline.decode(replaced(ids[:, 0], ids[:, 1], 32))
    assert (mixed == cut(pipeline.decode(ids[:, 0]), pipeline.decode(ids[:, 1]), 0.5)).all()


def test_parts():
    a, b = torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.long)
    assert replaced(a, b, 2).tolist() == [[1, 1, 0, 0, 0, 0]]
    assert [count_of(share, 6) for share in (0.01, 0.25, 0.5, 0.9, 0.99)] == [1, 2, 3, 5, 5]
    black, white = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    assert cut(black, white, 0.25)[0, 0, :, 0].tolist() == [200, 200, 0, 0, 0, 0, 0, 0]
    assert blend(black, white, 0.25).unique().tolist() == [50] and blend(white, black, 0.25).unique().tolist() == [150]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interpolation")
    for seed, name in enumerate("ab"):
        taught_tokenizer(SIDE, seed).save_pretrained(folder / name / "tokenizer")
    main(["study", "interpolate", "--models", *models(folder), "--out", str(folder / "out"), "--shown", "2", *FAST])
    return folder


def models(folder: Path) -> list[str]:
    return [f"one={folder / 'a'}", f"two={folder / 'b'}"]


def test_the_command_measures_and_shows_what_the_pipeline_decodes(done, capsys):
    content = read_findings(done / "out").numbers
    shares = [0.125, 0.25, 0.5, 0.75, 0.875]
    assert content["settings"]["shares"] == shares and content["pairs"] == PAIRS
    assert [one["name"] for one in content["models"]] == ["one", "two", CUT, BLEND]
    images = originals([], 2 * PAIRS, SIDE, 0)
    page, measured = np.asarray(Image.open(done / "out" / "interpolation-grid.png")), 0
    for row, (word, one) in enumerate(zip(models(done), content["models"][:2], strict=True)):
        pipeline = Pipeline.from_pretrained(word.partition("=")[2])
        ids = pipeline.encode(images)
        first, second = ids[::2], ids[1::2]
        a, b = (pipeline.decode(part, seed=0, steps=2) for part in (first, second))
        for at, count in enumerate(one["counts"]):
            mixed = first.clone()
            mixed[:, :count] = second[:, :count]
            picture = pipeline.decode(mixed, seed=0, steps=2)
            spread, moved = change_spread(picture, a, b)
            assert one["moved"][at]["value"] == pytest.approx(float(moved.mean()), abs=1e-3) and 0 < moved.mean() < 1
            told = spread[~spread.isnan()]
            score = one["spread"][at]
            assert (score is None) == (len(told) == 0)
            if score is not None:
                measured += 1
                assert score["value"] == pytest.approx(float(told.mean()), abs=1e-3) and score["n"] == len(told)
                assert (score["interval"] is None) == (score["n"] == 1)
                low, high = score["interval"] or (score["value"],) * 2
                assert float(told.min()) - 1e-3 <= low <= score["value"] <= high <= float(told.max()) + 1e-3
            x, y = LABEL + 6 + (at + 1) * (CELL + 6), 27 + row * (CELL + 6)
            shown = page[y : y + CELL, x : x + CELL]
            wanted = np.asarray(enlarge(picture[0].permute(1, 2, 0).numpy(), CELL))
            assert np.abs(shown.astype(int) - wanted).max() <= 1  # sums of another batch, rounded
    assert measured > 5
    main(["report", str(done / "out")])
    text = Path(capsys.readouterr().out.strip()).read_text()
    assert "<h3>Exchanging tokens between two images</h3>" in text and "3 pairs, held-out scenes" in text
    assert text.count("data:image/png;base64,") == 2 and CUT in text and "±" in text


def test_what_is_done_is_not_done_again(done, monkeypatch):
    call = ["study", "interpolate", "--models", *models(done), "--out", str(done / "out"), "--shown", "2", *FAST]
    before = (done / "out" / "findings.json").read_text()

    def fails(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Pipeline, "decode", fails)
    main(call)
    assert (done / "out" / "findings.json").read_text() == before
    with pytest.raises(SystemExit):
        main([*call, "--shares", "[0.5]"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shares", "[0.0, 0.5]"], "above 0 and below 1"),
        (["--shares", "[0.5, 0.25]"], "must rise"),
        (["--pairs", "0"], "`--pairs`"),
        (["--shown", "0"], "`--shown`"),
    ],
)
def test_errors_name_the_option(done, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(["study", "interpolate", "--models", *models(done), "--out", str(tmp_path / "out"), *FAST, *words])
    assert stop.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
