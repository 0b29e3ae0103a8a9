"""Encoder, decoder and the whole tokenizer: who sees whom, prefixes, and files."""

import json

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig, attend
from ddt_lightning.tokens.error_by_noise import band_errors
from ddt_lightning.tokens.flow import TimesConfig
from ddt_lightning.tokens.modulation import position_table, token_positions
from ddt_lightning.tokens.schedule import ScheduleConfig, visible_mask
from ddt_lightning.tokens.tokenizer import Draws, Tokenizer, TokenizerConfig

SMALL = {
    "tokens": 8,
    "codebook_size": 32,
    "code_dim": 4,
    "latent_size": 16,
    "patch": 4,
    "encoder": EncoderConfig(2, 16, 2, 24, 2),
    "decoder": DecoderConfig(2, 2, 16),
}


def build(randomised=True, **options):
    """A small tokenizer; `randomised` fills the zero-initialised modulations, so that every path carries signal."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(**{**SMALL, **options}))
    if randomised:
        with torch.no_grad():
            for parameter in tokenizer.parameters():
                if parameter.abs().sum() == 0:
                    parameter.normal_(std=0.1)
    return tokenizer.eval()


def latents(batch=3, seed=0, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws_for(x, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Draws(torch.randn(x.shape, generator=g), torch.rand(len(x), generator=g), torch.rand(len(x), generator=g), g)


@pytest.mark.parametrize("masked", [False, True])
def test_bf16_attention_on_a_cpu_is_the_fused_one(masked):
    q, k, v = torch.randn(3, 2, 5, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.tensor([True, False, True, True, False])[None, None, None].expand(2, 1, 1, 5) if masked else None
    low, high = ([x.to(dtype).requires_grad_() for x in (q, k, v)] for dtype in (torch.bfloat16, torch.float32))
    rounded, exact = (attend(*parts, 4, mask) for parts in (low, high))
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), exact, atol=0.03)
    rounded.float().square().sum().backward()
    exact.square().sum().backward()
    for ours, theirs in zip(low, high, strict=True):
        assert torch.allclose(ours.grad.float(), theirs.grad, atol=0.1)


def test_faces():
    tokenizer = build()
    ids = tokenizer.encode(latents())
    assert ids.shape == (3, 8) and ids.dtype == torch.int64
    assert tokenizer.embed(ids[:, :5]).shape == (3, 5, 4)
    assert tokenizer.decode(ids, steps=3).shape == (3, 3, 16, 16)
    features = tokenizer.features(latents())
    assert torch.allclose(features.norm(dim=-1), torch.ones(3, 8), atol=1e-5)


@pytest.mark.parametrize("options", [{"head": "velocity"}, {"head": "x0", "loss": "x0", "data_variance": 0.3}])
def test_band_errors_are_those_of_the_line_through_x_t(options):
    tokenizer, x0 = build(**options), latents()
    ids, noise = tokenizer.encode(x0), torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    found, tokens = band_errors(tokenizer, x0, ids, noise), tokenizer.embed(ids)
    for name, (low, high) in {"low": (0.0, 0.35), "mid": (0.35, 0.7), "high": (0.7, 1.0)}.items():
        errors = []
        for part in (0.125, 0.375, 0.625, 0.875):
            t = torch.full((3,), low + part * (high - low))
            x_t = t[0] * noise + (1 - t[0]) * x0
            with torch.no_grad():
                velocity = tokenizer.velocity(x_t, t, tokens, visible_mask(ScheduleConfig(), 8, t))
            errors.append((x_t - t[0] * velocity - x0).pow(2).mean((1, 2, 3)))
        assert torch.allclose(found[name], torch.stack(errors).mean(0), rtol=1e-4, atol=1e-5)


def test_permuting_images_permutes_ids():
    tokenizer, x = build(), latents()
    assert torch.equal(tokenizer.encode(x)[[2, 0, 1]], tokenizer.encode(x[[2, 0, 1]]))


def test_image_stream_never_sees_the_queries():
    tokenizer = build()
    seen = []
    for block in tokenizer.encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0].clone()))
    tokenizer.encode(latents())
    before = list(seen)
    seen.clear()
    with torch.no_grad():
        tokenizer.encoder.query_tokens.normal_()
    tokenizer.encode(latents())
    assert all(torch.equal(a, b) for a, b in zip(before, seen, strict=True))


def test_masked_equals_truncated_prefix():
    tokenizer, x, t = build(), latents(), torch.tensor([0.3, 0.3, 0.3])
    tokens = tokenizer.embed(tokenizer.encode(latents(seed=1)))
    for count in (0, 1, 5, 8):
        visible = (torch.arange(8) < count).expand(3, 8)
        masked = tokenizer.velocity(x, t, tokens, visible)
        assert torch.allclose(masked, tokenizer.velocity(x, t, tokens[:, :count]), atol=1e-5)


def test_hidden_tokens_do_not_matter_and_visible_ones_do():
    tokenizer, x, t = build(), latents(), torch.full((3,), 0.5)
    tokens = tokenizer.embed(tokenizer.encode(latents(seed=1)))
    visible = visible_mask(tokenizer.config.schedule, 8, t)
    count = int(visible[0].sum())
    plain = tokenizer.velocity(x, t, tokens, visible)
    hidden, shown = tokens.clone(), tokens.clone()
    hidden[:, count:] += 3
    shown[:, count - 1] += 3
    assert torch.allclose(tokenizer.velocity(x, t, hidden, visible), plain, atol=1e-6)
    assert not torch.allclose(tokenizer.velocity(x, t, shown, visible), plain, atol=1e-3)


def test_heads_agree_on_what_a_velocity_is():
    velocity, x0 = build(head="velocity"), build(head="x0")
    x0.load_state_dict(velocity.state_dict())
    x, t, tokens = latents(), torch.full((3,), 0.5), torch.zeros(3, 0, 4)
    assert torch.allclose(x0.velocity(x, t, tokens), (x - velocity.velocity(x, t, tokens)) / 0.5, atol=1e-5)


def test_pure_noise_is_not_looked_at_with_a_known_data_variance():
    tokenizer, tokens, t = build(data_variance=0.35), torch.ones(3, 8, 4), torch.ones(3)
    first, second = tokenizer.output(latents(), t, tokens, None), tokenizer.output(latents(seed=1), t, tokens, None)
    assert torch.allclose(first, second)
    later = torch.full((3,), 0.5)
    assert not torch.allclose(
        tokenizer.output(latents(), later, tokens, None), tokenizer.output(latents(seed=1), later, tokens, None)
    )


def test_decoding_is_a_function_of_noise_and_seed():
    tokenizer = build()
    ids = tokenizer.encode(latents())
    once = tokenizer.decode(ids, steps=2, generator=torch.Generator().manual_seed(5))
    again = tokenizer.decode(ids, steps=2, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    assert torch.equal(once, again)
    assert torch.equal(once, tokenizer.decode(ids, steps=2, noise=noise))


def test_guidance_one_is_none_and_prefix_zero_is_unconditional():
    tokenizer, noise = build(), torch.randn(3, 3, 16, 16)
    ids = tokenizer.encode(latents())
    plain = tokenizer.decode(ids, steps=2, noise=noise)
    assert not torch.allclose(plain, tokenizer.decode(ids, steps=2, noise=noise, decode_guidance=2.0), atol=1e-4)
    none = tokenizer.decode(ids[:, :0], steps=2, noise=noise)
    assert torch.allclose(none, tokenizer.decode(ids, steps=2, noise=noise, decode_guidance=0.0), atol=1e-5)


def test_dropped_samples_are_trained_without_tokens():
    tokenizer, x = build(token_dropout=0.5), latents()
    draws = draws_for(x)
    draws.drop = torch.zeros(3)
    with_tokens = tokenizer.loss(x, draws)[1]["flow"]
    tokenizer.token_norm.bias.data += 2  # changes every token vector
    assert torch.allclose(tokenizer.loss(x, draws)[1]["flow"], with_tokens)
    draws.drop = torch.ones(3)
    assert not torch.allclose(tokenizer.loss(x, draws)[1]["flow"], with_tokens, atol=1e-4)


def test_loss_falls_on_one_batch():
    tokenizer = build(randomised=False).train()
    x = latents(4)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss, logs = tokenizer.loss(x, draws_for(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(logs["flow"]))
    assert losses[-1] < 0.5 * losses[0]


def test_every_trained_parameter_has_a_gradient():
    tokenizer = build().train()
    tokenizer.loss(latents(), draws_for(latents()))[0].backward()
    without = [name for name, p in tokenizer.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_gradient_reaches_the_image_through_the_tokens():
    tokenizer = build().train()
    x = latents()
    draws = draws_for(x)
    draws.drop = torch.ones(3)
    loss, _ = tokenizer.loss(x, draws)
    loss.backward()
    assert tokenizer.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_files_round_trip(tmp_path):
    tokenizer = build(schedule=ScheduleConfig([500, 1000], [6, 2]))
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert torch.equal(loaded.encode(latents()), tokenizer.encode(latents()))
    with torch.no_grad():
        loaded.quantizer.codebook[0, 0] += 1
    assert loaded.fingerprint() != tokenizer.fingerprint()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Tokenizer.from_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "codebook_size": 16}))
    with pytest.raises(ValueError, match="does not fit"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": "vqgan"}))
    with pytest.raises(ValueError, match="vqgan"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tokens": 0}, "tokenizer.tokens"),
        ({"patch": 5}, "tokenizer.latent_size"),
        ({"token_dropout": 1.0}, "tokenizer.token_dropout"),
        ({"decoder": DecoderConfig(2, 2, 16, positions=2)}, "tokenizer.decoder.positions"),
        ({"data_variance": 0.3, "head": "velocity"}, "tokenizer.data_variance"),
        ({"schedule": ScheduleConfig([500, 1000], [3, 3])}, "tokens_per_stage"),
    ],
)
def test_bad_configs_name_the_option(options, named):
    with pytest.raises(ValueError, match=named):
        TokenizerConfig(**{**SMALL, **options})


def test_position_tables():
    table = position_table(3, 8)
    assert token_positions(3).tolist() == [1000, 1008, 1016]
    assert table[1, 0].item() == pytest.approx(torch.sin(torch.tensor(1008.0, dtype=torch.float64)).item(), abs=1e-5)
    assert table[2, 5].item() == pytest.approx(
        torch.cos(torch.tensor(1016 / 10000 ** (1 / 4), dtype=torch.float64)).item(), abs=1e-5
    )
    # the image's table: integer positions without rescaling, columns in the first half
    grid = get_2d_sincos_pos_embed(16, 8, base_size=8, interpolation_scale=1.0, output_type="pt")
    assert torch.allclose(build().encoder.patch_embed.pos_embed[0], grid.float(), atol=1e-6)


def test_groups_of_similar_prefixes_change_nothing():
    x = latents(7)
    times = TimesConfig(power=1.0, fall_steps=0)
    whole, grouped = build(times=times), build(times=times, prefix_groups=3)
    results = []
    for tokenizer in (whole, grouped):
        tokenizer.train()
        draws = draws_for(x)
        draws.drop[2] = 0.0  # a sample without any token
        loss, _ = tokenizer.loss(x, draws)
        loss.backward()
        results.append((loss, [p.grad for p in tokenizer.parameters() if p.grad is not None]))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), rel=1e-5)
    assert len(results[0][1]) == len(results[1][1])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(results[0][1], results[1][1], strict=True))
    shapes = []
    grouped.decoder.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[2].shape))
    grouped.loss(x, draws_for(x))
    assert len(shapes) == 3 and sum(shape[0] for shape in shapes) == 7
    assert shapes[0][1] < shapes[2][1] <= 8


def test_decoding_computes_modulations_once():
    tokenizer = build()
    ids, noise = tokenizer.encode(latents()), torch.randn(3, 3, 16, 16)
    calls = []
    for block in tokenizer.decoder.transformer_blocks[:-1]:
        block.norm1_context.register_forward_hook(lambda *args: calls.append(1))
    decoded = tokenizer.decode(ids, steps=4, noise=noise)
    assert len(calls) == 1  # one block has token modulation
    tokens, x = tokenizer.embed(ids), noise
    for step in range(4):  # every step computes its own, all tokens masked instead of cut
        t = torch.full((3,), 1 - step / 4)
        x = x - 0.25 * tokenizer.velocity(x, t, tokens, visible_mask(ScheduleConfig(), 8, t))
    assert torch.allclose(decoded, x, atol=1e-5)
