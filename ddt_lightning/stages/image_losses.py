"""Perceptual and GAN losses of decoded images, added to their pixel error.

The networks behind them are no part of a run's weights. The discriminator takes part from a given step on. Source:
VQGAN, Esser et al. 2021 (arXiv 2012.09841); the weights of the losses are those of Selftok, appendix B.2 (0.1 of LPIPS,
0.5 of both from 30,000 steps on).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.features import Lpips
from ddt_lightning.training.discriminator import Adversary, AdversaryConfig


@dataclass(frozen=True)
class ImageLossConfig:
    """Weights of the perceptual and the GAN loss.

    Args:
        lpips: torchvision's weights of AlexNet or VGG-16, or `alexnet` or `vgg16` of `make judges`; without them there
            is no perceptual distance.
        lpips_weight: of the perceptual distance.
        gan_from: step from which a discriminator takes part; None for never.
        gan_weight: of the discriminator.
        gan_lpips_weight: of the perceptual distance from then on.
        adversary: the discriminator.
    """

    lpips: str | None = None
    lpips_weight: float = 0.1
    gan_from: int | None = None
    gan_weight: float = 0.5
    gan_lpips_weight: float = 0.5
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    def __post_init__(self) -> None:
        for name in ("lpips_weight", "gan_weight", "gan_lpips_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`loss.{name}` ({getattr(self, name)}) must not be negative.")
        if self.gan_from is not None and self.gan_from < 0:
            raise ValueError(f"`loss.gan_from` ({self.gan_from}) must not be negative; null is never.")
        object.__setattr__(self, "lpips", find_judge(self.lpips, "loss.lpips"))
        if self.lpips is not None and not Path(self.lpips).is_file():
            raise FileNotFoundError(f"`loss.lpips` ({self.lpips}) does not exist: name torchvision's alexnet or vgg16.")


class ImageLosses:
    """The perceptual loss and the GAN loss of a run, with the networks that they need.

    Args:
        config: which losses, and their weights.
        device: of their weights.
        seed: of the discriminator's first weights.
    """

    def __init__(self, config: ImageLossConfig, device: torch.device, seed: int) -> None:
        self.config = config
        self.lpips = Lpips(config.lpips).to(device) if config.lpips else None
        self.adversary = Adversary(config.adversary, device, seed) if config.gan_from is not None else None

    def loss(self, decoded: Tensor, image: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and each of them; the discriminator takes a step of its own.

        Args:
            decoded: images `[B, 3, H, W]` in [-1, 1], with a gradient.
            image: their originals.
            step: optimizer step of the run.
        """
        terms, logs = self.config, {}
        total = decoded.new_zeros(())
        fooling = terms.gan_from is not None and step >= terms.gan_from
        if self.lpips is not None:
            logs["lpips"] = self.lpips(decoded, image).mean()
            total = total + (terms.gan_lpips_weight if fooling else terms.lpips_weight) * logs["lpips"]
        if fooling and self.adversary is not None:
            logs["discriminator"] = self.adversary.update(image, decoded)
            logs["generator"] = self.adversary.loss(decoded)
            total = total + terms.gan_weight * logs["generator"]
        return total, logs

    def distance(self, decoded: Tensor, image: Tensor) -> dict[str, Tensor]:
        """The perceptual distance of held-out images, `val/lpips`, where weights are given."""
        return {} if self.lpips is None else {"val/lpips": self.lpips(decoded.clamp(-1, 1), image).mean()}

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator in a checkpoint."""
        if self.adversary is not None:
            checkpoint["adversary"] = self.adversary.state_dict()

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Put the discriminator back, where the checkpoint holds one."""
        if self.adversary is not None and "adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["adversary"])
