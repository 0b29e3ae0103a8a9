"""Training steps of the tokenizers of `stages/gpu/` on a GPU: images a second, and share of the peak (MFU).

The whole batch of a configuration, bf16 autocast, its optimiser, gradient and clipping; random images and noise that
are on the device already. Operations are counted by torch in one step that is run for it, not compiled: prefixes cut
to the longest of their group cost what they cost.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from device import cuda, matmul_peak, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddt_lightning.cost.ledger import attention_flops
from ddt_lightning.tokens.tokenizer import Draws, Tokenizer, TokenizerConfig
from ddt_lightning.training.optim import OptimConfig, build_optimizer

FOLDER = Path(__file__).parents[2] / "stages" / "gpu"
NAMES = ("tok-scenes128", "tok-photos64")


class Training:
    """A tokenizer, its optimiser and one batch.

    Args:
        settings: of a tokenizer stage.
        device: where it is trained.
    """

    def __init__(self, settings: dict[str, Any], device: torch.device) -> None:
        torch.manual_seed(0)
        config = TokenizerConfig.from_dict(settings["model"]["tokenizer"])
        # what is measured is the greater part of a run: quantised, with the times of its end
        config = replace(config, quantizer=replace(config.quantizer, warmup_steps=0))
        config = replace(config, times=replace(config.times, fall_steps=0))
        self.tokenizer = Tokenizer(config).to(device).train()
        self.optimizer = build_optimizer(self.tokenizer, OptimConfig(**settings["model"]["optim"]), 100)["optimizer"]
        self.clip, batch = settings["trainer"]["gradient_clip_val"], settings["data"]["batch_size"]
        self.latents = torch.randn(batch, config.latent_channels, *[config.latent_size] * 2, device=device)
        noise = torch.randn_like(self.latents)
        times = (torch.arange(batch, device=device) + 0.5) / batch
        self.draws = Draws(noise, times, torch.rand(batch, device=device), torch.Generator().manual_seed(0))

    def gradients(self) -> Tensor:
        """Forward and backward; the loss."""
        with torch.autocast(self.latents.device.type, torch.bfloat16):
            loss, _ = self.tokenizer.loss(self.latents, self.draws)
        loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        """A training step; the loss."""
        loss = self.gradients()
        nn.utils.clip_grad_norm_(self.tokenizer.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def flops(self) -> int:
        """Floating-point operations of the gradients of one step; those of muon are not the model's."""
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the one torch does not count itself
        counter = FlopCounterMode(display=False, custom_mapping={attention: attention_flops})
        with counter:
            self.gradients()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def compile(self) -> None:
        """As `model.compile` does."""
        for net in (self.tokenizer.encoder, self.tokenizer.decoder):
            net.compile()


def table(name: str, settings: dict[str, Any], device: torch.device, peak: float) -> None:
    """Print the rows of a configuration."""
    print(
        f"\ntraining step of {name}, batch {settings['data']['batch_size']}, peak {peak / 1e12:,.2f} TFLOP/s by a probe"
    )
    print(f"{'':<44}{'seconds':>10}{'images/s':>10}{'MFU':>8}")
    training = Training(settings, device)
    flops = training.flops()
    for way in ("as it is", "compiled"):
        if way == "compiled":
            training.compile()
        spent = seconds(training.step, device, rounds=10, warm=5)
        images = settings["data"]["batch_size"] / spent
        print(f"{way:<44}{spent:>10.3f}{images:>10,.0f}{flops / spent / peak:>8.2f}", flush=True)


def main() -> None:
    """Print the tables, or that there is no GPU."""
    device = cuda("tokenizers on a GPU")
    if device is None:
        return
    peak = matmul_peak(device)
    for name in NAMES:
        table(name, yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), device, peak)


if __name__ == "__main__":
    main()
