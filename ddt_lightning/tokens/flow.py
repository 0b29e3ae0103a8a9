"""Rectified flow: the straight path between data and noise, its losses and its times, as pure functions.

Time convention of the whole project: t=1 is noise, t=0 is data, `x_t = t*noise + (1-t)*x0` and
`velocity = noise - x0`. A network either outputs the velocity or x0; `velocity_from_x0` converts.
Source: rectified flow as used by SD3, DDT-LLaMA (loss on x0) and Selftok (loss on the velocity).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SMALLEST_TIME = 0.2
"""Times below this count as this in the velocity loss of an x0 head: its weight 1/t^2 would let them drown the rest."""

BANDS = {"low": (0.0, 0.35), "mid": (0.35, 0.7), "high": (0.7, 1.0)}
"""Thirds of the noise that errors are reported by: times above the first number, up to the second."""


@dataclass(frozen=True)
class TimesConfig:
    """Law of the training times: the quantile `1 - (1-u)^power` of it is drawn, noisier for a larger power.

    Near pure noise a picture can only come from the tokens, so a start there teaches the encoder to say something
    before the decoder learns to manage without it.

    Args:
        power: after the start; 1 is the law as it is.
        first_power: at the first step.
        fall_steps: training steps over which the power falls from `first_power` to `power`, linearly.
        law: uniform, or logit_normal: the logit of t is normal (SD3; the sampler that Selftok's ablation compares).
        logit_mean: mean of the logit; above 0 leans to noise.
        logit_std: standard deviation of the logit.
    """

    power: float = 2.0
    first_power: float = 30.0
    fall_steps: int = 1500
    law: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("power", "first_power"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`times.{name}` ({getattr(self, name)}) must be positive; 1 draws by the law.")
        if self.fall_steps < 0:
            raise ValueError(f"`times.fall_steps` ({self.fall_steps}) must not be negative.")
        if self.logit_std <= 0:
            raise ValueError(f"`times.logit_std` ({self.logit_std}) must be positive; `times.law: uniform` has none.")


def training_times(u: Tensor, config: TimesConfig, step: int) -> Tensor:
    """Times `[B]` in [0, 1] of a training step, from u `[B]` uniform in [0, 1)."""
    start = max(0.0, 1 - step / config.fall_steps) if config.fall_steps else 0.0
    v = 1 - (1 - u) ** (config.power + start * (config.first_power - config.power))
    if config.law == "uniform":
        return v
    return torch.sigmoid(config.logit_mean + config.logit_std * torch.special.ndtri(v))


def expand(t: Tensor, like: Tensor) -> Tensor:
    """View t `[B]` as `[B, 1, ...]` with as many axes as `like`."""
    return t.view(-1, *[1] * (like.dim() - 1))


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Point on the path, `t*noise + (1-t)*x0`: `[B, ...]` for x0 and noise `[B, ...]`, t `[B]`."""
    t = expand(t, x0)
    return t * noise + (1 - t) * x0


def velocity_from_x0(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Velocity of the straight line from x0 through x_t, `(x_t - x0) / t`; t is kept above 1e-4."""
    return (x_t - x0) / expand(t, x_t).clamp_min(1e-4)


def x0_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Start x0 of the line through x_t with this velocity, `x_t - t*velocity`."""
    return x_t - expand(t, x_t) * velocity


def input_gain(t: Tensor, variance: float) -> Tensor:
    """Factor of the best linear estimate of x0 from x_t, `(1-t) s^2 / ((1-t)^2 s^2 + t^2)`.

    It is 0 at t=1, where x_t says nothing of x0. A network that outputs x0 can do without that noise; one that outputs
    the velocity needs it.

    Args:
        t: times `[B]`.
        variance: s^2, variance of the data.
    """
    signal = (1 - t) * variance
    return signal / ((1 - t) * signal + t**2)


def flow_error(output: Tensor, x_t: Tensor, x0: Tensor, noise: Tensor, t: Tensor, head: str, loss: str) -> Tensor:
    """Squared error of a network's output, in the space of the loss.

    Args:
        output: what the network returned, `[B, c, h, w]`.
        x_t: its input.
        x0: the data.
        noise: the noise.
        t: times `[B]`.
        head: what `output` means, "velocity" or "x0".
        loss: the space of the error, "velocity" or "x0". They differ by the factor t^2.

    Returns:
        Mean squared error per sample, `[B]`.
    """
    axes = tuple(range(1, x0.dim()))
    if head == "velocity":
        error = (output - (noise - x0)).pow(2).mean(axes)
        return error if loss == "velocity" else t**2 * error
    error = (output - x0).pow(2).mean(axes)
    return error if loss == "x0" else error / t.clamp_min(SMALLEST_TIME) ** 2


def time_grid(steps: int) -> Tensor:
    """Sampling times `linspace(1, 0, steps + 1)` in fp32; only this reproduces the reference's visible counts."""
    if steps < 1:
        raise ValueError(f"`steps` ({steps}) must be at least 1.")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float32)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance, `u + guidance * (c - u)`; 1 is the conditional value."""
    return unconditional + guidance * (conditional - unconditional)
