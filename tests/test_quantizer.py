"""The quantizer against the closed formulas of its losses and moving averages."""

import math

import pytest
import torch
import torch.nn.functional as F

from ddt_lightning.tokens.quantizer import Quantizer, QuantizerConfig, position_groups
from ddt_lightning.tokens.usage import SoftUsage, entropy

K, C, D, WIDTH = 16, 40, 6, 24


def build(**options):
    torch.manual_seed(0)
    plain = {"warmup_steps": 0, "commit_weight": 1.0, "diversity_weight": 1.0}
    return Quantizer(QuantizerConfig(**{**plain, **options}), K, C, D, WIDTH).train()


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def queries(batch=5, seed=1):
    return torch.randn(batch, K, WIDTH, generator=draws(seed))


def test_ids_are_the_largest_cosines_and_codes_are_unit():
    quantizer = build()
    q = queries()
    u = F.normalize(quantizer.project_in(q), dim=-1)
    cosines = torch.einsum("bkd,cd->bkc", u, quantizer.codebook)
    before = quantizer.codebook.clone()
    out = quantizer(q, draws())
    assert torch.equal(out.ids, cosines.argmax(-1))
    assert torch.allclose(out.codes, before[out.ids], atol=1e-6)  # the codebook as it was before this batch
    assert torch.allclose(quantizer.codebook.norm(dim=-1), torch.ones(C), atol=1e-5)


def test_gradient_passes_straight_through():
    quantizer = build(diversity_weight=0.0, commit_weight=0.0)
    q = queries().requires_grad_()
    weights = torch.randn(5, K, D)
    (quantizer(q, draws()).codes * weights).sum().backward()
    through = q.grad.clone()
    q.grad = None
    (quantizer.features(q) * weights).sum().backward()
    assert torch.allclose(through, q.grad, atol=1e-6)


def test_warm_up_passes_features_and_moves_the_codebook():
    quantizer = build(warmup_steps=2)
    q = queries()
    for step in range(3):
        u, before = quantizer.features(q), quantizer.codebook.clone()
        out = quantizer(q, draws(step))
        warming = step < 2
        assert torch.allclose(out.codes, u if warming else before[out.ids], atol=1e-6)
        assert (out.loss.item() == 0) is warming
        assert not torch.equal(quantizer.codebook, before)
    fresh = build(warmup_steps=2).eval()
    assert torch.allclose(fresh(q, draws()).codes, fresh.codebook[fresh.nearest(fresh.features(q))], atol=1e-6)
    restored = build(warmup_steps=2)
    restored.load_state_dict(quantizer.state_dict())
    assert restored(q, draws()).loss.item() != 0  # trained weights do not warm up again


def test_commitment_is_the_mean_over_elements():
    quantizer = build(diversity_weight=0.0)
    q = queries()
    u, before = quantizer.features(q), quantizer.codebook.clone()
    out = quantizer(q, draws())
    assert out.loss.item() == pytest.approx((before[out.ids] - u).pow(2).mean().item(), rel=1e-5)


def test_moving_averages_follow_their_formulas():
    quantizer = build(dead_threshold=0.0)
    sums = hits = None
    for seed in (1, 2):
        q = queries(seed=seed)
        u, before = quantizer.features(q).detach(), quantizer.codebook.clone()
        out = quantizer(q, draws())
        one_hot = F.one_hot(out.ids, C).float()
        if sums is None:
            uniform = 5 * K / C
            sums, hits = before * uniform, torch.full((C,), uniform)
        sums = 0.99 * sums + 0.01 * torch.einsum("bkc,bkd->cd", one_hot, u)
        hits = 0.99 * hits + 0.01 * one_hot.sum((0, 1))
        assert torch.allclose(quantizer.code_sums, sums, atol=1e-5)
        assert torch.allclose(quantizer.code_hits, hits, atol=1e-5)
        assert torch.allclose(quantizer.codebook, F.normalize(sums, dim=-1), atol=1e-5)


def test_usage_table_starts_fast_and_sums_to_one():
    quantizer = build()
    out = quantizer(queries(), draws())
    batch = F.one_hot(out.ids, C).float().mean(0)
    assert torch.allclose(quantizer.usage, 0.3 / C + 0.7 * batch, atol=1e-6)
    previous = quantizer.usage.clone()
    batch = F.one_hot(quantizer(queries(seed=3), draws()).ids, C).float().mean(0)
    assert torch.allclose(quantizer.usage, 0.99 * previous + 0.01 * batch, atol=1e-6)
    assert torch.allclose(quantizer.usage.sum(-1), torch.ones(K), atol=1e-4)


