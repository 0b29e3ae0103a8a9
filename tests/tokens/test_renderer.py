"""The renderer: what it starts as, who sees whom, files, its discriminator and the perceptual distance."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
import torchvision

from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.training.discriminator import Adversary, AdversaryConfig
from tests.tiny import tiny_model
from tests.tokens.test_tokenizer import build, latents

AS_DECODER = RendererConfig(tokens_see_canvas=True)


def started(tokenizer, config=AS_DECODER):
    renderer = Renderer(config, tokenizer).eval()
    renderer.start_from(tokenizer.decoder, tokenizer.config.head)
    return renderer


@pytest.fixture
def ids():
    return torch.randint(32, (3, 8), generator=torch.Generator().manual_seed(1))


def test_it_starts_as_the_decoder_at_pure_noise(ids):
    tokenizer = build(data_variance=0.35)
    tokens, t = tokenizer.embed(ids), torch.ones(3)
    noise = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = tokenizer.output(noise, t, tokens, None)  # the gain hides the noise at t=1
    assert torch.allclose(started(tokenizer).decode(ids), expected, atol=1e-5)


def test_a_velocity_head_is_turned_into_x0(ids):
    tokenizer = build(head="velocity")
    with torch.no_grad():
        velocity = tokenizer.velocity(torch.zeros(3, 3, 16, 16), torch.ones(3), tokenizer.embed(ids))
    assert torch.allclose(started(tokenizer).decode(ids), -velocity, atol=1e-5)


@pytest.mark.parametrize("see", [False, True])
def test_tokens_see_the_canvas_only_if_asked(ids, see):
    renderer = started(build(data_variance=0.35), RendererConfig(tokens_see_canvas=see))
    seen = []
    for block in renderer.transformer_blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[1].clone()))
    before = renderer.decode(ids)
    with torch.no_grad():
        renderer.canvas += torch.randn_like(renderer.canvas)
    after = renderer.decode(ids)
    half = len(seen) // 2
    same = all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert same != see
    assert not torch.allclose(before, after)


def test_smoothing_starts_with_nothing_and_sees_across_patches(ids, tmp_path):
    tokenizer = build(data_variance=0.35)
    smooth = started(tokenizer, RendererConfig(smooth=4))
    assert torch.equal(smooth.decode(ids), started(tokenizer, RendererConfig()).decode(ids))
    with torch.no_grad():
        smooth.smooth.last.weight.normal_()
    patch = tokenizer.config.patch
    canvas = torch.zeros(1, 3, 16, 16)
    changed = canvas.clone()
    changed[..., patch - 1] = 1.0  # the last column of the first patches
    moved = (smooth.smooth(changed) - smooth.smooth(canvas)).abs().sum((0, 1, 2))
    assert (moved > 0).nonzero()[:, 0].tolist() == list(range(patch - 4, patch + 3))
    smooth.save_pretrained(tmp_path / "smooth")
    assert torch.equal(Renderer.from_pretrained(tmp_path / "smooth", tokenizer).decode(ids), smooth.decode(ids))
    with pytest.raises(ValueError, match=r"`model\.renderer\.smooth` \(-1\)"):
        RendererConfig(smooth=-1)


def test_overlapping_patches_start_as_plain_ones_and_add_up(ids, tmp_path):
    tokenizer = build(data_variance=0.35)
    plain, wide = started(tokenizer, RendererConfig()), started(tokenizer, RendererConfig(overlap=2))
    assert torch.allclose(wide.decode(ids), plain.decode(ids), atol=1e-6)
    with torch.no_grad():
        wide.proj_out.weight.normal_(std=0.1)
        wide.proj_out.bias.normal_(std=0.1)
    wide.save_pretrained(tmp_path)
    drawn = Renderer.from_pretrained(tmp_path, tokenizer).decode(ids)
    assert torch.equal(drawn, wide.decode(ids))
    # torch's transposed convolution adds up the same patches
    states = []
    wide.norm_out.register_forward_hook(lambda module, inputs, output: states.append(output))
    wide.decode(ids)
    patch, side, width = tokenizer.config.patch, wide.side, wide.proj_out.in_features
    reach = patch + 4
    kernel = wide.proj_out.weight.view(reach, reach, 3, width).permute(3, 2, 0, 1)
    grid = states[0].transpose(1, 2).unflatten(2, (side, side))
    expected = F.conv_transpose2d(grid, kernel, stride=patch, padding=2)
    bias = wide.proj_out.bias.view(reach, reach, 3).permute(2, 0, 1)[None]
    expected += F.conv_transpose2d(torch.ones_like(grid[:, :1]), bias, stride=patch, padding=2)
    assert torch.allclose(drawn, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"`model\.renderer\.overlap` \(-1\)"):
        RendererConfig(overlap=-1)


def test_every_token_matters(ids):
    renderer = started(build(data_variance=0.35), RendererConfig())
    reference = renderer.decode(ids)
    for k in range(8):
        other = ids.clone()
        other[:, k] = (other[:, k] + 1) % 32
        assert not torch.allclose(renderer.decode(other), reference), k


def test_files_round_trip_and_know_their_tokenizer(ids, tmp_path):
    tokenizer = build(data_variance=0.35)
    other_sizes = RendererConfig(DecoderConfig(1, 2, 8))
    for name, renderer in (("same", started(tokenizer)), ("own", Renderer(other_sizes, tokenizer).eval())):
        renderer.save_pretrained(tmp_path / name)
        again = Renderer.from_pretrained(tmp_path / name, tokenizer)
        assert torch.equal(again.decode(ids), renderer.decode(ids))
    with pytest.raises(ValueError, match="all 8 ids, not 5"):
        renderer.decode(ids[:, :5])
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Renderer.from_pretrained(tmp_path / "nothing", tokenizer)
    with torch.no_grad():
        tokenizer.token_norm.weight += 1
    with pytest.raises(ValueError, match=f"but this is {tokenizer.fingerprint()}"):
        Renderer.from_pretrained(tmp_path / "same", tokenizer)
    facts = json.loads((tmp_path / "own" / "config.json").read_text())
    facts["tokenizer"], facts["decoder"]["depth"] = tokenizer.fingerprint(), 2
    (tmp_path / "own" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="does not fit"):
        Renderer.from_pretrained(tmp_path / "own", tokenizer)


def test_the_pipeline_renders_whole_images_and_diffuses_prefixes(tmp_path):
    folder = tiny_model(tmp_path / "model")
    plain = Pipeline.from_pretrained(folder)
    images = to_uint8(latents())
    codes = plain.encode(images)
    renderer = started(plain.tokenizer)
    with torch.no_grad():
        renderer.proj_out.weight.normal_()
    renderer.save_pretrained(folder / "renderer")
    rendering = Pipeline.from_pretrained(folder)
    assert torch.equal(rendering.decode(codes), to_uint8(renderer.decode(codes)))
    assert not torch.equal(rendering.decode(codes), plain.decode(codes, steps=4))
    assert torch.equal(rendering.decode(codes[:, :4], steps=4), plain.decode(codes[:, :4], steps=4))
    assert rendering.fingerprints().keys() - plain.fingerprints().keys() == {"renderer"}
    without = Pipeline.from_pretrained(folder, renderer=False)
    assert torch.equal(without.decode(codes, steps=4), plain.decode(codes, steps=4))


def adversary(seed=0):
    return Adversary(AdversaryConfig(width=8, layers=2, lr=1e-2), torch.device("cpu"), seed)


def test_the_discriminator_learns_and_its_loss_moves_only_the_images():
    judge, real, fake = adversary(), latents(8), latents(8, seed=1) * 0.2
    losses = [float(judge.update(real, fake)) for _ in range(30)]
    assert losses[0] == pytest.approx(1.0, abs=0.5)  # hinge of logits near zero
    assert losses[-1] < 0.2 and judge.steps == 30
    for parameter in judge.net.parameters():
        parameter.grad = None
    fake.requires_grad_()
    judge.loss(fake).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.net.parameters())


def test_a_continued_discriminator_equals_an_uninterrupted_one():
    real, fake = latents(4), latents(4, seed=1)
    whole, first, second = adversary(), adversary(), adversary(seed=5)
    for _ in range(4):
        whole.update(real, fake)
    for _ in range(2):
        first.update(real, fake)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.update(real, fake)
    assert second.steps == 4
    pairs = zip(whole.net.parameters(), second.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_adversary_options_are_checked():
    with pytest.raises(ValueError, match="multiple of 8"):
        AdversaryConfig(width=12)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """Random weights in torchvision's layout, and the network."""
    torch.manual_seed(0)
    net = torchvision.models.alexnet(weights=None)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({k: v for k, v in net.state_dict().items() if k.startswith("features.")}, path)
    return path, net.features.eval()


