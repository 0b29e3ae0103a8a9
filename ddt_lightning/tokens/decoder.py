"""Token-conditioned MMDiT: noisy latents, a time and the visible tokens to a velocity (or x0) of the latents.

The SD3 backbone with the text stream given to the image tokens: joint attention over patches and tokens, the patches
modulated by time, the tokens by their index alone. Hidden tokens are masked as attention keys, which equals passing
only the visible prefix; no visible token is the unconditional model. Its parts are named as those of diffusers, so that
the image stream of an SD3 transformer loads. Source: DDT-LLaMA section 3.2, Selftok's `MMDiT_XL`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt_lightning.tokens.encoder import attend, layer_norm
from ddt_lightning.tokens.modulation import FREQUENCIES, TokenModulation, open_gates, position_table
from ddt_lightning.tokens.parts import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    FeedForward,
    JointAttention,
    PatchEmbed,
    TimestepEmbedding,
    Timesteps,
)

Modulation = tuple[Tensor, ...]
"""Six tensors `[K, D]`: shift, scale and gate for attention, then for the MLP."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder.

    Args:
        depth: number of joint blocks; the last one only reads the tokens.
        heads: attention heads.
        head_dim: width of a head; the decoder's width is `heads * head_dim`.
        positions: side of the 2-D position table in patches; 0 for twice that of the latents.
    """

    depth: int = 5
    heads: int = 4
    head_dim: int = 32
    positions: int = 0

    @property
    def width(self) -> int:
        """Width of both streams."""
        return self.heads * self.head_dim


class JointBlock(nn.Module):
    """SD3's joint block, parts named as in diffusers, with the token stream modulated by token index instead of time.

    Args:
        config: sizes.
        tokens: K.
        last: the last block updates only the image stream and modulates the tokens by time, as SD3 does.
        tokens_see_image: whether the tokens attend to the image patches too, or to one another only.
    """

    def __init__(self, config: DecoderConfig, tokens: int, last: bool, tokens_see_image: bool = True) -> None:
        super().__init__()
        width = config.width
        self.last = last
        self.tokens_see_image = tokens_see_image
        self.norm1 = AdaLayerNormZero(width)
        self.norm1_context: nn.Module
        self.attn = JointAttention(width, width, config.heads, last)
        self.ff = FeedForward(width)
        if last:
            self.norm1_context = AdaLayerNormContinuous(width)
            self.attn.add_q_proj.requires_grad_(False)  # the tokens only answer here; kept for reference checkpoints
        else:
            self.norm1_context = TokenModulation(tokens, width)
            self.ff_context = FeedForward(width)

    def modulate_tokens(
        self, tokens: Tensor, condition: Tensor, modulation: Modulation | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed and modulated tokens `[B, n, D]`, and the rest of the modulation (empty in the last block)."""
        if self.last:
            return self.norm1_context(tokens, condition), ()
        count = tokens.shape[1]
        known = self.norm1_context(count) if modulation is None else tuple(part[:count] for part in modulation)
        shift, scale, *rest = known
        return layer_norm(tokens) * (1 + scale) + shift, tuple(rest)

    def forward(
        self,
        image: Tensor,
        tokens: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        modulation: Modulation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One joint step.

        Args:
            image: patches `[B, N, D]`.
            tokens: `[B, n, D]`.
            condition: time embedding `[B, D]`.
            mask: bool `[B, 1, 1, N + n]`, which keys may be seen, or None for all.
            modulation: of all tokens, where it is known already; the last block has none.

        Returns:
            New patches and tokens; the last block returns the tokens unchanged.
        """
        patches = image.shape[1]
        normed, gate_a, shift_m, scale_m, gate_m = self.norm1(image, condition)
        normed_tokens, token_modulation = self.modulate_tokens(tokens, condition, modulation)
        attn = self.attn
        q = attn.to_q(normed)
        if not self.last:
            q = torch.cat([q, attn.add_q_proj(normed_tokens)], dim=1)  # [B, N + n, D]
        k = torch.cat([attn.to_k(normed), attn.add_k_proj(normed_tokens)], dim=1)
        v = torch.cat([attn.to_v(normed), attn.add_v_proj(normed_tokens)], dim=1)
        if self.last or self.tokens_see_image:
            mixed = attend(q, k, v, attn.heads, mask)
        else:
            own = None if mask is None else mask[..., patches:]
            of_tokens = attend(q[:, patches:], k[:, patches:], v[:, patches:], attn.heads, own)
            mixed = torch.cat([attend(q[:, :patches], k, v, attn.heads, mask), of_tokens], dim=1)
        image = image + gate_a[:, None] * attn.to_out[0](mixed[:, :patches])
        image = image + gate_m[:, None] * self.ff(layer_norm(image) * (1 + scale_m[:, None]) + shift_m[:, None])
        if not self.last:
            gate_a, shift_m, scale_m, gate_m = token_modulation
            tokens = tokens + gate_a * attn.to_add_out(mixed[:, patches:])
            tokens = tokens + gate_m * self.ff_context(layer_norm(tokens) * (1 + scale_m) + shift_m)
        return image, tokens


class TokenTransformer(nn.Module):
    """Joint transformer over the patches of an image and its tokens, without what makes the first patches.

    Args:
        config: sizes.
        tokens: K.
        code_dim: width of a token vector.
        channels: latent channels c.
        patch: side of a patch in latent pixels.
        tokens_see_image: see `JointBlock`.
    """

    token_table: Tensor

    def __init__(
        self,
        config: DecoderConfig,
        tokens: int,
        code_dim: int,
        channels: int,
        patch: int,
        tokens_see_image: bool = True,
    ) -> None:
        super().__init__()
        width = config.width
        self.patch = patch
        self.depth = config.depth
        self.sinusoid = Timesteps(FREQUENCIES)
        self.timestep_embedder = TimestepEmbedding(FREQUENCIES, width)
        self.context_embedder = nn.Linear(code_dim, width)
        self.register_buffer("token_table", position_table(tokens, width), persistent=False)
        depth = config.depth
        blocks = [JointBlock(config, tokens, n == depth - 1, tokens_see_image) for n in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_out = AdaLayerNormContinuous(width)
        self.proj_out = nn.Linear(width, patch * patch * channels)
        zeroed = [*(block.get_submodule("norm1.linear") for block in blocks), self.norm_out.linear, self.proj_out]
        zeroed.append(blocks[-1].get_submodule("norm1_context.linear"))
        for layer in zeroed:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        for block in blocks:
            open_gates(block.norm1.linear, width)

    def modulations(self) -> list[Modulation | None]:
        """The token modulation of every block: it depends on the weights alone, so sampling computes it once."""
        tables = [None if block.last else block.get_submodule("norm1_context")() for block in self.transformer_blocks]
        return [table and tuple(part.contiguous() for part in table) for table in tables]  # read at every step

    def transform(
        self,
        image: Tensor,
        t: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        modulations: list[Modulation | None] | None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            image: embedded patches `[B, N, D]`.
            t: times `[B]` in [0, 1].
            tokens: token vectors `[B, n, code_dim]`, the first n of K; n may be 0.
            mask: bool `[B, 1, 1, N + n]`, which patches and tokens may be seen, or None for all.
            modulations: what `modulations` returns, where many calls share it.

        Returns:
            Values of every patch `[B, N, patch * patch * c]`, row, column, channel.
        """
        condition = self.timestep_embedder(self.sinusoid(1000 * t).to(image.dtype))
        context = self.context_embedder(tokens) + self.token_table[: tokens.shape[1]]
        for block, modulation in zip(self.transformer_blocks, modulations or [None] * self.depth, strict=True):
            image, context = block(image, context, condition, mask, modulation)
        return self.proj_out(self.norm_out(image, condition))


def unpatchify(patches: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Patches `[B, height * width, patch * patch * c]` to latents `[B, c, height * patch, width * patch]`."""
    grid = patches.view(len(patches), height, width, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(len(patches), -1, height * patch, width * patch)


class Decoder(TokenTransformer):
    """The network of the flow: noisy latents are its patches.

    Args:
        config: sizes.
        tokens: K.
        code_dim: width of a token vector.
        channels: latent channels c.
        patch: side of a patch in latent pixels.
        positions: side of the 2-D position table in patches, unless the config names one.
    """

    def __init__(
        self, config: DecoderConfig, tokens: int, code_dim: int, channels: int, patch: int, positions: int
    ) -> None:
        super().__init__(config, tokens, code_dim, channels, patch)
        positions = config.positions or positions
        self.pos_embed = PatchEmbed(positions, patch, channels, config.width)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        visible: Tensor | None = None,
        modulations: list[Modulation | None] | None = None,
    ) -> Tensor:
        """Run the network.

        Args:
            x_t: noisy latents `[B, c, h, w]`.
            t: times `[B]` in [0, 1].
            tokens: token vectors `[B, n, code_dim]`, the first n of K; n may be 0.
            visible: bool `[B, n]`, or None when all n are visible.
            modulations: what `modulations` returns, where many calls share it.

        Returns:
            `[B, c, h, w]`, in the space of the tokenizer's head.
        """
        image = self.pos_embed(x_t)
        mask = None
        if visible is not None:
            mask = F.pad(visible, (image.shape[1], 0), value=True)[:, None, None]  # [B, 1, 1, N + n]
        patches = self.transform(image, t, tokens, mask, modulations)
        return unpatchify(patches, x_t.shape[-2] // self.patch, x_t.shape[-1] // self.patch, self.patch)
