"""Rectified flow against closed forms."""

import math
from statistics import NormalDist

import pytest
import torch

from ddt_lightning.tokens.flow import (
    TimesConfig,
    flow_error,
    guided,
    input_gain,
    interpolate,
    time_grid,
    training_times,
    velocity_from_x0,
    x0_from_velocity,
)
from ddt_lightning.tokens.solvers import SOLVERS


def pair():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 8, 8, generator=g), torch.randn(4, 3, 8, 8, generator=g)


def test_ends_of_the_path():
    x0, noise = pair()
    assert torch.equal(interpolate(x0, noise, torch.zeros(4)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(4)), noise)


def test_velocity_is_the_derivative_of_the_path():
    x0, noise = (x.double() for x in pair())
    t, h = torch.rand(4).double(), 1e-6
    slope = (interpolate(x0, noise, t + h) - interpolate(x0, noise, t - h)) / (2 * h)
    assert torch.allclose(slope, noise - x0, atol=1e-7)


def test_heads_convert_into_each_other():
    x0, noise = pair()
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    x_t = interpolate(x0, noise, t)
    assert torch.allclose(velocity_from_x0(x_t, x0, t), noise - x0, atol=1e-5)
    assert torch.allclose(x0_from_velocity(x_t, noise - x0, t), x0, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_exact_velocity_leads_to_the_data(steps, solver):
    x0, noise = pair()
    assert torch.allclose(SOLVERS[solver](lambda x, t: noise - x0, noise, time_grid(steps)), x0, atol=1e-5)


@pytest.mark.parametrize("loss", ["velocity", "x0"])
def test_both_heads_measure_the_same_error(loss):
    x0, noise = pair()
    t = torch.tensor([0.2, 0.5, 0.9, 1.0])
    x_t = interpolate(x0, noise, t)
    guess = x0 + 0.1 * noise
    by_x0 = flow_error(guess, x_t, x0, noise, t, "x0", loss)
    by_velocity = flow_error(velocity_from_x0(x_t, guess, t), x_t, x0, noise, t, "velocity", loss)
    assert torch.allclose(by_x0, by_velocity, rtol=1e-4)


def test_spaces_differ_by_t_squared():
    x0, noise = pair()
    t = torch.tensor([0.2, 0.5, 0.9, 1.0])
    args = (torch.zeros_like(x0), interpolate(x0, noise, t), x0, noise, t, "velocity")
    assert torch.allclose(flow_error(*args, "x0"), t**2 * flow_error(*args, "velocity"))


def test_guidance_one_is_none():
    conditional, unconditional = pair()
    assert torch.allclose(guided(conditional, unconditional, 1.0), conditional, atol=1e-6)
    assert torch.allclose(guided(conditional, unconditional, 0.0), unconditional)


def test_training_times_lean_to_noise_and_less_so_later():
    u, config = torch.linspace(0, 1, 1001), TimesConfig(power=2.0, first_power=12.0, fall_steps=500)
    for step, power in ((0, 12.0), (250, 7.0), (500, 2.0), (9999, 2.0)):
        t = training_times(u, config, step)
        assert t.min() == 0 and t.max() == 1
        assert t.mean().item() == pytest.approx(power / (power + 1), abs=1e-3)  # integral of 1 - (1-u)^p
    assert torch.allclose(training_times(u, TimesConfig(power=1.0, fall_steps=0), 0), u, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_logit_normal_times_have_the_quantiles_of_their_law(mean, std):
    law = NormalDist(mean, std)
    config = TimesConfig(power=1.0, fall_steps=0, law="logit_normal", logit_mean=mean, logit_std=std)
    shares = (0.001, 0.1, 0.25, 0.5, 0.9, 0.999)
    wanted = [1 / (1 + math.exp(-law.inv_cdf(share))) for share in shares]
    assert training_times(torch.tensor(shares), config, 0).tolist() == pytest.approx(wanted, rel=1e-4)
    drawn = training_times(torch.rand(200_000, generator=torch.Generator().manual_seed(0)), config, 0)
    assert 0 <= drawn.min() and drawn.max() <= 1
    assert torch.quantile(drawn, torch.tensor(shares)).tolist() == pytest.approx(wanted, abs=0.01)
    leaning = TimesConfig(power=3.0, first_power=9.0, fall_steps=10, law="logit_normal", logit_mean=mean, logit_std=std)
    for step, power in ((0, 9.0), (5, 6.0), (10, 3.0)):  # the start near noise works for any law
        middle = 1 / (1 + math.exp(-law.inv_cdf(1 - 0.5**power)))
        assert training_times(torch.tensor([0.5]), leaning, step).item() == pytest.approx(middle, rel=1e-4)
    with pytest.raises(ValueError, match=r"times.logit_std. \(0\)"):
        TimesConfig(law="logit_normal", logit_std=0)


def test_grid_is_fp32_and_needs_a_step():
    assert time_grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert time_grid(4).dtype == torch.float32
    with pytest.raises(ValueError, match="steps"):
        time_grid(0)


def test_input_gain_is_the_best_linear_estimate():
    g = torch.Generator().manual_seed(0)
    x0, noise = 0.6 * torch.randn(4_000_000, generator=g), torch.randn(4_000_000, generator=g)
    for t in (0.2, 0.5, 0.8):
        x_t = t * noise + (1 - t) * x0
        fitted = (x_t * x0).sum() / x_t.pow(2).sum()
        assert input_gain(torch.tensor([t]), 0.36).item() == pytest.approx(fitted.item(), rel=0.02)
    assert input_gain(torch.tensor([0.0, 1.0]), 0.36).tolist() == pytest.approx([1.0, 0.0])
