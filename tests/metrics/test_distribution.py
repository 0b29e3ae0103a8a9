"""Distances between sets of features, and the networks behind them: closed forms, brute force, the libraries."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torchmetrics.image.kid import poly_mmd

from ddt_lightning.cli import main
from ddt_lightning.metrics import distribution
from ddt_lightning.metrics.distribution import frechet, frechet_estimate, kernel_estimate, label, precision_recall
from ddt_lightning.metrics.features import Inception
from ddt_lightning.metrics.picture_encoder import SHIPPED, PictureEncoder, file_hash
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import as_circles, val_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.studies import picture_encoder as study
from ddt_lightning.studies import picture_encoder_scenes


def cloud(number: int, width: int = 6, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def test_frechet_of_gaussians_is_the_closed_form():
    """Equal directions of variance: |shift|^2 + sum of (difference of standard deviations)^2."""
    first, second = cloud(200_000), cloud(200_000, shift=0.5, scale=2.0, seed=1)
    assert frechet(second, first) == pytest.approx(6 * 0.25 + 6 * 1.0, rel=0.02)
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet(first[:500], second[:500]) == pytest.approx(frechet(second[:500], first[:500]), rel=1e-5)


def test_jackknife_covers_what_new_samples_do():
    """Its width agrees with the spread over independent samples of the same two distributions."""
    values, halves = [], []
    for trial in range(40):
        one = frechet_estimate(cloud(400, 3, seed=2 * trial), cloud(400, 3, shift=1.0, seed=2 * trial + 1))
        assert one.interval is not None
        values.append(one.value)
        halves.append((one.interval[1] - one.interval[0]) / 2 / 2.262157)
    assert np.mean(halves) == pytest.approx(np.std(values), rel=0.35)
    assert frechet_estimate(cloud(10), cloud(10, seed=1)).interval is None


def test_kernel_distance_is_that_of_torchmetrics_on_the_same_subsets():
    first, second = cloud(60), cloud(50, shift=0.4, seed=1)
    found = kernel_estimate(first, second, subsets=7, size=20, seed=3)
    rng = np.random.RandomState(3)
    values = []
    for _ in range(7):
        pick = [torch.from_numpy(rng.choice(n, 20, replace=False)) for n in (60, 50)]
        values.append(float(poly_mmd(second[pick[1]].double(), first[pick[0]].double())))
    assert found.value == pytest.approx(np.mean(values), rel=1e-4)
    assert found.interval is not None
    half = 1.959964 * np.std(values) * math.sqrt(20 / 30)
    assert found.interval[1] - found.value == pytest.approx(half, rel=1e-4)


def test_kernel_interval_covers_what_new_samples_do():
    values, halves = [], []
    for trial in range(40):
        one = kernel_estimate(cloud(200, 3, seed=2 * trial), cloud(200, 3, shift=0.7, seed=2 * trial + 1), size=40)
        assert one.interval is not None
        values.append(one.value)
        halves.append((one.interval[1] - one.interval[0]) / 2 / 1.959964)
    assert np.mean(halves) == pytest.approx(np.std(values), rel=0.35)


def test_kernel_subsets_are_at_most_half():
    assert distribution.subset_size(300, 1000) == 150 and distribution.subset_size(5000, 1000) == 1000
    assert kernel_estimate(cloud(8), cloud(9, seed=1), subsets=3).interval is not None


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("part_by_part", [False, True])
def test_precision_and_recall_against_brute_force(monkeypatch, neighbours, part_by_part):
    if part_by_part:  # the way of large sets
        monkeypatch.setattr(distribution, "COMPARABLE", 16)
    generated, reference = cloud(40, 2), cloud(30, 2, shift=1.5, scale=0.8, seed=1)

    def covered(points: np.ndarray, by: np.ndarray) -> list[bool]:
        radii = [sorted(math.dist(a, b) for b in by)[neighbours] for a in by]  # the first is the point itself
        return [any(math.dist(p, a) <= radius for a, radius in zip(by, radii, strict=True)) for p in points]

    precision, recall = precision_recall(generated, reference, neighbours=neighbours)
    expected = covered(generated.numpy(), reference.numpy()), covered(reference.numpy(), generated.numpy())
    assert (precision.value, recall.value) == pytest.approx([np.mean(one) for one in expected])
    assert 0 < precision.value < 1 and 0 < recall.value < 1
    for share in (precision, recall):
        assert share.interval is not None and share.interval[0] < share.value < share.interval[1]


@pytest.mark.parametrize("measure", [frechet, frechet_estimate, kernel_estimate, precision_recall])
def test_wrong_features_are_errors_and_never_nan(measure):
    good, bad = cloud(30), cloud(30)
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"`generated`.*finite"):
        measure(bad, good)
    with pytest.raises(ValueError, match="two networks"):
        measure(good, cloud(30, 5))
    with pytest.raises(ValueError, match=r"`reference`.*at least"):
        measure(good, good[:1])


def test_small_sets_keep_their_number_in_the_name():
    assert label("rfid", 5000) == "rfid@5000" and label("rfid", 50_000) == "rfid"


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory) -> Path:
    """Inception with random weights in the layout of torch-fidelity's file."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    patch = pytest.MonkeyPatch()
    patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
    torch.manual_seed(0)
    network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    patch.undo()
    for name, value in network.named_parameters():
        if name.endswith("conv.weight"):  # the variance that keeps activations alive through 48 layers
            torch.nn.init.kaiming_normal_(value)
    torch.save(network.state_dict(), path)
    return path


