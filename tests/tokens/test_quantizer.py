"""The quantizer against the closed formulas of its losses and moving averages."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vector_quantize_pytorch import VectorQuantize

from ddt_lightning.tokens.diversity import mixed_entropy, position_groups
from ddt_lightning.tokens.quantizer import Quantizer, QuantizerConfig, nearest_codes
from ddt_lightning.tokens.usage import dead_codes, entropy, perplexity_by_position

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


@pytest.mark.parametrize("size", [C, 600])
def test_codes_and_codebook_are_those_of_another_library(size):
    torch.manual_seed(0)
    config = QuantizerConfig(warmup_steps=0, commit_weight=0.7, diversity_weight=0.0, dead_threshold=0.0)
    ours = Quantizer(config, K, size, D, WIDTH).train()
    theirs = VectorQuantize(
        WIDTH, size, codebook_dim=D, decay=0.99, use_cosine_sim=True, commitment_weight=0.7, rotation_trick=False
    ).train()
    theirs.project_out = nn.Identity()
    theirs.project_in.load_state_dict(ours.project_in.state_dict())
    theirs.codebook = ours.codebook
    theirs._codebook.embed_avg.copy_(ours.codebook * (5 * K / size))  # as ours starts, at the weight of uniform use
    for seed in range(6):
        q, same = (queries(seed=seed).requires_grad_() for _ in range(2))
        out = ours(q, draws())
        codes, ids, loss = theirs(same)
        assert torch.equal(out.ids, ids)
        assert torch.allclose(out.codes, codes, atol=1e-6)
        assert torch.allclose(out.loss, loss, rtol=1e-5)
        (out.codes.square().sum() + out.loss).backward()
        (codes.square().sum() + loss).backward()
        assert torch.allclose(q.grad, same.grad, atol=1e-6)
        assert torch.allclose(ours.codebook, theirs.codebook, atol=1e-6)


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


def test_revival_leaves_the_usage_table_a_count_of_ids():
    quantizer = build(dead_threshold=0.9)
    usage, revived = torch.full((K, C), 1 / C), 0
    for seed in range(40):
        out = quantizer(queries(seed=seed), draws(seed))
        kept = 0.99 if seed else 0.3
        usage = kept * usage + (1 - kept) * F.one_hot(out.ids, C).float().mean(0)
        revived += out.logs["revived_codes"].item()
    assert revived > C
    assert torch.allclose(quantizer.usage, usage, atol=1e-6)


def test_dead_codes_are_those_not_hit_for_long():
    table = torch.tensor([[0.5, 0.44, 0.06, 0.0], [0.5, 0.4, 0.1, 0.0]])  # means over uniform: 2, 1.68, 0.32, 0
    assert [dead_codes(table, t).item() for t in (0.0, 0.2, 0.5, 1.9)] == [0, 1, 2, 3]
    quantizer = build(dead_threshold=0.2)
    for step in range(20):
        out = quantizer(queries(batch=20, seed=step), draws(step))
    assert out.logs["dead_codes"].item() == 0
    with torch.no_grad():  # a collapse: every feature is the same
        quantizer.project_in.weight.zero_()
        quantizer.project_in.bias.fill_(1.0)
    dead = [quantizer(queries(), draws(step)).logs["dead_codes"].item() for step in range(300)]
    assert dead[0] == 0 and dead[-1] >= 0.9 * C  # revived codes equal the one in use, and take turns


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


def test_bf16_autocast_changes_nothing():
    plain, mixed = build(), build()
    for seed in range(3):
        q, same = (queries(seed=seed).requires_grad_() for _ in range(2))
        out = plain(q, draws(seed))
        (out.codes.square().sum() + out.loss).backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(mixed.nearest(mixed.features(same)), out.ids)
            again = mixed(same, draws(seed))
        (again.codes.square().sum() + again.loss).backward()
        assert again.codes.dtype == again.loss.dtype == torch.float32
        assert torch.equal(again.ids, out.ids)
        assert torch.allclose(q.grad, same.grad, atol=1e-7)
        assert out.logs.keys() == again.logs.keys()
        assert all(torch.equal(out.logs[name], again.logs[name]) for name in out.logs)
    states = plain.state_dict(), mixed.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


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
def test_the_entropy_and_its_gradient_in_slices(monkeypatch, slice_size):
    monkeypatch.setattr("ddt_lightning.tokens.usage.CACHED", slice_size)
    u = F.normalize(torch.randn(5, K, D, generator=draws(3)), dim=-1).requires_grad_()
    codebook = F.normalize(torch.randn(C, D, generator=draws(4)), dim=-1)
    usage = torch.rand(K, C, generator=draws(5)).softmax(-1)
    mixed = 0.8 * usage + 0.2 * (u @ codebook.T / 0.1).softmax(-1).mean(0)
    whole = 0.5 * (entropy(mixed).mean() + entropy(mixed.view(K // 8, 8, C).mean(1)).mean())
    sliced = mixed_entropy(u, codebook, usage, 0.8, 0.1)
    assert sliced.item() == pytest.approx(whole.item(), rel=1e-6)
    expected = torch.autograd.grad(3 * whole, u)[0]
    codebook.zero_()  # the codebook moves before backward
    gradient = torch.autograd.grad(3 * sliced, u)[0]
    assert (gradient - expected).norm() < 1e-5 * expected.norm()
    quantizer = build()
    quantizer(queries(), draws())
    each = perplexity_by_position(quantizer.usage)
    assert torch.allclose(each, entropy(quantizer.usage).exp(), rtol=1e-6)


@pytest.mark.parametrize("slice_size", [1, 300, 2**22])
@pytest.mark.parametrize("size", [1, 7, 40, 512, 768])
def test_nearest_codes_are_the_first_of_the_largest_products(monkeypatch, slice_size, size):
    monkeypatch.setattr("ddt_lightning.tokens.usage.CACHED", slice_size)
    rows = torch.randint(-2, 3, (50, 3), generator=draws(1)).float()  # whole numbers: exact products, many ties
    codebook = torch.randint(-2, 3, (size, 3), generator=draws(2)).float()
    products = (rows @ codebook.T).tolist()
    assert nearest_codes(rows, codebook).tolist() == [line.index(max(line)) for line in products]
