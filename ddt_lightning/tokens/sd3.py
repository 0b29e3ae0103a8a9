"""SD3 warm start: the decoder's image stream from a diffusers SD3-medium transformer, everything about tokens new.

Image blocks, patch embedding, position table, timestep embedder and final layer have the same names there. SD3's text
stream is left out on purpose: tokens are not text. Source: DDT-LLaMA section 3.2; Selftok.
"""

import json
import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ddt_lightning.tokens.decoder import Decoder

WEIGHTS = "diffusion_pytorch_model"
TEXT = re.compile(r"context|\badd_|_add_|text_embedder")
"""Parts of SD3's names that belong to its text stream, and of ours that belong to the token stream."""


def decoder_name(name: str) -> str | None:
    """Our name of an SD3 tensor, None for those of the text stream."""
    return None if TEXT.search(name) else name.removeprefix("time_text_embed.")


def sd3_files(folder: Path) -> list[Path]:
    """The safetensors files of a transformer, from a pipeline's folder or from the transformer's own.

    Raises:
        FileNotFoundError: there are none.
    """
    for place in (folder / "transformer", folder):
        index = place / f"{WEIGHTS}.safetensors.index.json"
        if index.is_file():
            return [place / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        if (place / f"{WEIGHTS}.safetensors").is_file():
            return [place / f"{WEIGHTS}.safetensors"]
    raise FileNotFoundError(f"`model.sd3` ({folder}) holds no {WEIGHTS}.safetensors of a diffusers SD3 transformer.")


def read_sd3(folder: str | Path) -> dict[str, Tensor]:
    """Tensors of SD3's image stream under our names."""
    weights: dict[str, Tensor] = {}
    for path in sd3_files(Path(folder)):
        with safe_open(path, "pt") as file:
            named = {name: decoder_name(name) for name in file.keys()}
            weights |= {ours: file.get_tensor(name) for name, ours in named.items() if ours}
    return weights


def warm_start(decoder: Decoder, folder: str | Path) -> int:
    """Copy SD3's image stream into a decoder that predicts the velocity.

    Args:
        decoder: with SD3's depth, heads, latent channels and patch, and `positions` as SD3's table (192 for medium).
        folder: the transformer, as diffusers saves it.

    Returns:
        Number of parameters copied; the position table is a buffer and not among them.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a tensor of the image stream is missing, too many, or of another size.
    """
    weights, state = read_sd3(folder), decoder.state_dict()
    wanted = {name for name in state if not TEXT.search(name)}
    missing, extra = sorted(wanted - weights.keys()), sorted(weights.keys() - wanted)
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"also has {extra[0]}"
        raise ValueError(
            f"`model.sd3` ({folder}) {what} ({len(missing)} missing, {len(extra)} too many): the decoder needs the "
            "depth of an SD3-medium transformer, without query-key norms."
        )
    for name in sorted(wanted):
        if weights[name].shape != state[name].shape:
            fix = "`decoder.positions`" if name == "pos_embed.pos_embed" else "the decoder's sizes"
            raise ValueError(
                f"`model.sd3` ({folder}): {name} is {list(weights[name].shape)} there and {list(state[name].shape)} "
                f"here; change {fix}."
            )
    decoder.load_state_dict(weights, strict=False)  # the token stream stays as it is
    trained = {name for name, _ in decoder.named_parameters()}
    return sum(weights[name].numel() for name in wanted & trained)
