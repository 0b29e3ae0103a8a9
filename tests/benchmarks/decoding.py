"""Decoding: all tokens masked at every step, the visible prefix with modulations computed once, the renderer."""

import torch
from sizes import benchmark_config
from timing import side_by_side

from ddt_lightning.tokens.flow import time_grid
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.schedule import visible_mask
from ddt_lightning.tokens.solvers import euler
from ddt_lightning.tokens.tokenizer import Tokenizer

STEPS = {1: 50, 16: 6}
"""Euler steps by batch size; fewer for 16, where the first steps with all tokens weigh more and the gain is smaller."""


def main() -> None:
    """Print the tables."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(benchmark_config()).eval()
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():  # fresh modulations are zero, and would hide a mistake
            parameter.add_(0.02 * torch.randn_like(parameter))
    config = tokenizer.config
    renderer = Renderer(RendererConfig(), tokenizer).eval()
    for batch, steps in STEPS.items():
        ids = torch.randint(config.codebook_size, (batch, config.tokens))
        noise = torch.randn(batch, config.latent_channels, config.latent_size, config.latent_size)

        @torch.no_grad()
        def masked(ids: torch.Tensor = ids, noise: torch.Tensor = noise, steps: int = steps) -> torch.Tensor:
            def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                times = t.expand(len(x))
                visible = visible_mask(config.schedule, config.tokens, (1000 * times).floor() / 1000)
                return tokenizer.velocity(x, times, tokenizer.embed(ids), visible)

            return euler(velocity, noise, time_grid(steps))

        def prefix(ids: torch.Tensor = ids, noise: torch.Tensor = noise, steps: int = steps) -> torch.Tensor:
            return tokenizer.decode(ids, steps=steps, noise=noise)

        def rendered(ids: torch.Tensor = ids) -> torch.Tensor:
            return renderer.decode(ids)

        apart = (masked() - prefix()).abs().max().item()
        side_by_side(
            f"decode, batch {batch}, {steps} steps; largest difference of the first two {apart:.1e}",
            {"all tokens, masked": masked, "visible prefix, modulations once": prefix, "renderer, one step": rendered},
        )


if __name__ == "__main__":
    main()
