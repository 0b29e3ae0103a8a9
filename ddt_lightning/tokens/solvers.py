"""Solvers of the decoder's flow, from noise at t = 1 to data at t = 0: plain functions of a velocity and times.

Each takes `velocity` (called with x `[B, ...]` and the time, a 0-d tensor), x at the first time and a grid of times
that falls from 1 to 0, and returns x at its end. The network is never asked at t = 0. Sources: k-diffusion (Karras et
al. 2022, arXiv 2206.00364) for the style and Heun's last step; DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095); the
shift of times is that of SD3 (Esser et al. 2024, arXiv 2403.03206).
"""

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
Solver = Callable[[Velocity, Tensor, Tensor], Tensor]


def shifted(grid: Tensor, shift: float) -> Tensor:
    """Times moved towards noise for a shift above 1, and towards data below: `shift t / (1 + (shift - 1) t)`.

    Raises:
        ValueError: the shift is not positive.
    """
    if shift <= 0:
        raise ValueError(f"`shift` ({shift}) must be positive; 1 leaves the times as they are.")
    return grid if shift == 1 else shift * grid / (1 + (shift - 1) * grid)


def euler(velocity: Velocity, noise: Tensor, grid: Tensor) -> Tensor:
    """Euler's steps, of first order: `x <- x - (t_i - t_{i+1}) * velocity(x, t_i)`; one call a step."""
    x = noise
    for now, after in pairwise(grid):
        x = x - (now - after) * velocity(x, now)
    return x


def heun(velocity: Velocity, noise: Tensor, grid: Tensor) -> Tensor:
    """Heun's steps, of second order: two calls a step, but one in the last step, which is Euler's."""
    x = noise
    for now, after in pairwise(grid):
        slope = velocity(x, now)
        if after > 0:
            slope = (slope + velocity(x - (now - after) * slope, after)) / 2
        x = x - (now - after) * slope
    return x


def ab2(velocity: Velocity, noise: Tensor, grid: Tensor) -> Tensor:
    """Adams and Bashforth's two-step method, of second order, for uneven steps too; one call a step.

    The velocity is extended through the last one; the first step is Euler's.
    """
    x, last = noise, None
    for now, after in pairwise(grid):
        step, here = now - after, velocity(x, now)
        slope = here
        if last is not None:
            width, before = last
            slope = here + step / (2 * width) * (here - before)
        x, last = x - step * slope, (step, here)
    return x


def dpmpp_2m(velocity: Velocity, noise: Tensor, grid: Tensor) -> Tensor:
    """DPM-Solver++(2M), of second order: x0 is extended through the last one, in the log of the signal-to-noise ratio.

    One call a step. The first two steps and the last one, where that log is infinite, are of first order: Euler's.
    """
    x, last = noise, None
    for now, after in pairwise(grid.tolist()):
        time = noise.new_tensor(now, dtype=grid.dtype)
        x0 = x - time * velocity(x, time)
        guess = x0
        if last is not None and last[0] < 1 and after > 0:
            before, old = last
            ratio = (log_snr(now) - log_snr(before)) / (log_snr(after) - log_snr(now))
            guess = x0 + (x0 - old) / (2 * ratio)
        x, last = after / now * x + (1 - after / now) * guess, (now, x0)
    return x


def log_snr(t: float) -> float:
    """Half of the log of the signal-to-noise ratio at a time in (0, 1)."""
    return math.log((1 - t) / t)


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "ab2": ab2, "dpmpp_2m": dpmpp_2m}
"""{option `solver`: function}."""


def network_calls(solver: str, steps: int) -> int:
    """How often a solver asks the network in so many steps."""
    return 2 * steps - 1 if solver == "heun" else steps
