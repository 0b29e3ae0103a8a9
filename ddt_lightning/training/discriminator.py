"""A discriminator that trains itself beside a LightningModule: own optimiser, own step count, own place in checkpoints.

It is not part of the module's weights. As a second Lightning optimiser it would make every step count twice and need
manual optimisation, which loses gradient clipping, weight averaging and the exact step of a resumed run. Source: patch
discriminator of Isola et al. 2017 (arXiv 1611.07004) with hinge losses; the gradients are averaged over processes here.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ddt_lightning.distributed import summed, world

GROUPS = 8
"""Groups of its normalisation, which leaves samples apart; batch statistics would differ between processes."""


@dataclass(frozen=True)
class AdversaryConfig:
    """A discriminator of image patches.

    Args:
        width: channels of its first layer, a multiple of 8; doubled in each of the others up to eightfold.
        layers: convolutions that halve the side.
        lr: of its AdamW.
    """

    width: int = 64
    layers: int = 3
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % GROUPS or self.layers < 1 or self.lr <= 0:
            raise ValueError(
                f"`adversary.width` ({self.width}) must be a multiple of {GROUPS}, `adversary.layers` ({self.layers}) "
                f"at least 1 and `adversary.lr` ({self.lr}) positive."
            )


def patch_discriminator(config: AdversaryConfig) -> nn.Sequential:
    """Images `[B, 3, H, W]` to one logit for each patch `[B, 1, h, w]`, high for real ones."""
    parts: list[nn.Module] = [nn.Conv2d(3, config.width, 4, 2, 1), nn.LeakyReLU(0.2)]
    width = config.width
    for _ in range(config.layers - 1):
        wider = min(2 * width, 8 * config.width)
        parts += [nn.Conv2d(width, wider, 4, 2, 1), nn.GroupNorm(GROUPS, wider), nn.LeakyReLU(0.2)]
        width = wider
    return nn.Sequential(*parts, nn.Conv2d(width, 1, 3, 1, 1))


class Adversary:
    """A patch discriminator with its optimiser and step count.

    Args:
        config: sizes.
        device: of its weights.
        seed: of its first weights, the same on every process.
    """

    def __init__(self, config: AdversaryConfig, device: torch.device, seed: int) -> None:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            net = patch_discriminator(config)
        self.net = net.to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, betas=(0.5, 0.9))
        self.steps = 0

    def update(self, real: Tensor, fake: Tensor) -> Tensor:
        """One step towards telling real images from fake ones `[B, 3, H, W]`; the hinge loss before it."""
        logits = self.net(torch.cat([real, fake.detach()])).float()
        of_real, of_fake = logits.chunk(2)
        loss = 0.5 * (F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean())
        self.optimizer.zero_grad()
        loss.backward()
        _, processes = world()
        if processes > 1:
            for parameter in self.net.parameters():
                if parameter.grad is not None:
                    parameter.grad = summed(parameter.grad) / processes
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def loss(self, fake: Tensor) -> Tensor:
        """Hinge loss of the generator: only the images get a gradient."""
        frozen = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        return -functional_call(self.net, frozen, (fake,)).float().mean()

    def state_dict(self) -> dict[str, Any]:
        """Everything a continued run needs."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put `state_dict` back."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
