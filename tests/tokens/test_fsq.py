"""Finite scalar quantisation against its definition, and behind the tokenizer's face."""

import itertools

import pytest
import torch

from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.fsq import FiniteScalarQuantizer
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.tokenizer import Draws, Tokenizer, TokenizerConfig, scale_gradient
from ddt_lightning.tokens.usage import entropy

LEVELS, K, WIDTH = [4, 3, 5], 6, 16


def build(**options) -> FiniteScalarQuantizer:
    torch.manual_seed(0)
    config = QuantizerConfig(**{"levels": LEVELS, "warmup_steps": 0, **options})
    return FiniteScalarQuantizer(config, K, 60, 7, WIDTH).train()


def queries(seed=1, batch=5):
    return 3 * torch.randn(batch, K, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_ids_and_levels_are_one_to_one():
    quantizer = build()
    grid = quantizer.levels(torch.arange(60))
    wanted = {
        tuple(round(2 * level / (count - 1) - 1, 4) for level, count in zip(levels, LEVELS, strict=True))
        for levels in itertools.product(*(range(count) for count in LEVELS))
    }
    assert {tuple(round(float(x), 4) for x in row) for row in grid} == wanted
    # a feature that lies on a level is rounded to it
    centred = grid * (torch.tensor(LEVELS) - 1) / 2
    assert torch.equal(quantizer.nearest(centred), torch.arange(60))


def test_bounded_features_reach_every_level_and_no_further():
    quantizer = build()
    with torch.no_grad():
        quantizer.project_in.weight.zero_()
        for value, level in ((-50.0, [0, 0, 0]), (50.0, [3, 2, 4])):
            quantizer.project_in.bias.fill_(value)
            assert quantizer.rounded(quantizer.features(torch.zeros(1, 1, WIDTH)))[0, 0].tolist() == level


def test_codes_are_those_of_the_ids_and_the_gradient_passes_through():
    quantizer, q = build(), queries().requires_grad_()
    out = quantizer(q, torch.Generator())
    assert torch.allclose(out.codes, quantizer.lookup(out.ids), atol=1e-6)
    assert out.loss.item() == 0
    weights = torch.randn(out.codes.shape)
    (out.codes * weights).sum().backward()
    through, q.grad = q.grad.clone(), None
    smooth = 2 * quantizer.features(q) / (torch.tensor(LEVELS) - 1)
    (quantizer.project_out(smooth) * weights).sum().backward()
    assert torch.allclose(through, q.grad, atol=1e-6)


def test_usage_is_counted_by_position():
    quantizer = build()
    out = quantizer(queries(), torch.Generator())
    batch = torch.nn.functional.one_hot(out.ids, 60).float().mean(0)
    assert torch.allclose(quantizer.usage, 0.3 / 60 + 0.7 * batch, atol=1e-6)
    assert out.logs["position_perplexity"].item() == pytest.approx(entropy(quantizer.usage).exp().mean().item())


def test_a_tokenizer_with_levels_trains_and_round_trips(tmp_path):
    torch.manual_seed(0)
    config = TokenizerConfig(
        tokens=K, codebook_size=60, code_dim=7, latent_size=8, patch=4, balance_gradients=True,
        encoder=EncoderConfig(1, 16, 2, WIDTH, 2), decoder=DecoderConfig(1, 2, 8),
        quantizer=QuantizerConfig(levels=LEVELS, warmup_steps=1),
    )  # fmt: skip
    tokenizer, g = Tokenizer(config).train(), torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 8, 8, generator=g) * 2 - 1
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    losses = []
    draws = Draws(torch.randn(x.shape, generator=g), torch.rand(8, generator=g), torch.ones(8), g)
    for _ in range(40):
        loss, _ = tokenizer.loss(x, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    tokenizer.eval().save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(x)
    assert torch.equal(loaded.encode(x), ids) and torch.equal(loaded.embed(ids), tokenizer.embed(ids))
    with pytest.raises(ValueError, match=r"quantizer\.levels"):
        Tokenizer(TokenizerConfig(codebook_size=61, quantizer=QuantizerConfig(levels=LEVELS)))


def test_scaled_gradients_leave_the_value_alone():
    x = torch.randn(3, 4, 2, requires_grad=True)
    factor = torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None]
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.equal(x.grad, factor.expand(3, 4, 2))
