"""The DDT tokenizer: encoder, quantizer and diffusion decoder as one module, latents `[B,c,h,w]` <-> ids `[B,K]`.

Token 0 is the finest and visible at every noise level, token K-1 the coarsest and needed only near pure noise. Source:
DDT-LLaMA section 3.2; Selftok.
"""

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from ddt_lightning.tokens.base import Draws, ImageTokenizer
from ddt_lightning.tokens.decoder import Decoder, DecoderConfig, Modulation
from ddt_lightning.tokens.encoder import Encoder, EncoderConfig
from ddt_lightning.tokens.flow import (
    BANDS,
    TimesConfig,
    expand,
    flow_error,
    guided,
    input_gain,
    interpolate,
    time_grid,
    training_times,
    velocity_from_x0,
)
from ddt_lightning.tokens.fsq import FiniteScalarQuantizer
from ddt_lightning.tokens.modulation import TokenModulation
from ddt_lightning.tokens.quantizer import Quantizer, QuantizerConfig
from ddt_lightning.tokens.schedule import ScheduleConfig, last_visible, visibility, visible_mask
from ddt_lightning.tokens.solvers import Solver, euler, shifted


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything that defines a tokenizer.

    Args:
        tokens: K, ids per image.
        codebook_size: C.
        code_dim: width of a code.
        latent_channels: c; 3 for pixels.
        latent_size: side of the latents; the image's side for pixels.
        patch: side of a patch in latent pixels.
        head: what the decoder outputs. Patches with more values than the decoder is wide need x0.
        loss: the space of the squared error.
        data_variance: variance of the latents; an x0 head is fed `input_gain(t) * x_t` instead of x_t. 0 for plain x_t,
            as a velocity head needs it.
        balance_gradients: scale the gradient of token k by 1 / P(token k is visible), uniform t: the coarse tokens are
            seen in few steps.
        prefix_groups: train the decoder on so many groups of samples with similar numbers of visible tokens, each cut
            to its longest prefix; pays where there are many tokens. The results are the same.
        token_dropout: share of samples trained without tokens, which makes decode guidance possible.
        times: how training times are drawn.
        schedule: which tokens are visible when.
        encoder: sizes of the encoder.
        quantizer: losses and rates of the codebook.
        decoder: sizes of the decoder.
    """

    tokens: int = 32
    codebook_size: int = 512
    code_dim: int = 8
    latent_channels: int = 3
    latent_size: int = 64
    patch: int = 8
    head: Literal["velocity", "x0"] = "x0"
    loss: Literal["velocity", "x0"] = "velocity"
    data_variance: float = 0.0
    balance_gradients: bool = False
    prefix_groups: int = 1
    token_dropout: float = 0.1
    times: TimesConfig = field(default_factory=TimesConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        for name in ("tokens", "codebook_size", "code_dim", "latent_channels", "latent_size", "patch", "prefix_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"`tokenizer.{name}` ({getattr(self, name)}) must be at least 1.")
        if self.latent_size % self.patch:
            raise ValueError(
                f"`tokenizer.latent_size` ({self.latent_size}) must be a multiple of patch ({self.patch})."
            )
        for net in ("encoder", "decoder"):
            side, patches = getattr(self, net).positions, self.latent_size // self.patch
            if side and side < patches:
                raise ValueError(f"`tokenizer.{net}.positions` ({side}) must cover {patches} patches.")
        if self.data_variance and (self.data_variance < 0 or self.head != "x0"):
            raise ValueError(
                f"`tokenizer.data_variance` ({self.data_variance}) must be 0 for a velocity head, and never negative."
            )
        if not 0 <= self.token_dropout < 1:
            raise ValueError(f"`tokenizer.token_dropout` ({self.token_dropout}) must lie in [0, 1).")
        self.schedule.check(self.tokens)

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The config of a `config.json`."""
        parts = {
            "times": TimesConfig,
            "schedule": ScheduleConfig,
            "encoder": EncoderConfig,
            "quantizer": QuantizerConfig,
            "decoder": DecoderConfig,
        }
        return cls(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """X itself, whose gradient is multiplied by `factor` on the way back."""
    return x.detach() + (x - x.detach()) * factor


class Tokenizer(ImageTokenizer):
    """The diffusion timestep tokenizer."""

    kind = "ddt"
    order = "fine_to_coarse"
    error = "flow"
    config_class = TokenizerConfig
    config: TokenizerConfig
    encoder: Encoder
    decoder: Decoder
    quantizer: Quantizer | FiniteScalarQuantizer

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        sizes = (config.latent_channels, config.patch, 2 * config.latent_size // config.patch)
        self.encoder = Encoder(config.encoder, config.tokens, *sizes)
        quantizer = FiniteScalarQuantizer if config.quantizer.levels else Quantizer
        self.quantizer = quantizer(
            config.quantizer, config.tokens, config.codebook_size, config.code_dim, config.encoder.query_width
        )
        self.token_norm = nn.LayerNorm(config.code_dim, eps=1e-6)
        self.decoder = Decoder(config.decoder, config.tokens, config.code_dim, *sizes)

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks of encoder and decoder."""
        return [*self.encoder.blocks, *self.decoder.transformer_blocks]

    def tables(self) -> list[nn.Module]:
        """The parts of blocks that `Decoder.modulations` calls without their blocks."""
        return [module for module in self.decoder.modules() if isinstance(module, TokenModulation)]

    def features(self, latents: Tensor) -> Tensor:
        """Unit vectors `[B, K, code_dim]` before quantisation."""
        return self.quantizer.features(self.encoder(latents))

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to ids int64 `[B, K]`."""
        return self.quantizer.nearest(self.features(latents))

    def embed(self, ids: Tensor) -> Tensor:
        """Ids of the first n tokens `[B, n]` to token vectors `[B, n, code_dim]`."""
        return self.token_norm(self.quantizer.lookup(ids))

    def output(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        visible: Tensor | None,
        modulations: list[Modulation | None] | None = None,
    ) -> Tensor:
        """Output of the decoder's head; arguments as in `velocity`."""
        if self.config.data_variance:
            x_t = expand(input_gain(t, self.config.data_variance), x_t) * x_t
        return self.decoder(x_t, t, tokens, visible, modulations)

    def velocity(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        visible: Tensor | None = None,
        modulations: list[Modulation | None] | None = None,
    ) -> Tensor:
        """Velocity of the flow, whatever the head.

        Args:
            x_t: `[B, c, h, w]`.
            t: `[B]` in [0, 1].
            tokens: `[B, n, code_dim]`; n = 0 is unconditional.
            visible: bool `[B, n]`, or None for all.
            modulations: of the decoder, where many calls share them.

        Returns:
            `[B, c, h, w]`.
        """
        output = self.output(x_t, t, tokens, visible, modulations)
        return velocity_from_x0(x_t, output, t) if self.config.head == "x0" else output

    def grouped_output(self, x_t: Tensor, t: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """`output` for visible prefixes of different lengths, without computing what no sample of a group sees."""
        groups = min(self.config.prefix_groups, len(x_t))
        if groups == 1:
            return self.output(x_t, t, tokens, visible)
        lengths = visible.sum(1)
        order = lengths.argsort()
        modulations = self.decoder.modulations()
        outputs = []
        for group in order.tensor_split(groups):
            longest = int(lengths[group[-1]])
            seen = visible[group, :longest]
            outputs.append(self.output(x_t[group], t[group], tokens[group, :longest], seen, modulations))
        return torch.cat(outputs)[order.argsort()]

    def loss(self, latents: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of one batch; in training mode the codebook is updated too.

        Args:
            latents: `[B, c, h, w]`.
            draws: the step's random numbers.

        Returns:
            The loss and its parts: flow (also by thirds of t), commitment, diversity, codebook health.
        """
        config = self.config
        step = int(self.quantizer.steps)  # before this batch
        quantized = self.quantizer(self.encoder(latents), draws.revival)
        tokens = self.token_norm(quantized.codes)
        if config.balance_gradients:
            tokens = scale_gradient(tokens, 1 / visibility(config.schedule, config.tokens).to(tokens)[:, None])
        t = training_times(draws.times, config.times, step)
        visible = visible_mask(config.schedule, config.tokens, t)
        dropped = draws.drop < config.token_dropout
        visible = visible & ~dropped[:, None]
        x_t = interpolate(latents, draws.noise, t)
        output = self.grouped_output(x_t, t, tokens, visible)
        errors = flow_error(output, x_t, latents, draws.noise, t, config.head, config.loss)
        flow = errors.mean()
        kept, logs = errors.detach()[~dropped], quantized.logs
        for name, (low, high) in BANDS.items():
            band = kept[(t[~dropped] > low) & (t[~dropped] <= high)]
            logs[f"flow_{name}_noise"] = band.mean()  # nan when this batch has none; Lightning's csv leaves it so
        return flow + quantized.loss, {"flow": flow.detach(), **logs}

    @torch.no_grad()
    def decode(
        self,
        ids: Tensor,
        *,
        steps: int = 50,
        decode_guidance: float = 1.0,
        solver: Solver = euler,
        shift: float = 1.0,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Ids to latents by a solver's steps from noise; what is visible follows the schedule at every step.

        Args:
            ids: the first n of K ids, `[B, n]`; n < K shows what the first n tokens carry.
            steps: of the solver.
            decode_guidance: 1 for none, above it away from the unconditional model.
            solver: a function of `solvers.py`.
            shift: of the times; above 1 more of the steps are near noise.
            noise: `[B, c, h, w]` to start from; drawn from `generator` when None.
            generator: CPU generator of the noise.

        Returns:
            Latents `[B, c, h, w]`.
        """
        config = self.config
        device = ids.device
        if noise is None:
            noise = torch.randn((len(ids), *self.latent_shape), generator=generator)
        tokens = self.embed(ids)
        modulations = self.decoder.modulations()

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            times = t.expand(len(x))
            last = int(last_visible(config.schedule, config.tokens, (1000 * t).floor()))
            conditional = self.velocity(x, times, tokens[:, : last + 1], modulations=modulations)
            if decode_guidance == 1.0:
                return conditional
            return guided(conditional, self.velocity(x, times, tokens[:, :0]), decode_guidance)

        return solver(velocity, noise.to(device), shifted(time_grid(steps), shift).to(device))
