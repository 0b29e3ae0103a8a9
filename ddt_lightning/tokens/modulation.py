"""Modulation by token index: shift, scale and gate that depend on a token's position alone.

Neither the diffusion time nor the image enters, so one table `[K, 6 D]` serves a whole batch and every sampling
step. Source: Selftok, encoder blocks and the token stream of the decoder (`time_adaln`).
"""

import torch
from torch import Tensor, nn

from ddt_lightning.tokens.parts import TimestepEmbedding, Timesteps

FREQUENCIES = 256
"""Width of the sinusoid of a token's position, as in the timestep embedding of SD3."""


def token_positions(tokens: int, device: torch.device | None = None) -> Tensor:
    """Positions `1000 + 8k` of the tokens, float32 `[K]`; they keep clear of the times 0..1000."""
    return 1000 + 8 * torch.arange(tokens, dtype=torch.float32, device=device)


def position_table(tokens: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed 1-D table of the token positions: float32 `[K, width]`, `[sin | cos]` over `10000^(-j/(width/2))`."""
    rates = torch.arange(width // 2, dtype=torch.float64, device=device) / (width / 2)
    angles = token_positions(tokens, device).double()[:, None] / 10000**rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def open_gates(linear: nn.Linear, width: int) -> None:
    """Start a six-way modulation (shift, scale, gate for attention and MLP) as the identity with both gates at 1.

    The published code starts with closed gates, so that its features do not depend on the image at all for a while.
    Open ones were chosen on short single runs (`stages/README.md`).
    """
    with torch.no_grad():
        linear.bias.zero_()
        for gate in (2, 5):
            linear.bias[gate * width : (gate + 1) * width] = 1.0


class TokenModulation(nn.Module):
    """Shift, scale and gate, for attention and for the MLP, of every token, from its index.

    Args:
        tokens: K.
        width: D.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.sinusoid = Timesteps(FREQUENCIES)
        self.position_embedder = TimestepEmbedding(FREQUENCIES, width)
        self.linear = nn.Linear(width, 6 * width)
        for layer in (self.position_embedder.linear_1, self.position_embedder.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.linear.weight)
        open_gates(self.linear, width)

    def forward(self, tokens: int | None = None) -> tuple[Tensor, ...]:
        """The modulation of the first `tokens` tokens (all without an argument): six tensors `[n, D]`."""
        positions = token_positions(self.tokens if tokens is None else tokens, self.linear.weight.device)
        hidden = self.position_embedder(self.sinusoid(positions).to(self.linear.weight.dtype))
        return self.linear(nn.functional.silu(hidden)).chunk(6, dim=1)
