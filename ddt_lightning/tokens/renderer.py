"""The renderer: all K ids to latents in one step, without noise.

The decoder's transformer with a learned canvas in place of noisy latents, at t=1, where every token is visible; its
output is x0. The encoder and the codebook are those of a trained tokenizer, frozen. It starts as that tokenizer's
decoder at t=1, so that it draws from the first step on. Source: Selftok, appendix B.2, and its `MMDiT_XL_Renderer`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddt_lightning.tokens.base import ImageTokenizer, from_stored
from ddt_lightning.tokens.decoder import Decoder, DecoderConfig, TokenTransformer, unpatchify
from ddt_lightning.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class RendererConfig:
    """Sizes of the renderer.

    Args:
        decoder: sizes of the transformer, which then starts from random weights; None for the sizes and the weights of
            the tokenizer's decoder.
        tokens_see_canvas: whether the tokens attend to the canvas as the decoder's do to the noisy latents.
        smooth: channels of the convolutions behind the patches, which see across their borders; 0 for none.
        overlap: latent pixels by which a patch reaches into its neighbours, where what they draw is added up.
    """

    decoder: DecoderConfig | None = None
    tokens_see_canvas: bool = False
    smooth: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        for name in ("smooth", "overlap"):
            if getattr(self, name) < 0:
                raise ValueError(f"`model.renderer.{name}` ({getattr(self, name)}) must be 0 or more.")


class Smoothing(nn.Module):
    """Two convolutions over the whole latents, added to them: a patch is drawn by itself, and its borders show.

    They begin with adding nothing.

    Args:
        channels: c of the latents.
        width: channels between the two.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 5, padding=2, padding_mode="replicate")
        self.last = nn.Conv2d(width, channels, 3, padding=1, padding_mode="replicate")
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to the same shape."""
        return x + self.last(F.silu(self.first(x)))


def overlaid(patches: Tensor, side: int, patch: int, overlap: int) -> Tensor:
    """Patches that reach over their borders, added up.

    Args:
        patches: `[B, side * side, reach * reach * c]`, row, column, channel, where reach is patch + 2 overlap.
        side: patches in a row.
        patch: distance of two patches in latent pixels.
        overlap: latent pixels by which each reaches into its neighbours. What reaches over the edge is left out.

    Returns:
        Latents `[B, c, side * patch, side * patch]`.
    """
    reach = patch + 2 * overlap
    columns = patches.unflatten(-1, (reach * reach, -1)).permute(0, 3, 2, 1).flatten(1, 2)
    return F.fold(columns, (side * patch, side * patch), reach, padding=overlap, stride=patch)


def within(parameter: Tensor, patch: int, overlap: int) -> Tensor:
    """The rows of the last layer's weight or bias that draw the patch itself, `[patch, patch, c, ...]`."""
    reach = patch + 2 * overlap
    grid = parameter.unflatten(0, (reach, reach, -1))
    return grid[overlap : overlap + patch, overlap : overlap + patch]