def test_lpips_is_the_published_formula(alexnet):
    path, features = alexnet
    metric = Lpips(path)
    a, b = latents(2, size=64), latents(2, seed=1, size=64)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    linear = {k: v for k, v in metric.net.state_dict().items() if k.startswith("lin")}
    x, y = (a - shift) / scale, (b - shift) / scale
    expected, stage = torch.zeros(2), 0
    with torch.no_grad():
        for layer in features:
            x, y = layer(x), layer(y)
            if isinstance(layer, torch.nn.ReLU):
                apart = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                expected += (apart * linear[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
                stage += 1
    assert stage == 5
    assert torch.allclose(metric(a, b), expected, rtol=1e-4, atol=1e-6)
    assert metric(a, a).abs().max() == 0


def test_lpips_refuses_other_files(alexnet, tmp_path):
    path, _ = alexnet
    with pytest.raises(FileNotFoundError, match="alexnet or vgg16"):
        Lpips(tmp_path / "none.pth")
    weights = torch.load(path, weights_only=True)
    torch.save({"features.0.weight": weights["features.0.weight"]}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="neither AlexNet nor VGG-16"):
        Lpips(tmp_path / "part.pth")
    torch.save({"classifier.weight": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"no features\.\*"):
        Lpips(tmp_path / "head.pth")
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(ValueError, match="not a file of tensors"):
        Lpips(tmp_path / "text.pth")
    with pytest.raises(ValueError, match="at least 32 pixels"):
        Lpips(path)(latents(1), latents(1))


def test_configs_are_plain_data():
    assert dataclasses.asdict(RendererConfig()) == {
        "decoder": None,
        "tokens_see_canvas": False,
        "smooth": 0,
        "overlap": 0,
    }
