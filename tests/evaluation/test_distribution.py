"""`ddt eval distribution`: which keys there are, what the numbers are, what happens without files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.cards import flat, read_cards
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.metrics.picture_encoder import SHIPPED, PictureEncoder, file_hash
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import val_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies.picture_encoder import features, tensor
from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from tests.callbacks.test_callbacks import SIDE
from tests.metrics.test_distribution import inception_file, scenes  # noqa: F401 - a fixture
from tests.tiny import tiny_model
from tests.tokens.test_renderer import alexnet  # noqa: F401 - a fixture

NAME = f"FD-{file_hash(SHIPPED)}"
KD, TAIL = NAME.replace("FD", "KD"), NAME.removeprefix("FD")
FAST = ["--steps", "1", "--processes", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


def save(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for n, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{n:03d}.png")
    return folder


def test_reconstructions_of_scenes(model, tmp_path, capsys):
    out = tmp_path / "run" / "eval"
    main(["eval", "distribution", "--model", str(model), "--out", str(out), "--images", "70", "--batch", "16", *FAST])
    assert "no FID and KID: `--inception` names no weights" in capsys.readouterr().out
    cards = read_cards(out)
    assert set(cards) == {
        *(f"tokenizer/{name}" for name in (f"{NAME}@70", f"halves/{NAME}@35", KD, f"precision{TAIL}", f"recall{TAIL}")),
        *(f"tokenizer/paired_{name}" for name in ("psnr", "ssim")),
        "decode/steps",
        "decode/guidance",
    }
    assert not any("fid" in key.lower() for key in cards)  # absent, not 0
    originals = [render(val_scene(numpy_rng("eval image", 0, n), unseen=True), SIDE) for n in range(70)]
    parts = Pipeline.from_pretrained(model, llm=False)
    made = parts.reconstruct(tensor(originals), steps=1, seed=list(range(70)))
    network = PictureEncoder.load()
    expected = frechet(network(made), features(network, originals))
    card = cards[f"tokenizer/{NAME}@70"]
    assert card["value"] == pytest.approx(expected, rel=1e-3)
    assert card["interval"][0] < card["value"] < card["interval"][1] and card["n"] == 70
    assert card["weights"]["encoder"].startswith(NAME[3:]) and card["weights"]["tokenizer"]
    assert card["settings"]["steps"] == 1 and card["settings"]["decode_guidance"] == 1.5 and "batch" in card["settings"]
    assert {"torch", "torchmetrics", "torch-fidelity"} <= set(card["versions"]) and "0" in str(card["seed"])
    main(["report", str(out.parent)])
    page = Path(capsys.readouterr().out.strip()).read_text()
    for key in cards:
        assert f"<code>{key}</code>" in page


@pytest.mark.slow
def test_batches_and_processes_do_not_matter(model, tmp_path):
    call = ["eval", "distribution", "--model", str(model), "--images", "40", "--steps", "1", "--device", "cpu"]
    main([*call, "--out", str(tmp_path / "one"), "--processes", "1", "--batch", "64"])
    main([*call, "--out", str(tmp_path / "two"), "--processes", "2", "--batch", "7"])
    one, two = flat(tmp_path / "one"), flat(tmp_path / "two")
    assert one.keys() == two.keys() and all(one[key] == pytest.approx(two[key], rel=1e-3) for key in one)


def test_drawings_for_captions_of_scenes_and_of_shards(model, tmp_path, capsys):
    call = ["eval", "distribution", "--made", "drawings", "--model", str(model), "--images", "40", *FAST]
    main([*call, "--out", str(tmp_path / "scenes")])
    cards = read_cards(tmp_path / "scenes")
    assert f"t2i/{NAME}@40" in cards and not any(key.startswith("tokenizer/") for key in cards)
    assert cards[f"t2i/{KD}"]["settings"]["guidance"] == 2.0 and cards[f"t2i/{KD}"]["weights"]["lm"]

    def png(image: np.ndarray) -> bytes:
        path = tmp_path / "one.png"
        Image.fromarray(image).save(path)
        return path.read_bytes()

    samples = [
        {"__key__": f"{n:03d}", "png": png(image), "txt": "yes"} for n, image in enumerate(scenes(36, side=SIDE))
    ]
    write_shards(tmp_path / "shards", "images", samples, 36)
    main([*call, "--out", str(tmp_path / "shards-eval"), "--reference", f"{tmp_path}/shards/images-*.tar"])
    assert read_cards(tmp_path / "shards-eval")[f"t2i/{NAME}@36"]["n"] == 36
    bare = [{key: value for key, value in one.items() if key != "txt"} for one in samples]
    write_shards(tmp_path / "bare", "images", bare, 36)
    with pytest.raises(SystemExit):
        main([*call, "--out", str(tmp_path / "none"), "--reference", f"{tmp_path}/bare/images-*.tar"])
    assert "without a caption" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_pictures_of_a_folder(tmp_path, capsys):
    drawn = scenes(80)
    one, two = save(tmp_path / "a" / "deep", drawn[:40]), save(tmp_path / "b", drawn[40:])
    call = ["eval", "distribution", "--device", "cpu", "--batch", "13", "--subsets", "5"]
    main([*call, "--generated", str(one.parent), "--reference", str(two), "--out", str(tmp_path / "eval")])
    cards = read_cards(tmp_path / "eval")
    network = PictureEncoder.load()
    expected = frechet(features(network, drawn[:40]), features(network, drawn[40:]))
    card = cards[f"pictures/{NAME}@40"]
    assert card["value"] == pytest.approx(expected, rel=1e-4)
    assert card["settings"]["image_size"] == 64 and card["settings"]["generated"] == str(one.parent)
    assert set(flat(tmp_path / "eval")) == {
        f"pictures/{name}" for name in (f"{NAME}@40", KD, f"precision{TAIL}", f"recall{TAIL}")
    }  # no halves: 20 pictures are too few
    main([*call, "--generated", str(one), "--images", "30", "--out", str(tmp_path / "few")])
    said = capsys.readouterr().out
    assert "30 pictures are fewer than 33" in said and f"pictures/{NAME}@30" not in flat(tmp_path / "few")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--generated", "none"], "`--generated` (none) is not a folder"),
        (["--images", "0"], "`--images` (0)"),
        (["--side", "32"], "`--side` (32)"),
        (["--inception", "none.pth", "--strict", "true"], "`--inception` (none.pth) does not exist"),
        (["--encoder", "none"], "`--encoder` (none) does not exist"),
        (["--lpips", "none"], "`--lpips` (none) does not exist"),
        (["--model", "none"], "`--model` (none)"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(model, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as leaving:
        main(["eval", "distribution", "--model", str(model), "--out", str(tmp_path / "x"), *FAST, *extra])
    text = capsys.readouterr().err
    assert leaving.value.code == 1 and message in text and text.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_missing_inception_is_one_line_and_no_key(tmp_path, capsys):
    folder = save(tmp_path / "a", scenes(40))
    call = ["eval", "distribution", "--generated", str(folder), "--images", "40", "--out", str(tmp_path / "eval")]
    main([*call, "--inception", str(tmp_path / "none.pth"), "--device", "cpu"])
    said = [line for line in capsys.readouterr().out.splitlines() if "no FID" in line]
    assert said == [f"no FID and KID: `--inception` ({tmp_path}/none.pth) does not exist"]
    assert not [key for key in flat(tmp_path / "eval") if "fid" in key.lower() or "kid" in key.lower()]


def test_fid_of_few_pictures_is_left_out(inception_file, tmp_path, capsys):  # noqa: F811
    folder = save(tmp_path / "a", scenes(5, side=32))
    call = ["eval", "distribution", "--generated", str(folder), "--reference", str(folder), "--device", "cpu"]
    main([*call, "--out", str(tmp_path / "eval"), "--inception", str(inception_file), "--subsets", "3"])
    keys = set(flat(tmp_path / "eval"))
    assert "no pictures/gfid: 5 pictures are fewer than 2048, see `--few`" in capsys.readouterr().out
    assert {"pictures/gkid", "pictures/precision", "pictures/recall"} <= keys
    assert not [key for key in keys if "fid" in key]


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer on the latents of a tiny VAE: `tokenizer/` and `vae/`."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    config = TokenizerConfig(
        tokens=6,
        codebook_size=24,
        code_dim=4,
        latent_channels=4,
        latent_size=16,
        patch=4,
        encoder=EncoderConfig(depth=1, image_width=16, image_heads=2, query_width=16, query_heads=2),
        decoder=DecoderConfig(depth=1, heads=2, head_dim=8),
    )
    Tokenizer(config).save_pretrained(folder / "tokenizer")
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    names = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(latent_channels=4, layers_per_block=1, **blocks, **names).save_pretrained(folder / "vae")
    return folder


def test_reconstruction_has_lpips_and_the_vae_reference(latent_model, alexnet, tmp_path):  # noqa: F811
    call = ["eval", "reconstruction", "--model", str(latent_model), "--images", "3", "--prefix_images", "1", *FAST]
    main([*call, "--out", str(tmp_path / "eval"), "--lpips", str(alexnet[0])])
    cards = read_cards(tmp_path / "eval")
    parts = Pipeline.from_pretrained(latent_model)
    originals = tensor([render(val_scene(numpy_rng("eval image", 0, n), unseen=True), SIDE) for n in range(3)])
    made = parts.reconstruct(originals, steps=1)
    alone = to_uint8(parts.latents.decode(parts.latents.encode(originals.float() / 127.5 - 1)))
    error = (made.double() - alone.double()).square().flatten(1).mean(1)
    expected = float((10 * torch.log10(255**2 / error)).mean())
    assert cards["tokenizer/psnr_vae_ref"]["value"] == pytest.approx(expected, abs=1e-2)
    assert cards["tokenizer/psnr_vae_ref"]["value"] != pytest.approx(cards["tokenizer/psnr"]["value"], abs=1e-2)
    distance = Lpips(alexnet[0])(made.float() / 127.5 - 1, originals.float() / 127.5 - 1)
    assert cards["tokenizer/lpips"]["value"] == pytest.approx(float(distance.mean()), rel=1e-3)
    assert set(cards["tokenizer/lpips"]["weights"]) == {"tokenizer", "vae", "lpips"}


def test_distances_by_an_imagenet_backbone(ddt_judges, tmp_path, capsys):
    drawn = scenes(12)
    one, two = save(tmp_path / "a", drawn[:6]), save(tmp_path / "b", drawn[6:])
    call = ["eval", "distribution", "--device", "cpu", "--generated", str(one), "--reference", str(two)]
    main([*call, "--subsets", "3", "--backbone", "efficientnet_lite0", "--out", str(tmp_path / "eval")])
    cards = read_cards(tmp_path / "eval")
    tail = f"EfficientNetLite0-{file_hash(ddt_judges / 'efficientnet_lite0.safetensors')}"
    assert {f"pictures/KD-{tail}", f"pictures/precision-{tail}"} <= set(cards)
    assert f"no pictures/FD-{tail}: 6 pictures are fewer than 1281" in capsys.readouterr().out
    assert cards[f"pictures/KD-{tail}"]["weights"]["backbone"].startswith(tail.rpartition("-")[2])
