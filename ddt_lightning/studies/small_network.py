"""Training of the small networks that judge pictures: their settings, and one loop on one thread."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SAID = 100  # steps between two lines about the loss


@dataclass(frozen=True)
class Fitting:
    """Settings of the training of a small network.

    Args:
        steps: optimizer steps.
        batch: pictures in a step.
        lr: largest learning rate; it rises over the first twentieth and falls to 0 by a half cosine.
        seed: of weights, pictures and whatever is changed in them.

    Raises:
        ValueError: naming a number that is too small.
    """

    steps: int
    batch: int
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"`--{name}` ({getattr(self, name)}) must be at least {least}.")
        if not self.lr > 0:
            raise ValueError(f"`--lr` ({self.lr}) must be above 0.")


def fit(
    parameters: Sequence[nn.Parameter],
    settings: Fitting,
    loss_of: Callable[[int], Tensor],
    *,
    weight_decay: float,
    say: Callable[[str], None],
) -> None:
    """Train parameters by AdamW.

    Args:
        parameters: what is trained.
        settings: steps and learning rate.
        loss_of: step -> its loss, a scalar.
        weight_decay: of all parameters.
        say: is told the loss now and then.
    """
    optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=weight_decay)
    rise = max(1, settings.steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / settings.steps)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(settings.steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if (step + 1) % SAID == 0 or step + 1 == settings.steps:
            say(f"step {step + 1} of {settings.steps}: loss {loss.item():.3f}")


@contextmanager
def one_thread() -> Iterator[None]:
    """A block on one thread: sums over several threads would round in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
