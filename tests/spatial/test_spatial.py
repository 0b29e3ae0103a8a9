"""Raster and multi-scale tokenizers: residuals and filler against plain loops, locality, files, options."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from vector_quantize_pytorch import ResidualVQ

from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.spatial.autoencoder import NetsConfig
from ddt_lightning.spatial.residual import ResidualQuantizer
from ddt_lightning.spatial.var import Var, VarConfig
from ddt_lightning.spatial.vqgan import Vqgan, VqganConfig
from ddt_lightning.tokens.base import Draws, ImageTokenizer
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
SMALL = {"codebook_size": 24, "code_dim": 4, "latent_size": 16}
NETS = NetsConfig(patch=2, channels=[8, 8], groups=4)
PLAIN = QuantizerConfig(warmup_steps=0, diversity_weight=0.0)


def vqgan(seed: int = 0, **options) -> Vqgan:
    torch.manual_seed(seed)
    return Vqgan(VqganConfig(**{**SMALL, "nets": NETS, "grid": [2, 4], "quantizer": PLAIN, **options})).eval()


def var(seed: int = 0, **options) -> Var:
    torch.manual_seed(seed)
    return Var(
        VarConfig(**{**SMALL, "nets": NETS, "scales": [1, 2, 4], "phis": 2, "quantizer": PLAIN, **options})
    ).eval()


BOTH = pytest.mark.parametrize("make", [vqgan, var])


def latents(count: int = 5, side: int = 16, seed: int = 3) -> torch.Tensor:
    """Smooth pictures, which few codes can hold."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def draws(x: torch.Tensor, seed: int = 0) -> Draws:
    return Draws(torch.zeros_like(x), x.new_zeros(len(x)), x.new_zeros(len(x)), torch.Generator().manual_seed(seed))


