"""Progressive decoding: its numbers against the pipeline and the decoder called otherwise, its cache, its pictures."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddt_lightning.cli import main
from ddt_lightning.latents.pixels import to_float
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.metrics.intervals import bootstrap
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.plans.cached_arrays import measured
from ddt_lightning.report.contact_sheet import enlarge
from ddt_lightning.report.findings import read_findings
from ddt_lightning.seeding import normal
from ddt_lightning.studies.progressive import first_tokens, rising
from ddt_lightning.studies.progressive_figures import CELL, FRAME_MS, HOLD_MS, LABEL
from ddt_lightning.studies.side_by_side import named, originals
from tests.tiny import taught_tokenizer, tiny_model, tiny_tokenizer

SIDE, IMAGES = 32, 5
FAST = ["--images", str(IMAGES), "--steps", "2", "--batch", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """A model with a language model and 6 tokens, and the bare tokenizer of another."""
    folder = tmp_path_factory.mktemp("models")
    taught_tokenizer(SIDE, seed=1).save_pretrained(folder / "b" / "tokenizer")
    return [f"first={tiny_model(folder / 'a', tokenizer=taught_tokenizer(SIDE))}", f"second={folder / 'b'}"]


@pytest.fixture(scope="module")
def done(models, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "progressive"
    main(["study", "progressive", "--models", *models, "--out", str(out), "--points", "3", "--shown", "3", *FAST])
    return out


def numbers(out: Path) -> dict:
    return read_findings(out).numbers


def load(word: str) -> Pipeline:
    return Pipeline.from_pretrained(word.partition("=")[2], llm=False)


def shows(page: np.ndarray, image: torch.Tensor, at: tuple[int, int], top: int = 27, rounding: int = 1) -> bool:
    """Whether a sheet shows uint8 `[3, H, W]` at (row, column); sums of another batch may round differently."""
    x, y = LABEL + 6 + at[1] * (CELL + 6), top + at[0] * (CELL + 6)
    wanted = np.asarray(enlarge(image.permute(1, 2, 0).numpy(), CELL)).astype(int)
    return bool(np.abs(page[y : y + CELL, x : x + CELL] - wanted).max() <= rounding)


# ------------------------------------------------------------------------------------------------------ its numbers


def test_numbers_of_first_tokens():
    assert first_tokens(480, 32) == list(range(15, 481, 15))  # Selftok's evaluation: prefixes of K/32 tokens each
    assert first_tokens(6, 3) == [2, 4, 6]
    assert first_tokens(6, 32) == [1, 2, 3, 4, 5, 6]
    assert first_tokens(7, 3) == [3, 5, 7]
    for tokens in range(1, 40):
        for points in range(1, 40):
            found = first_tokens(tokens, points)
            assert found[-1] == tokens and found[0] >= 1 and found == sorted(set(found)) and len(found) <= points
            assert len(found) == min(tokens, points)


def test_rising():
    scores = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 2.0], [3.0, 2.0, 1.0, 0.0]])
    assert rising(scores).tolist() == [1.0, 1 / 3, 0.0]
    assert np.isnan(rising(scores[:, :1])).all()


def test_scores_are_those_of_reconstruct(done, models):
    content = numbers(done)
    assert [one["name"] for one in content["models"]] == ["first", "second"] and content["images"] == IMAGES
    truth = originals([], IMAGES, SIDE, 0)
    for word, one in zip(models, content["models"], strict=True):
        pipeline = load(word)
        assert one["counts"] == [2, 4, 6] and one["tokens"] == 6 and one["weights"] == pipeline.fingerprints()
        by_count = []
        for at, count in enumerate(one["counts"]):
            made = pipeline.reconstruct(truth, count, seed=0, steps=2)
            errors = ((made.double() - truth.double()) ** 2).flatten(1).mean(1)
            by_count.append(errors)
            decibels = [10 * math.log10(255**2 / float(error)) for error in errors]
            score = one["psnr"][at]
            assert score["value"] == pytest.approx(np.mean(decibels), rel=1e-4) and score["n"] == IMAGES
            half = 1.959964 * np.std(decibels, ddof=1) / math.sqrt(IMAGES)
            assert score["interval"] == pytest.approx([score["value"] - half, score["value"] + half], rel=1e-4)
        assert len({score["value"] for score in one["psnr"]}) == 3
        falls = [[bool(after[n] < before[n]) for before, after in pairwise(by_count)]
                 for n in range(IMAGES)]  # fmt: skip
        assert one["falls"]["value"] == pytest.approx(np.mean(falls))
        assert len(one["ssim"]) == 3 and one["lpips"] == []


def test_lpips_where_its_weights_are_given(models, tmp_path):
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}  # of AlexNet
    draw = torch.Generator().manual_seed(0)
    state = {}
    for layer, (wide, deep, side) in shapes.items():
        state[f"features.{layer}.weight"] = 0.05 * torch.randn(wide, deep, side, side, generator=draw)
        state[f"features.{layer}.bias"] = torch.zeros(wide)
    save_file(state, tmp_path / "alexnet.safetensors")
    call = ["study", "progressive", "--models", models[0], "--out", str(tmp_path / "out"), "--points", "2", *FAST]
    main([*call, "--lpips", str(tmp_path / "alexnet.safetensors")])
    one = numbers(tmp_path / "out")["models"][0]
    truth, distance = originals([], IMAGES, SIDE, 0), Lpips(tmp_path / "alexnet.safetensors")
    for at, count in enumerate((3, 6)):
        made = load(models[0]).reconstruct(truth, count, seed=0, steps=2)
        wanted = float(distance(to_float(made), to_float(truth)).mean())
        assert one["lpips"][at]["value"] == pytest.approx(wanted, rel=1e-3) and wanted > 0


def test_errors_from_the_true_x_t_are_those_of_the_masked_decoder(done, models):
    """All K tokens and a mask that hides those above d(t), in place of the visible ones alone."""
    content = numbers(done)
    truth = originals([], IMAGES, SIDE, 0)
    noise = normal((3, SIDE, SIDE), "progressive", samples=torch.arange(IMAGES))
    for word, one in zip(models, content["models"], strict=True):
        tokenizer = load(word).tokenizer
        tokens = tokenizer.embed(tokenizer.encode(to_float(truth)))
        assert one["times"] == pytest.approx([1 / 3, 2 / 3, 1])
        assert one["seen"] == [3, 5, 6]  # d(t) = floor(6 t): tokens 0..2, 0..4; all at t = 1
        for at, t in enumerate(one["times"]):
            x_t = t * noise + (1 - t) * to_float(truth)
            for key, count in (("informed", one["seen"][at]), ("uninformed", 0)):
                visible = (torch.arange(6) < count).expand(IMAGES, -1)
                with torch.no_grad():
                    velocity = tokenizer.velocity(x_t, torch.full((IMAGES,), t), tokens, visible)
                error = (x_t - t * velocity - to_float(truth)).pow(2).mean()
                assert one[key][at]["value"] == pytest.approx(float(error), rel=1e-4), (key, t)
            assert one["informed"][at]["value"] != pytest.approx(one["uninformed"][at]["value"], rel=1e-3)


def test_pictures_show_what_was_measured(done, models):
    truth = originals([], IMAGES, SIDE, 0)
    page = np.asarray(Image.open(done / "progressive-grid.png"))
    movie = Image.open(done / "progressive.gif")
    assert movie.n_frames == 3
    second = 27 + 2 * (CELL + 6) + 10 + 6  # top of the block of the second image, which has no titles
    for number, word in enumerate(models):
        pipeline = load(word)
        for at, count in enumerate((2, 4, 6)):
            made = pipeline.reconstruct(truth[:3], count, seed=0, steps=2)
            assert shows(page, made[0], (number, at + 1)) and shows(page, made[1], (number, at + 1), second)
            movie.seek(at)
            frame = np.asarray(movie.convert("RGB"))
            for n in range(3):
                assert shows(frame, made[n], (number + 1, n), 6, 40)  # 255 colours for a frame
            assert movie.info["duration"] == (HOLD_MS if count == 6 else FRAME_MS)
    assert shows(page, truth[0], (0, 0), rounding=0)
    with Image.open(done / "progressive.png") as chart, Image.open(done / "progressive-noise.png") as noise:
        assert chart.width > 1200  # PSNR, SSIM and the error from x_t
        assert noise.height > 12 * CELL  # two images of both models, three rows each


def test_report_shows_it(done, capsys):
    main(["report", str(done.parent)])
    text = Path(capsys.readouterr().out.strip()).read_text()
    section = text.partition('id="studies"')[2]
    assert "<h3>Decoding the first tokens</h3>" in section and "5 held-out scenes" in section
    assert section.count("data:image/png;base64,") == 3 and section.count("data:image/gif;base64,") == 1
    first = numbers(done)["models"][0]
    assert f"{first['psnr'][2]['value']:.1f} ±" in section
    assert f"{first['uninformed'][2]['value'] / first['informed'][2]['value']:.2f}" in section


# -------------------------------------------------------------------------------------------------- models and cache


def test_tokenizers_of_other_sizes_are_compared_by_share(models, tmp_path):
    tokenizer = tiny_tokenizer(SIDE)
    other = type(tokenizer)(type(tokenizer.config)(**{**vars(tokenizer.config), "tokens": 9})).eval()
    other.save_pretrained(tmp_path / "nine" / "tokenizer")
    words = [models[0], f"nine={tmp_path / 'nine'}"]
    main(["study", "progressive", "--models", *words, "--out", str(tmp_path / "out"), "--points", "4", *FAST])
    found = numbers(tmp_path / "out")["models"]
    assert [one["counts"] for one in found] == [[2, 3, 5, 6], [3, 5, 7, 9]]


def test_drawings_of_a_language_model(models, tmp_path, capsys):
    """The model that draws decodes its own ids; the other encodes the drawings. No truth, so no scores."""
    words = [models[1], models[0]]
    call = ["study", "progressive", "--models", *words, "--out", str(tmp_path / "out"), "--points", "3", *FAST]
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo crosses\n")
    main([*call, "--prompts", str(tmp_path / "prompts.txt")])
    content = numbers(tmp_path / "out")
    assert "What first draws for: a red circle, two crosses" in content["source"]
    assert list(read_findings(tmp_path / "out").pictures) == ["progressive-grid.png", "progressive.gif"]
    assert all(one["psnr"] == one["times"] == [] and one["falls"] is None for one in content["models"])
    artist = Pipeline.from_pretrained(models[0].partition("=")[2])
    drawn = artist.text_to_image(["a red circle", "two crosses"], seed=[0, 1], steps=2)
    part = artist.text_to_image(["a red circle", "two crosses"], seed=[0, 1], steps=2, tokens=2)
    page = np.asarray(Image.open(tmp_path / "out" / "progressive-grid.png"))
    for row, column, image in (
        (1, 0, drawn), (1, 1, part), (1, 3, drawn), (0, 0, drawn),
        (0, 2, load(models[1]).reconstruct(drawn, 4, seed=[0, 1], steps=2)),
    ):  # fmt: skip
        assert shows(page, image[0], (row, column)), (row, column)
    main(["report", str(tmp_path / "out")])
    assert "two crosses" in Path(capsys.readouterr().out.splitlines()[-1]).read_text()


def test_what_is_done_is_not_done_again(models, done, monkeypatch):
    call = ["study", "progressive", "--models", *models, "--out", str(done), "--points", "3", "--shown", "3", *FAST]
    before, decoded = (done / "findings.json").read_text(), []
    decode = Pipeline.decode

    def counting(self, ids, **options):
        decoded.append(len(ids))
        return decode(self, ids, **options)

    monkeypatch.setattr(Pipeline, "decode", counting)
    main(call)
    assert decoded == [] and (done / "findings.json").read_text() == before
    (done / "measured" / "progressive.second" / "part-000004.npz").unlink()
    main(call)
    assert decoded == [1, 1, 1] and (done / "findings.json").read_text() == before  # the last batch of one model
    decoded.clear()
    main([*call, "--decode_guidance", "1"])
    assert decoded == 2 * [2, 2, 2, 2, 2, 2, 1, 1, 1]
    decoded.clear()
    main(call)  # one measurement is kept for each model, and it is the last
    assert len(decoded) == 18 and (done / "findings.json").read_text() == before


def test_a_killed_measurement_goes_on(tmp_path):
    made = []

    def make(rows: slice, fails_at: int = 4):
        if rows.start == fails_at:
            raise KeyboardInterrupt
        made.append(rows.start)
        return {"x": np.arange(rows.start, rows.stop)}

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "m", {"a": 1}, 7, 2, make)
    found = measured(tmp_path, "m", {"a": 1}, 7, 2, lambda rows: make(rows, -1))
    assert made == [0, 2, 4, 6] and found["x"].tolist() == list(range(7))
    measured(tmp_path, "m", {"a": 2}, 7, 2, lambda rows: make(rows, -1))
    assert made == [0, 2, 4, 6] * 2


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()
    assert named(["runs/demo/model", "VQ GAN=runs/vqgan", "lr=3"]) == {
        "demo/model": "runs/demo/model", "VQ GAN": "runs/vqgan", f"{tmp_path.name}/lr=3": "lr=3",
    }  # fmt: skip
    with pytest.raises(ValueError, match="another is called b/tok too"):
        named(["a/b/tok", "c/b/tok"])


def test_bootstrap_is_near_the_normal_interval():
    values = np.random.default_rng(0).exponential(size=400)
    half = 1.96 * values.std(ddof=1) / 20
    assert bootstrap(values) == pytest.approx([values.mean() - half, values.mean() + half], abs=0.15 * half)
    assert bootstrap(np.ones(3)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0"], "`--points`"),
        (["--images", "0"], "`--images`"),
        (["--prompts", "x", "--shards", "y.tar"], "exclude each other"),
        (["--lpips", "none.pth"], "none.pth"),
    ],
)
def test_errors_name_the_option(models, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(["study", "progressive", "--models", *models, "--out", str(tmp_path / "out"), *FAST, *words])
    assert stop.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "out" / "findings.json").exists()


def test_models_that_do_not_go_together(models, tmp_path, capsys):
    tiny_tokenizer(16).save_pretrained(tmp_path / "small" / "tokenizer")
    call = ["study", "progressive", "--out", str(tmp_path / "out"), *FAST, "--models"]
    for words, message in (
        ([models[0], str(tmp_path / "small")], "images of 16 pixels and first of 32"),
        ([models[1], "--prompts", "a circle"], "needs a model with an lm/"),
        ([str(tmp_path / "none")], "is neither a folder nor a shipped model"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*call, *words])
        assert stop.value.code == 1 and message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(call[:-1])
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
