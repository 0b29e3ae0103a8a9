"""Solvers on a flow whose solution is known: data that are normal around a mean."""

import math
from itertools import pairwise

import pytest
import torch

from ddt_lightning.sampling import Decoding
from ddt_lightning.tokens.flow import time_grid
from ddt_lightning.tokens.schedule import last_visible
from ddt_lightning.tokens.solvers import SOLVERS, network_calls, shifted
from tests.tiny import tiny_tokenizer

ORDERS = {"euler": 1, "heun": 2, "ab2": 2, "dpmpp_2m": 2}
MEAN, STD = 0.7, 0.4


def velocity(x, t):
    """Of x0 ~ N(MEAN, STD^2): the expected noise - x0 at x_t = x. The flow carries noise z to MEAN + STD z."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)


def error(solver, steps, shift=1.0):
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    made = SOLVERS[solver](velocity, noise, shifted(time_grid(steps).double(), shift))
    return float((made - (MEAN + STD * noise)).abs().max())


@pytest.mark.parametrize("shift", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_errors_fall_with_the_order_of_the_solver(solver, shift):
    errors = [error(solver, steps, shift) for steps in (256, 512, 1024)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    # near both ends the log of the signal-to-noise ratio is steep, which costs dpmpp_2m a factor log(steps)
    assert orders[-1] == pytest.approx(ORDERS[solver], abs=0.3 if solver == "dpmpp_2m" else 0.1), orders
    if ORDERS[solver] == 2:
        assert errors[0] < error("euler", 256, shift) / 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_calls_are_counted_and_none_is_at_the_data(solver):
    times = []

    def counted(x, t):
        times.append(float(t))
        return velocity(x, t)

    for steps in (1, 2, 9):
        times.clear()
        SOLVERS[solver](counted, torch.zeros(3), time_grid(steps))
        assert len(times) == network_calls(solver, steps) and min(times) > 0 and times[0] == 1


def test_shifted_times():
    grid = time_grid(8)
    assert shifted(grid, 1.0) is grid
    noisy, plain = shifted(grid, 3.0), grid.tolist()
    assert noisy[0] == 1 and noisy[-1] == 0 and bool((noisy[1:-1] > grid[1:-1]).all())
    # SD3: the same signal-to-noise ratio at another resolution, t' / (1 - t') = shift t / (1 - t)
    for now, before in zip(noisy[1:-1].tolist(), plain[1:-1], strict=True):
        assert now / (1 - now) == pytest.approx(3 * before / (1 - before), rel=1e-5)
    assert torch.allclose(shifted(noisy, 1 / 3), grid, atol=1e-6)
    with pytest.raises(ValueError, match=r"`shift` \(0\)"):
        shifted(grid, 0)
    with pytest.raises(ValueError, match=r"`shift` \(-1\)"):
        Decoding(shift=-1)


def test_decoding_by_euler_is_what_it_was_and_others_come_near_it():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():  # fresh modulations are zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    config = tokenizer.config
    ids = torch.randint(config.codebook_size, (2, config.tokens))
    noise = torch.randn(2, *tokenizer.latent_shape)
    known, tokens = noise, tokenizer.embed(ids)
    with torch.no_grad():
        for now, after in pairwise(torch.linspace(1, 0, 6)):
            last = int(last_visible(config.schedule, config.tokens, (1000 * now).floor()))
            known = known - (now - after) * tokenizer.velocity(known, now.expand(2), tokens[:, : last + 1])
    assert torch.allclose(tokenizer.decode(ids, steps=5, noise=noise), known, atol=1e-5)
    fine = tokenizer.decode(ids, steps=200, noise=noise)
    for name, solver in SOLVERS.items():
        made = tokenizer.decode(ids, steps=100, noise=noise, solver=solver)
        assert (made - fine).abs().mean() < 0.05 * (noise - fine).abs().mean(), name