def train(tokenizer: ImageTokenizer, steps: int, lr: float = 3e-3) -> list[float]:
    optimizer = torch.optim.AdamW(tokenizer.train().parameters(), lr=lr)
    errors = []
    for step in range(steps):
        x = latents(16, seed=step % 4)
        loss, logs = tokenizer.loss(x, draws(x, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(logs["pixel"]))
    tokenizer.eval()
    return errors


def residual(scales: list[int], codes: int = 40, seed: int = 0, phis: int = 1) -> ResidualQuantizer:
    torch.manual_seed(seed)
    return ResidualQuantizer(PLAIN, scales, codes, 3, 5, phis, 0.5).eval()


def test_the_shipped_defaults_hold_equally_many_bits():
    made = {}
    for name, kind, config in (
        ("tok", "tokenizer", TokenizerConfig), ("vqgan", "vqgan", VqganConfig), ("var", "var", VarConfig),
    ):  # fmt: skip
        model = yaml.safe_load((ROOT / "stages" / f"{name}.yaml").read_text())["model"]
        cls = {"tok": Tokenizer, "vqgan": Vqgan, "var": Var}[name]
        with torch.device("meta"):
            made[name] = cls(config.from_dict(model[kind]))
    assert {tokenizer.bits for tokenizer in made.values()} == {288.0}
    assert {tokenizer.config.tokens for tokenizer in made.values()} == {32}
    sizes = {name: sum(p.numel() for p in tokenizer.parameters()) for name, tokenizer in made.items()}
    assert sizes["vqgan"] == pytest.approx(sizes["var"], rel=0.02) and sizes["vqgan"] == pytest.approx(2.4e6, rel=0.02)


@BOTH
def test_ids_and_images_have_the_shapes_of_the_face(make):
    tokenizer, x = make(), latents()
    ids = tokenizer.encode(x)
    total = tokenizer.config.tokens
    assert ids.shape == (5, total) and ids.dtype == torch.long and 0 <= int(ids.min()) and int(ids.max()) < 24
    assert tokenizer.embed(ids[:, :3]).shape == (5, 3, 4)
    for n in range(total + 1):
        assert tokenizer.decode(ids[:, :n]).shape == x.shape
    assert torch.equal(tokenizer.decode(ids), tokenizer.decode(ids, steps=3, decode_guidance=7.0, noise=x))
    assert torch.allclose(tokenizer.decode(ids)[:2], tokenizer.decode(ids[:2]), atol=1e-5)


@BOTH
def test_a_training_step_in_eval_mode_is_encode_then_decode(make):
    tokenizer, x = make(), latents()
    with torch.no_grad():
        decoded, _, logs = tokenizer.outcome(x, draws(x))
    assert torch.allclose(decoded, tokenizer.decode(tokenizer.encode(x)), atol=1e-5)
    assert float(logs["pixel"]) == pytest.approx(float((decoded - x).square().mean()), rel=1e-5)
    l1 = make(pixel_loss="l1")
    assert float(l1.loss(x, draws(x))[1]["pixel"]) == pytest.approx(float((decoded - x).abs().mean()), rel=1e-5)


@BOTH
def test_every_weight_learns_from_the_first_step(make):
    for warmup in (0, 5):
        tokenizer, x = make(quantizer=QuantizerConfig(warmup_steps=warmup, diversity_weight=0.0)).train(), latents()
        tokenizer.loss(x, draws(x))[0].backward()
        # data-parallel training fails on weights without a gradient
        assert [name for name, p in tokenizer.named_parameters() if p.grad is None] == []
        assert float(tokenizer.encoder.net.conv_in.weight.grad.abs().sum()) > 0


@BOTH
def test_a_few_steps_of_training_find_the_pictures(make):
    nets = NetsConfig(patch=4 if make is var else 2, channels=[16], groups=4)
    warm = QuantizerConfig(warmup_steps=30, diversity_weight=0.0)
    tokenizer = make(codebook_size=64, nets=nets, quantizer=warm)
    train(tokenizer, 200, 1e-2)
    x = latents(16, seed=0)
    mean = float((x - x.mean(0)).square().mean())  # of the mean picture
    ids = tokenizer.encode(x)
    boundaries = [0, 1, 5, 21] if make is var else [0, 2, 4, 8]  # scales, and half rows
    known = [float((tokenizer.decode(ids[:, :n]) - x).square().mean()) for n in boundaries]
    assert known == sorted(known, reverse=True) and known[-1] < 0.75 * mean, (known, mean)
    assert int(ids.unique().numel()) > 8


@BOTH
def test_files_round_trip_and_the_kind_is_found(make, tmp_path):
    tokenizer = make()
    train(tokenizer, 2)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and loaded.config == tokenizer.config and not loaded.training
    assert loaded.fingerprint() == tokenizer.fingerprint() != make(seed=1).fingerprint()
    assert torch.equal(loaded.decode(loaded.encode(latents())), tokenizer.decode(tokenizer.encode(latents())))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["kind"] == tokenizer.kind
    with pytest.raises(ValueError, match=f"'{tokenizer.kind}' tokenizer, not 'ddt'"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": "other"}))
    with pytest.raises(ValueError, match="'other' tokenizer"):
        load_tokenizer(tmp_path)


def test_the_kind_of_a_ddt_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_tokenizer(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert type(load_tokenizer(tmp_path)) is Tokenizer


def test_cells_of_a_raster_are_in_reading_order():
    tokenizer = vqgan()
    ids = torch.arange(8)[None]
    codes = tokenizer.code_map(ids)
    for row in range(2):
        for column in range(4):
            assert torch.equal(codes[0, :, row, column], tokenizer.quantizer.codebook[4 * row + column])


def test_missing_cells_take_the_mean_code_of_their_place():
    tokenizer = vqgan()
    ids = tokenizer.encode(latents(200))
    counts = torch.stack([(ids == code).float().mean(0) for code in range(24)], dim=1)  # [K, C]
    tokenizer.quantizer.usage.copy_(counts)
    mean = tokenizer.embed(ids).mean(0)  # of every place over the images
    codes = tokenizer.code_map(ids[:3, :5])
    assert torch.allclose(codes[:, :, 1, 1:].flatten(2).mT, mean[5:].expand(3, -1, -1), atol=1e-6)
    whole = tokenizer.code_map(ids[:3])
    assert torch.equal(codes[:, :, 0], whole[:, :, 0]) and not torch.equal(codes[:, :, 1, 1:], whole[:, :, 1, 1:])
    tokenizer.quantizer.usage.copy_(F.one_hot(ids[0], 24).float())  # a place that only knows one code
    assert torch.allclose(tokenizer.decode(ids[:1, :2]), tokenizer.decode(ids[:1]), atol=1e-6)


def test_a_cell_reaches_no_further_than_the_convolutions():
    nets = NetsConfig(patch=1, channels=[4, 4], groups=2, attention=False)
    tokenizer = vqgan(latent_size=64, grid=[4, 4], nets=nets)
    for module in tokenizer.decoder.modules():  # a group norm takes its statistics over the whole map
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    # positions of two pixels: conv_in, two blocks of two convolutions in the middle and two before the enlarging one;
    # pixels: that one, two blocks, conv_out
    reach = 2 * (1 + 4 + 4) + 1 + 4 + 1
    ids = torch.randint(24, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = (tokenizer.decode(ids[:, :12]) - tokenizer.decode(ids)).abs().amax((0, 1, 3))  # by rows of pixels
    assert bool((changed[48:] > 0).all())
    assert float(changed[: 48 - reach].max()) == 0 < float(changed[48 - reach : 48].max())


def plain_residual(quantizer: ResidualQuantizer, features: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """VAR's algorithm 1 for one map `[d, n, n]`, cell by cell, in float64."""
    codes, size = quantizer.codebook.double(), features.shape[-1]
    total, ids = torch.zeros_like(features, dtype=torch.float64), []
    chosen = {1: [0, 0, 0], 2: [0, 1, 1]}[len(quantizer.phis)]
    for number, side in enumerate(quantizer.scales):
        left = F.adaptive_avg_pool2d(features.double() - total, side)
        grid = torch.zeros(codes.shape[1], side, side, dtype=torch.float64)
        for row in range(side):
            for column in range(side):
                distances = [float((left[:, row, column] - code).norm()) for code in codes]
                ids.append(distances.index(min(distances)))
                grid[:, row, column] = codes[ids[-1]]
        wide = F.interpolate(grid[None], size=size, mode="bicubic", align_corners=False)
        phi = quantizer.phis[chosen[number]]
        mixed = F.conv2d(F.pad(wide, (1, 1, 1, 1)), phi.weight.double(), phi.bias.double())
        total = total + (0.5 * wide + 0.5 * mixed)[0]
    return ids, total


@pytest.mark.parametrize("phis", [1, 2])
def test_residual_ids_and_sums_are_those_of_the_algorithm(phis):
    quantizer = residual([1, 2, 4], phis=phis)
    for phi in quantizer.phis:
        nn.init.normal_(phi.weight, std=0.2)
        nn.init.normal_(phi.bias, std=0.2)
    features = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ids, rows, sums = quantizer.walk(features)
        for n in range(3):
            expected, total = plain_residual(quantizer, features[n])
            assert ids[n].tolist() == expected
            assert torch.allclose(sums[-1][n].double(), total, atol=1e-5)
        # a prefix up to a scale is the sum up to it, and what is left for the next scale is the rest of the map
        for n, part in zip((1, 5, 21), sums, strict=True):
            assert torch.allclose(quantizer.total(ids[:, :n]), part, atol=1e-6)
        assert torch.allclose(F.adaptive_avg_pool2d(features - sums[0], 2).flatten(2).mT, rows[:, 1:5], atol=1e-6)
    assert float(quantizer.total(ids[:, :0]).abs().max()) == 0


def test_scales_of_one_cell_are_plain_residual_quantisation():
    quantizer = residual([1, 1, 1])
    reference = ResidualVQ(dim=3, num_quantizers=3, codebook_size=40, shared_codebook=True).eval()
    for layer in reference.layers:
        layer._codebook.embed.data.copy_(quantizer.codebook[None])
        layer._codebook.initted.data.fill_(1)
    features = torch.randn(50, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        codes, ids, _ = reference(features.flatten(2).mT)
        assert torch.equal(quantizer.nearest(features), ids.flatten(1))
        assert torch.allclose(quantizer.total(ids.flatten(1)).flatten(2).mT, codes, atol=1e-5)


def test_with_a_code_of_nothing_every_further_id_brings_the_map_nearer():
    quantizer = residual([4, 4, 4])  # cells of the map's own size: an id touches its cell alone
    quantizer.codebook[0] = 0
    features = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(2)) * 2
    with torch.no_grad():
        ids = quantizer.nearest(features)
        errors = torch.stack([(quantizer.total(ids[:, :n]) - features).flatten(1).norm(dim=1) for n in range(49)])
    assert bool((errors.diff(dim=0) <= 1e-5).all()) and bool((errors[-1] < 0.7 * errors[0]).all())


def test_codes_move_to_the_mean_of_what_chose_them():
    quantizer = residual([1, 2]).train()
    old = quantizer.codebook.clone()
    queries = torch.randn(6, 5, 2, 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ids, rows, _ = quantizer.walk(quantizer.features(queries))
    quantized = quantizer(queries, torch.Generator().manual_seed(0))
    assert torch.equal(quantized.ids, ids)
    uniform, keep = ids.numel() / len(old), PLAIN.decay
    kept = 0
    for code in range(len(old)):
        own = rows[ids == code]
        hits = keep * uniform + (1 - keep) * len(own)
        if hits >= quantizer.dead_hits(6):
            expected = (keep * uniform * old[code] + (1 - keep) * own.sum(0)) / hits
            assert torch.allclose(quantizer.codebook[code], expected, atol=1e-5)
            kept += 1
    assert kept == len(old)
    quantizer.code_hits.fill_(0.0)  # all dead but those of the next batch
    quantizer(queries, torch.Generator().manual_seed(0))
    moved = (torch.cdist(quantizer.codebook, old) > 1e-3).all(1)
    assert int(moved.sum()) > 10


def test_losses_are_those_of_every_partial_sum():
    quantizer = residual([1, 2])
    queries = torch.randn(6, 5, 2, 2, generator=torch.Generator().manual_seed(3), requires_grad=True)
    quantized = quantizer(queries, torch.Generator())
    features = quantizer.features(queries)
    partial = [quantizer.total(quantized.ids[:, :n]) for n in (1, 5)]
    mean = sum((features - part).square().mean() for part in partial) / 2
    assert float(quantized.loss) == pytest.approx(float(mean) * (1 + PLAIN.commit_weight), rel=1e-5)
    weights = torch.randn(6, 3, 2, 2)
    (through,) = torch.autograd.grad((quantized.codes * weights).sum(), queries, retain_graph=True)
    (direct,) = torch.autograd.grad((features * weights).sum(), queries, retain_graph=True)
    assert torch.allclose(through, direct, atol=1e-6)  # as if nothing had been quantised
    (of_phi,) = torch.autograd.grad(quantized.loss, quantizer.phis[0].weight)
    assert float(of_phi.abs().sum()) > 0


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (vqgan, {"grid": [2, 3]}, "`vqgan` has 2 x 3 cells"),
        (vqgan, {"grid": [4]}, r"`vqgan.grid` \(\[4\]\)"),
        (vqgan, {"latent_size": 18}, r"`vqgan.latent_size` \(18\)"),
        (vqgan, {"code_dim": 0}, "`vqgan.code_dim`"),
        (var, {"scales": [2, 1]}, "`var.scales`"),
        (var, {"scales": [1, 3]}, "`var` has 3 x 3 cells"),
        (var, {"phis": 9}, r"`var.phis` \(9\)"),
        (var, {"phi_share": 0.0}, "`var.phi_share`"),
        (var, {"quantizer": QuantizerConfig()}, "`var.quantizer.diversity_weight`"),
    ],
)
def test_bad_configs_name_the_option(make, options, named):
    with pytest.raises(ValueError, match=named):
        make(**options)


def test_bad_nets_name_the_option():
    with pytest.raises(ValueError, match=r"`nets\.channels`"):
        NetsConfig(channels=[12])
    with pytest.raises(ValueError, match=r"`nets.patch` \(0\)"):
        NetsConfig(patch=0)