def test_diversity_loss_is_the_gated_mixed_entropy():
    quantizer = build(commit_weight=0.0, dead_threshold=0.0)
    q = queries()
    cosines = quantizer.features(q) @ quantizer.codebook.T
    out = quantizer(q, draws())
    mixed = 0.8 * quantizer.usage + 0.2 * (10 * cosines).softmax(-1).mean(0)
    per_position = entropy(mixed).mean()
    per_group = entropy(mixed.view(K // 8, 8, C).mean(1)).mean()
    usage = entropy(quantizer.usage).exp().mean() / C
    gate = min(0.5, max(0.0, 0.5 - 0.5 * (usage - 0.1) / 0.2))
    assert out.loss.item() == pytest.approx(-(gate * 0.5 * (per_position + per_group)).item(), abs=1e-5)


def test_usage_is_logged_for_each_quarter_of_the_positions():
    quantizer = build()
    logs = quantizer(queries(), draws()).logs
    quarters = [logs[f"position_perplexity_{number}"].item() for number in (1, 2, 3, 4)]
    by_hand = entropy(quantizer.usage).exp().view(4, K // 4).mean(1)
    assert quarters == pytest.approx(by_hand.tolist(), rel=1e-5)
    assert logs["position_perplexity"].item() == pytest.approx(sum(quarters) / 4, rel=1e-5)


@pytest.mark.parametrize(("share", "gate"), [(0.05, 0.5), (0.1, 0.5), (0.2, 0.25), (0.3, 0.0), (0.9, 0.0)])
def test_gate_of_the_diversity_loss(share, gate):
    assert build().diversity_gate(torch.tensor(share * C)).item() == pytest.approx(gate, abs=1e-6)


def test_dead_codes_become_features_of_the_batch_with_all_statistics_reset():
    quantizer = build(dead_threshold=0.5)
    quantizer(queries(), draws())
    dead = torch.arange(4)
    quantizer.code_hits[dead] = 0.0
    q = queries(seed=7)
    u = quantizer.features(q).detach()
    hits = torch.bincount(quantizer.nearest(u).flatten(), minlength=C)
    starved = 0.99 * quantizer.code_hits + 0.01 * hits < 0.5 * 5 * K / C
    out = quantizer(q, draws())
    assert not set(out.ids.unique().tolist()) >= set(dead.tolist())
    assert out.logs["revived_codes"].item() == starved.sum().item() >= 4
    rows = u.flatten(0, 1)
    threshold = 0.5 * 5 * K / C
    for code in dead.tolist():
        if quantizer.code_hits[code] == threshold:
            assert (rows - quantizer.codebook[code]).norm(dim=-1).min() < 1e-5
            assert torch.allclose(quantizer.code_sums[code], quantizer.codebook[code] * threshold, atol=1e-5)
    assert quantizer.code_hits.min() >= threshold - 1e-6


def test_revival_depends_on_its_generator_alone():
    results = []
    for seed in (1, 1, 2):
        quantizer = build(dead_threshold=0.9)
        quantizer(queries(), draws())
        quantizer.code_hits[:5] = 0.0
        quantizer(queries(), draws(seed))
        results.append(quantizer.codebook.clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_eval_changes_nothing():
    quantizer = build().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(queries(), draws())
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_bf16_autocast_does_not_reach_the_codebook():
    quantizer = build()
    q = queries()
    plain = quantizer.nearest(quantizer.features(q))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.nearest(quantizer.features(q)), plain)
        out = quantizer(q, draws())
    assert out.codes.dtype == torch.float32
    assert torch.equal(out.ids, plain)


def test_groups_of_eight():
    assert [position_groups(k) for k in (512, 24, 32, 9, 7)] == [64, 3, 4, 3, 1]


def test_entropy_of_a_uniform_table():
    assert entropy(torch.full((3, 8), 1 / 8)).tolist() == pytest.approx([math.log(8)] * 3, rel=1e-5)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"quantizer\.decay"):
        QuantizerConfig(decay=1.0)
    with pytest.raises(ValueError, match=r"quantizer\.diversity_full"):
        QuantizerConfig(diversity_full=0.5)


@pytest.mark.parametrize("slice_size", [1, 300, 2**22])
def test_soft_usage_and_its_gradient_in_slices(monkeypatch, slice_size):
    monkeypatch.setattr("ddt_lightning.tokens.usage.SLICE", slice_size)
    u = F.normalize(torch.randn(5, K, D, generator=draws(3)), dim=-1).requires_grad_()
    codebook = F.normalize(torch.randn(C, D, generator=draws(4)), dim=-1)
    weights = torch.randn(K, C, generator=draws(5))
    whole = (u @ codebook.T / 0.1).softmax(-1).mean(0)
    sliced = SoftUsage.apply(u, codebook, 0.1)
    assert torch.allclose(sliced, whole, atol=1e-6)
    by_torch = torch.autograd.grad((whole * weights).sum(), u)[0]
    assert torch.allclose(torch.autograd.grad((sliced * weights).sum(), u)[0], by_torch, atol=1e-5)
    quantizer = build()
    features = quantizer.features(queries())
    assert torch.equal(quantizer.nearest(features), (features @ quantizer.codebook.T).argmax(-1))
