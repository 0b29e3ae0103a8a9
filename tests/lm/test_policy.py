"""Policy gradients: against formulas written out in numpy, against closed forms, and against TRL where installed."""

import math

import numpy as np
import pytest
import torch

from ddt_lightning.lm.policy import advantages, exact_kl, k3, policy_loss, scored, undecided


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def draws(seed=0, n=30, c=11, d=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(c, d)), rng.integers(c, size=n)


def test_log_probabilities_and_entropy_against_numpy():
    hidden, head, ids = draws()
    allowed = np.arange(11) % 3 != 1
    ids = np.array([i if allowed[i] else 0 for i in ids])
    logits = 30 * np.tanh(hidden @ head.T / 30) / 0.7
    p = softmax(np.where(allowed, logits, -np.inf))
    tensors = (torch.from_numpy(x) for x in (hidden, head, ids))
    found = scored(*tensors, temperature=0.7, softcap=30.0, allowed=torch.from_numpy(allowed))
    np.testing.assert_allclose(found.chosen, np.log(p[np.arange(30), ids]), atol=1e-5)
    np.testing.assert_allclose(found.all.exp(), p, atol=1e-6)
    np.testing.assert_allclose(found.entropy(), -(p * np.log(np.where(p > 0, p, 1))).sum(-1), atol=1e-5)


def test_advantages_against_numpy():
    rewards = np.random.default_rng(1).random((5, 4))
    centred = rewards - rewards.mean(1, keepdims=True)
    scaled = centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    flat = torch.from_numpy(rewards.flatten())
    np.testing.assert_allclose(advantages(flat, 4), scaled.flatten(), atol=1e-9)
    np.testing.assert_allclose(advantages(flat, 4, scale=False), centred.flatten(), atol=1e-9)
    np.testing.assert_allclose(advantages(flat, 4, limit=0.5), scaled.flatten().clip(-0.5, 0.5), atol=1e-9)


def test_equal_rewards_say_nothing():
    rewards = torch.tensor([1.0, 1, 1, 0, 1, 1, 0.3, 0.3, 0.3])
    assert undecided(rewards, 3).tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert advantages(rewards, 3)[undecided(rewards, 3)].abs().max() == 0


def test_both_divergences_against_numpy_and_k3_is_unbiased():
    rng = np.random.default_rng(2)
    p, q = softmax(rng.normal(size=(3, 6))), softmax(rng.normal(size=(3, 6)))
    want = (p * np.log(p / q)).sum(-1)
    log_p, log_q = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))
    np.testing.assert_allclose(exact_kl(log_p, log_q), want, atol=1e-12)
    every = k3(log_p.flatten(), log_q.flatten()).view(3, 6)
    np.testing.assert_allclose(every, q / p - np.log(q / p) - 1, atol=1e-12)
    assert (every >= 0).all()
    np.testing.assert_allclose((torch.from_numpy(p) * every).sum(-1), want, atol=1e-12)


def test_gradient_of_k3_is_on_average_that_of_the_divergence():
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    other = torch.randn(1, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64).log_softmax(-1)
    (want,) = torch.autograd.grad(exact_kl(logits.log_softmax(-1), other).sum(), logits)
    log_p = logits.log_softmax(-1)[0]
    (found,) = torch.autograd.grad((log_p.exp().detach() * k3(log_p, other[0])).sum(), logits)
    torch.testing.assert_close(found, want)


def test_divergence_over_allowed_ids_alone():
    logits, other = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    closed = torch.tensor([0.0, 0, -math.inf, 0, -math.inf, 0])
    log_p, log_q = (logits + closed).log_softmax(-1), (other + closed).log_softmax(-1)
    kept = closed == 0
    want = (log_p[:, kept].exp() * (log_p[:, kept] - log_q[:, kept])).sum(-1)
    parameter = logits.clone().requires_grad_()
    found = exact_kl((parameter + closed).log_softmax(-1), log_q)
    torch.testing.assert_close(found, want)
    (gradient,) = torch.autograd.grad(found.sum(), parameter)
    assert gradient.isfinite().all()


def test_loss_is_a_mean_over_the_ids_of_each_sample():
    chosen = torch.tensor([-1.0, -2, -3, -1, -1], requires_grad=True)
    row = torch.tensor([0, 0, 0, 2, 2])
    advantage, kl = torch.tensor([1.0, 1, 1, -2, -2]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6])
    total, count = policy_loss(chosen, advantage, kl, row, 3, kl_weight=0.5)
    assert count == 2
    assert total.item() == pytest.approx((-1 + 0.5 * 0.2) + (2 + 0.5 * 0.5))
    (gradient,) = torch.autograd.grad(total, chosen)
    torch.testing.assert_close(gradient, torch.tensor([-1 / 3, -1 / 3, -1 / 3, 1.0, 1.0]))


def test_gradient_of_a_bandit_is_that_of_its_expected_reward():
    """Over all outcomes, weighted by their probability, the loss's gradient is that of minus the mean reward."""
    logits = torch.tensor([[0.3, -0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 0.4], dtype=torch.float64)
    p = logits.softmax(-1)[0]
    (want,) = torch.autograd.grad(-(p * rewards).sum(), logits)
    found = torch.zeros_like(logits)
    for first in range(3):
        for second in range(3):
            drawn = torch.tensor([first, second])
            found_here = scored(torch.eye(1, dtype=torch.float64).expand(2, 1), logits.T, drawn)
            # Two samples, compared with each other: r1 - mean = (r1 - r2) / 2, half the advantage on average.
            advantage = advantages(rewards[drawn], 2, scale=False).float()
            total, count = policy_loss(found_here.chosen, advantage, torch.zeros(2), torch.arange(2), 2, kl_weight=0.0)
            (gradient,) = torch.autograd.grad(total / count, logits)
            found += (p[first] * p[second]).detach() * gradient
    torch.testing.assert_close(2 * found, want, atol=1e-6, rtol=1e-5)
