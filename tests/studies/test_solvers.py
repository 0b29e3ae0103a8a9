"""`ddt study solvers`: what it measures is what the decoder gives, and the fewest calls are read rightly."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.cards import card
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.report.findings import read_findings
from ddt_lightning.studies.side_by_side import originals
from ddt_lightning.studies.solvers import Score, as_good, as_near, fewest
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.solvers import ab2, heun
from tests.tiny import taught_tokenizer

SIDE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = taught_tokenizer(SIDE, 0)
    tokenizer.save_pretrained(folder / "tokenizer")
    Renderer(RendererConfig(), tokenizer).save_pretrained(folder / "renderer")
    return folder


def test_the_study_measures_what_the_decoder_gives(model, tmp_path, capsys):
    call = ["study", "solvers", "--model", str(model), "--images", "3", "--batch", "2", "--device", "cpu"]
    call += ["--calls", "2", "3", "--euler_steps", "6", "--fine_steps", "8", "--out", str(tmp_path / "out")]
    main([*call, "--shifts", "1", "2"])
    found = read_findings(tmp_path / "out")
    scores = found.numbers["scores"]
    assert [(one["way"], one["calls"]) for one in scores] == [
        ("euler", 6), ("euler", 2), ("euler", 3), ("euler, shift 2", 2), ("euler, shift 2", 3),
        ("heun", 1), ("heun", 3), ("ab2", 2), ("ab2", 3), ("ab2, shift 2", 2), ("ab2, shift 2", 3),
        ("dpmpp_2m", 2), ("dpmpp_2m", 3), ("dpmpp_2m, shift 2", 2), ("dpmpp_2m, shift 2", 3), ("renderer", 1),
    ]  # fmt: skip
    pipeline = Pipeline.from_pretrained(model)
    truth = originals([], 3, SIDE, 0)
    ids, tokenizer = pipeline.encode(truth), pipeline.tokenizer
    shape = tokenizer.latent_shape
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(3)])
    made = tokenizer.decode(ids, steps=3, solver=ab2, shift=2.0, noise=noise)
    one = scores[10]
    assert one["psnr"]["value"] == pytest.approx(float(psnr(to_uint8(made), truth).mean()), abs=1e-3)
    solution = tokenizer.decode(ids, steps=8, solver=heun, noise=noise)
    distance = (made - solution).square().flatten(1).mean(1).sqrt().mean()
    assert one["error"]["value"] == pytest.approx(float(distance), rel=1e-3) and one["lpips"] is None
    rendered = psnr(pipeline.decode(ids), truth).mean()
    assert scores[-1]["psnr"]["value"] == pytest.approx(float(rendered), abs=1e-3) and scores[-1]["error"] is None
    assert "renderer" in found.numbers["weights"]
    assert Image.open(tmp_path / "out" / "solvers.png").width > 400
    main(["report", str(tmp_path / "out")])
    assert "Solvers of the diffusion decoder" in Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text()


def test_equally_good_calls():
    def one(calls, psnr, error):
        return Score("ab2", calls, card(psnr, 9, ""), None, card(error, 9, ""))

    reference, own = (
        one(50, 20.0, 0.1),
        [one(4, 21.0, 0.4), one(8, 19.0, 0.3), one(12, 19.95, 0.104), one(16, 20.5, 0.01)],
    )
    assert fewest(own, [as_good(each, reference) for each in own]) == "12"  # 4 calls only happen to be good
    assert fewest(own, [as_near(each, reference) for each in own]) == "12"
    assert fewest(own[:2], [False, False]) == "-"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calls", "[8, 4]"], "`--calls`"),
        (["--shifts", "[0]"], "`--shifts`"),
        (["--fine_steps", "0"], "`--fine_steps`"),
        (["--lpips", "vgg"], "`lpips` (vgg)"),
    ],
)
def test_errors_name_the_option(model, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        main(["study", "solvers", "--model", str(model), "--out", str(tmp_path / "out"), "--images", "1", *words])
    assert message in capsys.readouterr().err
