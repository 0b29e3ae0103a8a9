"""Interface of every image tokenizer, whatever its tokens mean: latents `[B,c,h,w]` <-> ids `[B,K]`, and its files.

The DDT tokenizer (`tokens/tokenizer.py`) and the spatial ones it is compared with (`spatial/`) implement it,
so that pipelines, commands, callbacks and stages need not know which one they hold.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddt_lightning.tokens.solvers import Solver, euler

SCALE = "/scale"  # behind the name of a weight that is stored as int8


class QuantizerFacts(Protocol):
    """Fields that the config of every quantizer has."""

    @property
    def warmup_steps(self) -> int:
        """Training steps without quantisation."""
        ...


class TokenizerFacts(Protocol):
    """Fields that the config of every tokenizer has; it is a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def tokens(self) -> int:
        """K, ids per image."""
        ...

    @property
    def codebook_size(self) -> int:
        """C."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels c of the latents; 3 for pixels."""
        ...

    @property
    def latent_size(self) -> int:
        """Side of the latents; the image's side for pixels."""
        ...

    @property
    def quantizer(self) -> QuantizerFacts:
        """Of the codebook."""
        ...


@dataclass
class Draws:
    """The random numbers of one training step, one row per sample.

    Args:
        noise: standard normal `[B, c, h, w]`.
        times: uniform `[B]`; `training_times` turns them into times.
        drop: uniform `[B]`; a sample below `token_dropout` is trained without tokens.
        revival: CPU generator for dead codes, the same on every process.
    """

    noise: Tensor
    times: Tensor
    drop: Tensor
    revival: torch.Generator


class ImageTokenizer(nn.Module):
    """Base class of image tokenizers.

    Attributes:
        kind: what `config.json` calls it.
        order: in which a language model reads its ids unless told otherwise.
        error: name of the reconstruction error in the logs of `loss`.
        config_class: dataclass of its config, with `from_dict`.
    """

    kind: ClassVar[str]
    order: ClassVar[Literal["fine_to_coarse", "raster"]]
    error: ClassVar[str]
    config_class: ClassVar[Any]
    config: TokenizerFacts
    encoder: nn.Module
    decoder: nn.Module
    quantizer: Any

    def __init__(self, config: TokenizerFacts) -> None:
        super().__init__()
        self.config = config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of an image's latents."""
        return self.config.latent_channels, self.config.latent_size, self.config.latent_size

    @property
    def bits(self) -> float:
        """Bits that an image's ids hold, K log2(C)."""
        return self.config.tokens * math.log2(self.config.codebook_size)

    def encode(self, latents: Tensor) -> Tensor:
        """Latents `[B, c, h, w]` to ids int64 `[B, K]`, without gradient."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """Ids of the first n tokens `[B, n]` to token vectors `[B, n, code_dim]`."""
        raise NotImplementedError

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
        """The first n of K ids, `[B, n]`, to latents `[B, c, h, w]`, without gradient.

        Args:
            ids: n < K shows what the first n tokens carry.
            steps: of a sampler, where there is one.
            decode_guidance: of a sampler; 1 for none.
            solver: of a sampler, a function of `solvers.py`.
            shift: of a sampler's times; 1 for none.
            noise: `[B, c, h, w]` that a sampler starts from; drawn from `generator` when None.
            generator: CPU generator of the noise.
        """
        raise NotImplementedError

    def loss(self, latents: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of latents `[B, c, h, w]` and its parts; in training mode the codebook is updated too."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Sixteen hex digits of the config and the weights: what a token shard names as its tokenizer."""
        return weights_hash(self, json.dumps(asdict(self.config), sort_keys=True))

    def save_pretrained(self, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
        """Write `config.json` and `model.safetensors`, of the weights or of a `state` that was gathered from them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        found = self.state_dict() if state is None else state
        state = {name: value.detach().cpu().contiguous() for name, value in found.items()}
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"kind": self.kind, **asdict(self.config)}, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder written by `save_pretrained`, strictly, in eval mode.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the folder holds another kind of tokenizer, or weights that do not fit the config.
        """
        values = read_config(folder)
        kind = values.pop("kind", None)
        if kind != cls.kind:
            raise ValueError(f"{folder}/config.json describes a {kind!r} tokenizer, not {cls.kind!r}.")
        tokenizer = cls(cls.config_class.from_dict(values))
        try:
            tokenizer.load_state_dict(from_stored(load_file(Path(folder) / "model.safetensors")))
        except RuntimeError as error:
            raise ValueError(f"{folder}/model.safetensors does not fit its config.json: {error}") from error
        return tokenizer.eval()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a tokenizer's folder.

    Raises:
        FileNotFoundError: it or `model.safetensors` is missing.
    """
    for name in ("config.json", "model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"No tokenizer in {folder}: {name} is missing.")
    values: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    return values


def from_stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a file as they are, but int8 ones times the scales of their rows, which a packed folder has."""
    scales = {name: state.pop(name) for name in list(state) if name.endswith(SCALE)}
    for name, scale in scales.items():
        whole = name.removesuffix(SCALE)
        state[whole] = (state[whole].float().flatten(1) * scale[:, None]).view(state[whole].shape)
    return state


def weights_hash(net: nn.Module, config: str = "") -> str:
    """Sixteen hex digits of a network's weights, and of its config where it is given."""
    digest = hashlib.blake2b(config.encode(), digest_size=8)
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
