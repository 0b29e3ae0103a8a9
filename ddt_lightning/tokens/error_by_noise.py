"""Reconstruction error of a tokenizer's decoder at each noise level, comparable between any two settings.

The training loss does not compare: its space, its times and what is visible differ between settings. Here the noise,
the times and the space of the error are the same for all; tokens are visible as the tokenizer's own schedule says.
"""

import torch
from torch import Tensor

from ddt_lightning.tokens.flow import BANDS, flow_error, interpolate
from ddt_lightning.tokens.schedule import visible_mask
from ddt_lightning.tokens.tokenizer import Tokenizer

TIMES = 4
"""Times in each band, at the middles of equal parts."""


@torch.no_grad()
def band_errors(tokenizer: Tokenizer, latents: Tensor, ids: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Squared error of the x0 that the decoder sees from x_t and the visible tokens, in one step.

    Args:
        tokenizer: in eval mode.
        latents: x0, `[B, c, h, w]`.
        ids: of all tokens of these latents, `[B, K]`.
        noise: standard normal `[B, c, h, w]`.

    Returns:
        For each of `BANDS`, the mean over latents and `TIMES` times of each sample: `[B]`.
    """
    config, tokens = tokenizer.config, tokenizer.embed(ids)
    found = {}
    for name, (low, high) in BANDS.items():
        errors = []
        for part in range(TIMES):
            t = latents.new_full((len(latents),), low + (part + 0.5) / TIMES * (high - low))
            x_t = interpolate(latents, noise, t)
            seen = int(visible_mask(config.schedule, config.tokens, t[:1]).sum())
            output = tokenizer.output(x_t, t, tokens[:, :seen], None)
            errors.append(flow_error(output, x_t, latents, noise, t, config.head, "x0"))
        found[name] = torch.stack(errors).mean(0)
    return found