class Renderer(TokenTransformer):
    """One-step decoder from all K ids of an image to its latents.

    Args:
        config: sizes.
        tokenizer: whose ids are rendered; not part of the renderer's weights.
    """

    tokenizer: Tokenizer

    def __init__(self, config: RendererConfig, tokenizer: Tokenizer) -> None:
        facts = tokenizer.config
        sizes = config.decoder or facts.decoder
        super().__init__(
            sizes, facts.tokens, facts.code_dim, facts.latent_channels, facts.patch, config.tokens_see_canvas
        )
        self.__dict__["tokenizer"] = tokenizer  # past nn.Module, so that it is no submodule: it is saved by itself
        self.config = config
        self.side = facts.latent_size // facts.patch
        self.canvas = nn.Parameter(sizes.width**-0.5 * torch.randn(1, 1, sizes.width))
        self.positions = nn.Parameter(sizes.width**-0.5 * torch.randn(self.side**2, sizes.width))
        if config.overlap:
            self.proj_out = nn.Linear(sizes.width, (facts.patch + 2 * config.overlap) ** 2 * facts.latent_channels)
            for parameter in self.proj_out.parameters():
                nn.init.zeros_(parameter)
        self.smooth = Smoothing(facts.latent_channels, config.smooth) if config.smooth else nn.Identity()

    @torch.no_grad()
    def start_from(self, decoder: Decoder, head: str) -> None:
        """Take a decoder's weights: the canvas is what it sees of empty latents, the output its estimate of x0.

        Args:
            decoder: of the same sizes.
            head: what the decoder outputs. At t=1 the velocity is noise - x0, whose mean over noise is -x0.
        """
        apart = ("canvas", "positions", "smooth", "proj_out")
        own = {name for name in self.state_dict() if name.partition(".")[0] not in apart}
        self.load_state_dict({name: value for name, value in decoder.state_dict().items() if name in own}, strict=False)
        for ours, theirs in zip(self.proj_out.parameters(), decoder.proj_out.parameters(), strict=True):
            within(ours, self.patch, self.config.overlap).copy_(within(theirs, self.patch, 0))
        empty = torch.zeros(1, self.tokenizer.config.latent_channels, *[self.side * self.patch] * 2)
        bias = decoder.pos_embed.proj.bias
        self.positions.copy_(decoder.pos_embed(empty.to(bias))[0] - bias)
        self.canvas.copy_(bias.expand_as(self.canvas))
        if head == "velocity":
            for parameter in self.proj_out.parameters():
                parameter.neg_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of all tokens `[B, K, code_dim]` to latents `[B, c, h, w]`."""
        image = (self.canvas + self.positions).expand(len(tokens), -1, -1)
        patches = self.transform(image, tokens.new_ones(len(tokens)), tokens, None, None)
        if self.config.overlap:
            return self.smooth(overlaid(patches, self.side, self.patch, self.config.overlap))
        return self.smooth(unpatchify(patches, self.side, self.side, self.patch))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Ids `[B, K]` to latents `[B, c, h, w]`.

        Raises:
            ValueError: not all K ids are given; the renderer was trained on whole images only.
        """
        if ids.shape[1] != self.tokenizer.config.tokens:
            raise ValueError(f"The renderer needs all {self.tokenizer.config.tokens} ids, not {ids.shape[1]}.")
        return self(self.tokenizer.embed(ids))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, which names the tokenizer, and `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        facts = {"kind": "renderer", "tokenizer": self.tokenizer.fingerprint(), **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, tokenizer: ImageTokenizer) -> Self:
        """Load a folder written by `save_pretrained`, strictly, in eval mode.

        Args:
            folder: the renderer's.
            tokenizer: the one it was trained for.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: no renderer, another tokenizer's, or weights that do not fit.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"No renderer in {folder}: {name} is missing.")
        values = json.loads((folder / "config.json").read_text())
        if values.get("kind") != "renderer":
            raise ValueError(f"{folder}/config.json describes a {values.get('kind')!r}, not a 'renderer'.")
        if not isinstance(tokenizer, Tokenizer) or values["tokenizer"] != tokenizer.fingerprint():
            raise ValueError(
                f"{folder} renders the ids of tokenizer {values['tokenizer']}, but this is {tokenizer.fingerprint()}."
            )
        sizes = values["decoder"] and DecoderConfig(**values["decoder"])
        # older renderers say neither
        borders = {name: values.get(name, 0) for name in ("smooth", "overlap")}
        renderer = cls(RendererConfig(sizes, values["tokens_see_canvas"], **borders), tokenizer)
        try:
            renderer.load_state_dict(from_stored(load_file(folder / "model.safetensors")))
        except RuntimeError as error:
            raise ValueError(f"{folder}/model.safetensors does not fit its config.json: {error}") from error
        return renderer.to(next(tokenizer.parameters()).device).eval()