def scenes(number: int, seed: int = 0, side: int = 64) -> list[np.ndarray]:
    return [render(val_scene(numpy_rng("test scene", seed, n), unseen=bool(n % 2)), side) for n in range(number)]


@pytest.mark.parametrize("side", [64, 320])  # enlarged, made smaller
def test_inception_is_torch_fidelitys(inception_file, side):
    images = study.tensor(scenes(2, side=side))
    network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    ours = Inception(inception_file).train()
    found = ours(images)
    assert found.shape == (2, 2048) and found.std() > 0.01
    assert torch.allclose(found, network(images)[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(Inception(inception_file)(images), found)  # it stayed in evaluation mode
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(images), found)
    with pytest.raises(Exception, match="uint8"):
        ours(images.float())


def test_inception_files_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`inception` .*does not exist"):
        Inception(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not torch-fidelity's Inception"):
        Inception(tmp_path / "other.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Path("x")}, protocol=2))
    with pytest.raises(ValueError, match="not a file of tensors"):
        Inception(tmp_path / "code.pth")


@pytest.mark.slow
def test_a_folder_has_torch_fidelitys_fid_kid_precision_and_recall(inception_file, tmp_path, capsys):
    """`ddt eval distribution` on two folders of PNGs against `calculate_metrics` on the same folders."""
    for name, pictures in (("one", scenes(14)), ("two", scenes(12, seed=1))):
        (tmp_path / name).mkdir()
        for n, image in enumerate(pictures):
            if name == "one":
                image = study.damage(image, "blur", 1.5, numpy_rng("blur", n))
            Image.fromarray(image).save(tmp_path / name / f"{n:03d}.png")
    call = ["eval", "distribution", "--generated", str(tmp_path / "one"), "--reference", str(tmp_path / "two")]
    call += ["--out", str(tmp_path / "scores"), "--inception", str(inception_file), "--few", "true", "--device", "cpu"]
    main([*call, "--subsets", "9", "--subset_size", "5"])
    cards = json.loads((tmp_path / "scores" / "distribution-pictures.json").read_text())
    expected = calculate_metrics(
        input1=str(tmp_path / "one"),
        input2=str(tmp_path / "two"),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        feature_layer_prc="2048",
        kid_subsets=9,
        kid_subset_size=5,
        cache=False,
        verbose=False,
    )
    for key, name in (
        ("gfid@12", "frechet_inception_distance"),
        ("gkid", "kernel_inception_distance_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert cards[f"pictures/{key}"]["value"] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), key
    assert cards["pictures/gfid@12"]["weights"]["inception"] and "Inception 2048" in cards["pictures/gkid"]["protocol"]


def test_shipped_encoder_is_the_one_of_its_card():
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert card["name"] == f"FD-{file_hash(SHIPPED)}"
    assert SHIPPED.stat().st_size < 5e6 and "photographs" in card["for"] and "ddt study encoder" in card["made_by"]
    network = PictureEncoder.load()
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_scene_distance_orders_what_was_done_to_scenes():
    """Two sets of the same distribution are nearest; more of a damage is farther; also for damage it was not taught."""
    network, number = PictureEncoder.load(), 400
    drawn = [val_scene(numpy_rng("order", n), unseen=bool(n % 2)) for n in range(2 * number)]
    images = [render(scene, 64) for scene in drawn]
    seen = study.features(network, images)
    reference, same = seen[:number], seen[number:]
    rng = numpy_rng("order damage")

    def away(changed: list[np.ndarray]) -> float:
        return frechet(study.features(network, changed), reference)

    def damaged(name: str, amount: float) -> float:
        return away([study.damage(image, name, amount, rng) for image in images[number:]])

    floor = frechet(same, reference)
    blur, noise = ([damaged(name, amount) for amount in amounts] for name, amounts in
                   (("blur", (0.7, 1.2, 2.5)), ("noise", (10, 20, 40))))  # fmt: skip
    swapped = away([np.ascontiguousarray(image[..., ::-1]) for image in images[number:]])
    circles = away([render(as_circles(scene), 64) for scene in drawn[number:]])
    pale = away([np.uint8(0.7 * image + 0.3 * 128) for image in images[number:]])
    red = away([render(scene, 64) for scene in drawn[number:] if any(s.colour == "red" for s in scene.shapes)])
    assert blur == sorted(blur) and noise == sorted(noise)
    for value in (*blur[1:], *noise[1:], swapped, circles, pale, red):
        assert value > 1.5 * floor, (floor, blur, noise, swapped, circles, pale, red)
    assert min(blur[-1], noise[-1], swapped, circles) > 5 * floor
    ends = frechet_estimate(same, reference).interval
    assert ends is not None and ends[1] < min(blur[1], noise[1])


def test_encoder_takes_other_sides_and_ignores_autocast():
    network = PictureEncoder.load()
    images = study.tensor(scenes(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(images), network(images[:, :, :, :]).float())
    large = network(study.tensor(scenes(3, side=128)))
    assert (large - network(images)).abs().mean() < 0.5 < (network(images[:1]) - network(images[1:2])).abs().mean()


def test_training_repeats(tmp_path):
    small = ["--steps", "3", "--batch", "4", "--check", "200"]
    for name in "ab":
        main(["study", "encoder", "--out", str(tmp_path / name), *small])
    a, b = ((tmp_path / name / "encoder.safetensors").read_bytes() for name in "ab")
    assert a == b
    card = json.loads((tmp_path / "a" / "encoder.json").read_text())
    assert card["name"] == f"FD-{file_hash(tmp_path / 'a' / 'encoder.safetensors')}"
    assert card["frechet_distance"]["images"] == 200 and 0 <= card["reads"]["cells right"] <= 1
    seen = study.features(
        PictureEncoder.load(tmp_path / "a" / "encoder.safetensors"),
        picture_encoder_scenes.Scenes().clean("new", 0, 300)[0],
    )
    assert seen.mean(0).abs().max() < 0.3 and (seen.std(0) - 1).abs().max() < 0.3  # standardised
    with pytest.raises(ValueError, match="`--check`"):
        study.EncoderStudy(check=10)
    with pytest.raises(ValueError, match="`--lr`"):
        study.EncoderStudy(lr=0)
    with pytest.raises(FileNotFoundError, match="`encoder`"):
        PictureEncoder.load(tmp_path / "none")
    with pytest.raises(ValueError, match="was not written by"):
        PictureEncoder.load(tmp_path / "a" / "encoder.json")


def test_targets_say_what_is_where():
    scene = val_scene(numpy_rng("targets", 3))
    looks, cells, ground = np.split(picture_encoder_scenes.targets(scene), [60, 60 + 256])
    assert looks.sum() == len({(s.kind, s.colour) for s in scene.shapes}) and ground.sum() == 1
    cells = cells.reshape(4, 4, 16)
    for shape in scene.shapes:
        cell = cells[int(shape.y // 16), int(shape.x // 16)]
        assert cell[picture_encoder_scenes.KINDS.index(shape.kind)] == 1
        assert cell[6 + list(picture_encoder_scenes.COLOURS).index(shape.colour)] == 1
