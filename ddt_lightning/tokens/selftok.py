"""Selftok checkpoints in the official layout (`encoder.*`, `model.*`) as a `Tokenizer`: names, sizes, strictly.

Every tensor is renamed by a rule or dropped by name; anything else is an error. Source: SelftokTokenizer's modules, as
described by Selftok; the layout of the published files.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.flow import TimesConfig
from ddt_lightning.tokens.modulation import position_table
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.schedule import ScheduleConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig


@dataclass(frozen=True)
class SelftokSizes:
    """Sizes of a Selftok tokenizer; the defaults are those of the published one with 512 tokens for 256 px.

    Args:
        K: tokens.
        codebook_size: codes.
        code_dim: width of a code.
        stages: ends of the schedule's stages in thousandths of t, separated by commas.
        tokens_per_stage: tokens of each stage, separated by commas.
        encoder_depth: dual blocks.
        image_width: width of the encoder's image stream.
        image_heads: its heads.
        query_width: width of the encoder's query stream.
        query_heads: its heads.
        decoder_depth: joint blocks.
        decoder_heads: their heads.
        head_dim: width of a head of the decoder.
        latent_size: side of the latents.
        latent_channels: their channels.
        patch_size: side of a patch in latent pixels.
        encoder_positions: side of the encoder's position table in patches; 0 for `pos_embed_max_size`.
        pos_embed_max_size: side of the decoder's position table in patches.
    """

    K: int = 512
    codebook_size: int = 32768
    code_dim: int = 16
    stages: str = "200,400,600,800,1000"
    tokens_per_stage: str = "192,184,72,48,16"
    encoder_depth: int = 16
    image_width: int = 64
    image_heads: int = 4
    query_width: int = 512
    query_heads: int = 8
    decoder_depth: int = 24
    decoder_heads: int = 24
    head_dim: int = 64
    latent_size: int = 32
    latent_channels: int = 16
    patch_size: int = 2
    encoder_positions: int = 0
    pos_embed_max_size: int = 192

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Sizes from a json object that names all but `encoder_positions`; sampling facts in it are ignored.

        Raises:
            ValueError: a size is missing, or a name is unknown.
        """
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in values.items() if name not in ("sample_steps", "visible_per_step")}
        missing, unknown = sorted(names - {"encoder_positions"} - given.keys()), sorted(given.keys() - names)
        if missing or unknown:
            raise ValueError(
                f"The sizes lack {', '.join(missing) or 'nothing'} and name unknown {', '.join(unknown) or 'nothing'}."
            )
        return cls(**given)

    def config(self) -> TokenizerConfig:
        """The tokenizer of these sizes, with the published losses and schedule."""
        return TokenizerConfig(
            tokens=self.K,
            codebook_size=self.codebook_size,
            code_dim=self.code_dim,
            latent_channels=self.latent_channels,
            latent_size=self.latent_size,
            patch=self.patch_size,
            head="velocity",
            loss="velocity",
            times=TimesConfig(power=1.0, fall_steps=0),
            schedule=ScheduleConfig(whole_numbers(self.stages), whole_numbers(self.tokens_per_stage)),
            encoder=EncoderConfig(
                depth=self.encoder_depth,
                image_width=self.image_width,
                image_heads=self.image_heads,
                query_width=self.query_width,
                query_heads=self.query_heads,
                positions=self.encoder_positions or self.pos_embed_max_size,
            ),
            quantizer=QuantizerConfig(warmup_steps=0, commit_weight=1.0, diversity_weight=1.0),
            decoder=DecoderConfig(
                depth=self.decoder_depth,
                heads=self.decoder_heads,
                head_dim=self.head_dim,
                positions=self.pos_embed_max_size,
            ),
        )


def whole_numbers(text: str | list[int]) -> list[int]:
    """`"1,2"` or `[1, 2]` as a list of integers."""
    return [int(part) for part in (text.split(",") if isinstance(text, str) else text)]


def swap_halves(x: Tensor) -> tuple[Tensor, ...]:
    """Shift before scale, to scale before shift as diffusers has it."""
    return (torch.cat(x.chunk(2)[::-1]),)


def split_thirds(x: Tensor) -> tuple[Tensor, ...]:
    """A fused q, k, v projection in three."""
    return tuple(x.chunk(3))


def without_first(x: Tensor) -> tuple[Tensor, ...]:
    """`[1, ...]` without its first axis."""
    return (x[0],)


def as_it_is(x: Tensor) -> tuple[Tensor, ...]:
    """The tensor itself."""
    return (x,)


Change = Callable[[Tensor], tuple[Tensor, ...]]
WB = r"\.(?P<p>weight|bias)"
IMAGE, TOKEN = r"model\.joint_blocks\.(?P<i>\d+)\.x_block", r"model\.joint_blocks\.(?P<i>\d+)\.context_block"
ENCODER, BLOCK = r"encoder\.blocks\.(?P<i>\d+)", "decoder.transformer_blocks.{i}"
QKV = ("to_q", "to_k", "to_v")
RULES: list[tuple[str, tuple[str, ...], Change]] = [
    (r"encoder\.pos_embed", ("encoder.patch_embed.pos_embed",), as_it_is),
    (r"encoder\.x_embedder\.proj" + WB, ("encoder.patch_embed.proj.{p}",), as_it_is),
    (r"encoder\.query_tokens", ("encoder.query_tokens",), as_it_is),
    (ENCODER + r"\.attn\.qkv" + WB, ("encoder.blocks.{i}.image_qkv.{p}",), as_it_is),
    (ENCODER + r"\.attn\.proj" + WB, ("encoder.blocks.{i}.image_out.{p}",), as_it_is),
    (ENCODER + r"\.attn\.to_query_kv" + WB, ("encoder.blocks.{i}.image_to_query_kv.{p}",), as_it_is),
    (ENCODER + r"\.attn\.query_linear" + WB, ("encoder.blocks.{i}.query_qkv.{p}",), as_it_is),
    (ENCODER + r"\.attn\.query_proj" + WB, ("encoder.blocks.{i}.query_out.{p}",), as_it_is),
    (ENCODER + r"\.mlp\.fc1" + WB, ("encoder.blocks.{i}.image_ff.net.0.proj.{p}",), as_it_is),
    (ENCODER + r"\.mlp\.fc2" + WB, ("encoder.blocks.{i}.image_ff.net.2.{p}",), as_it_is),
    (ENCODER + r"\.q_mlp\.fc1" + WB, ("encoder.blocks.{i}.query_ff.net.0.proj.{p}",), as_it_is),
    (ENCODER + r"\.q_mlp\.fc2" + WB, ("encoder.blocks.{i}.query_ff.net.2.{p}",), as_it_is),
    (ENCODER + r"\.adaLN_modulation\.1" + WB, ("encoder.blocks.{i}.modulation.linear.{p}",), as_it_is),
    (ENCODER + r"\.t_embedder\.mlp\.0" + WB,
     ("encoder.blocks.{i}.modulation.position_embedder.linear_1.{p}",), as_it_is),
    (ENCODER + r"\.t_embedder\.mlp\.2" + WB,
     ("encoder.blocks.{i}.modulation.position_embedder.linear_2.{p}",), as_it_is),
    (r"encoder\.final_layer_norm3" + WB, ("token_norm.{p}",), as_it_is),
    (r"encoder\.quantizer\.project_in" + WB, ("quantizer.project_in.{p}",), as_it_is),
    (r"encoder\.quantizer\._codebook\.embed", ("quantizer.codebook",), without_first),
    (r"encoder\.quantizer\._codebook\.embed_avg", ("quantizer.code_sums",), without_first),
    (r"encoder\.quantizer\._codebook\.cluster_size", ("quantizer.code_hits",), without_first),
    (r"encoder\.quantizer\._codebook\.timestep_p_over_c", ("quantizer.usage",), without_first),
    (r"model\.pos_embed", ("decoder.pos_embed.pos_embed",), as_it_is),
    (r"model\.x_embedder\.proj" + WB, ("decoder.pos_embed.proj.{p}",), as_it_is),
    (r"model\.t_embedder\.mlp\.0" + WB, ("decoder.timestep_embedder.linear_1.{p}",), as_it_is),
    (r"model\.t_embedder\.mlp\.2" + WB, ("decoder.timestep_embedder.linear_2.{p}",), as_it_is),
    (r"model\.context_embedder" + WB, ("decoder.context_embedder.{p}",), as_it_is),
    (r"model\.context_pos_embed", ("decoder.token_table",), without_first),
    (IMAGE + r"\.attn\.qkv" + WB, tuple(f"{BLOCK}.attn.{part}.{{p}}" for part in QKV), split_thirds),
    (IMAGE + r"\.attn\.proj" + WB, (BLOCK + ".attn.to_out.0.{p}",), as_it_is),
    (IMAGE + r"\.adaLN_modulation\.1" + WB, (BLOCK + ".norm1.linear.{p}",), as_it_is),
    (IMAGE + r"\.mlp\.fc1" + WB, (BLOCK + ".ff.net.0.proj.{p}",), as_it_is),
    (IMAGE + r"\.mlp\.fc2" + WB, (BLOCK + ".ff.net.2.{p}",), as_it_is),
    (TOKEN + r"\.attn\.qkv" + WB,
     tuple(f"{BLOCK}.attn.add_{part[-1]}_proj.{{p}}" for part in QKV), split_thirds),
    (TOKEN + r"\.attn\.proj" + WB, (BLOCK + ".attn.to_add_out.{p}",), as_it_is),
    (TOKEN + r"\.mlp\.fc1" + WB, (BLOCK + ".ff_context.net.0.proj.{p}",), as_it_is),
    (TOKEN + r"\.mlp\.fc2" + WB, (BLOCK + ".ff_context.net.2.{p}",), as_it_is),
    (TOKEN + r"\.t_embedder\.mlp\.0" + WB, (BLOCK + ".norm1_context.position_embedder.linear_1.{p}",), as_it_is),
    (TOKEN + r"\.t_embedder\.mlp\.2" + WB, (BLOCK + ".norm1_context.position_embedder.linear_2.{p}",), as_it_is),
    (r"model\.final_layer\.linear" + WB, ("decoder.proj_out.{p}",), as_it_is),
    (r"model\.final_layer\.adaLN_modulation\.1" + WB, ("decoder.norm_out.linear.{p}",), swap_halves),
]  # fmt: skip
"""Pattern of an official name, our names, and what happens to the tensor. Blocks' token modulation stands apart."""

DEAD = re.compile(
    r"model\.y_embedder\..*"  # a pooled text embedder that is never called
    r"|encoder\.final_layer_norm2?\.(weight|bias)"  # norms that are never applied
    r"|encoder\.quantizer\.(continuous|steps|count)"
    r"|encoder\.quantizer\._codebook\.(initted|tpc_initted|cluster_size_wo_react)"  # flags, and a statistic for logs
    r"|diffusion\.(timestep_map|scheduled_t|scheduled_t_prev|one_minus_scheduled_t)"
    r"|enc_ema\..*"
)
"""Tensors of the official files that nothing reads."""


def convert_name(name: str, value: Tensor, last_block: int) -> dict[str, Tensor] | None:
    """Our names and tensors of one official tensor; empty when nothing reads it, None when the name is unknown.

    Args:
        name: official name.
        value: its tensor.
        last_block: index of the decoder's last block, which modulates its tokens by time and trains no position MLP.
    """
    block = re.fullmatch(TOKEN + r"\.(?P<rest>.*)", name)
    if block and int(block["i"]) == last_block and block["rest"].startswith("t_embedder."):
        return {}
    modulation = re.fullmatch(TOKEN + r"\.adaLN_modulation\.1" + WB, name)
    if modulation:
        i, p = modulation["i"], modulation["p"]
        change: Change = swap_halves if int(i) == last_block else as_it_is
        return {f"{BLOCK.format(i=i)}.norm1_context.linear.{p}": change(value)[0]}
    if DEAD.fullmatch(name):
        return {}
    for pattern, targets, change in RULES:
        match = re.fullmatch(pattern, name)
        if match:
            ours = [target.format(**match.groupdict()) for target in targets]
            return dict(zip(ours, change(value), strict=True))
    return None


def convert(state: Mapping[str, Tensor], sizes: SelftokSizes) -> Tokenizer:
    """A Selftok state dict as a tokenizer in eval mode, which computes what the official code does.

    Args:
        state: tensors by official name.
        sizes: of the checkpoint.

    Raises:
        ValueError: names that are unknown, missing, or of another size; a token table that is not the published one.
    """
    queries = state.get("encoder.query_tokens")
    if queries is not None and queries.dim() == 3 and queries.shape[1] != sizes.K:
        raise ValueError(f"`K` ({sizes.K}) does not fit: the checkpoint has {queries.shape[1]} query tokens.")
    ours: dict[str, Tensor] = {"quantizer.steps": torch.ones((), dtype=torch.long)}
    unknown = []
    for name, value in state.items():
        converted = convert_name(name, value, sizes.decoder_depth - 1)
        if converted is None:
            unknown.append(name)
        else:
            ours |= converted
    if unknown:
        raise ValueError(f"The checkpoint holds {len(unknown)} unknown tensors: {', '.join(sorted(unknown)[:8])}.")
    config = sizes.config()
    with torch.device("meta"):  # shapes only: the weights come from the checkpoint
        tokenizer = Tokenizer(config)
    tokenizer.decoder.token_table = position_table(config.tokens, config.decoder.width)
    table = ours.pop("decoder.token_table", tokenizer.decoder.token_table)
    if table.shape != tokenizer.decoder.token_table.shape:
        raise ValueError(
            f"model.context_pos_embed is {list(table.shape)} in the checkpoint and "
            f"{list(tokenizer.decoder.token_table.shape)} by the sizes."
        )
    if not torch.allclose(table.float(), tokenizer.decoder.token_table, atol=1e-4):
        raise ValueError("model.context_pos_embed is not the table of the published code (positions 1000 + 8k).")
    wanted = tokenizer.state_dict()
    missing, extra = sorted(wanted.keys() - ours.keys()), sorted(ours.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"The checkpoint does not have the blocks of these sizes: {len(missing)} tensors are missing "
            f"({', '.join(missing[:4])}), {len(extra)} are too many ({', '.join(extra[:4])})."
        )
    for name, value in wanted.items():
        if ours[name].shape != value.shape:
            raise ValueError(
                f"{name} is {list(ours[name].shape)} in the checkpoint and {list(value.shape)} by the sizes."
            )
    tokenizer.load_state_dict({name: value.to(wanted[name].dtype) for name, value in ours.items()}, assign=True)
    return tokenizer.eval()


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or pickled file, `state_dict` unwrapped and `module.` stripped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds more than tensors and plain data, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`checkpoint` ({path}) does not exist.")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"`checkpoint` ({path}) is not a safetensors file: {error}") from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"`checkpoint` ({path}) holds more than tensors, and unpickling it could run code. Where you trust it, "
                f"save its `state_dict` as safetensors and import that. ({reason})"
            ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"`checkpoint` ({path}) is not a state dict: names to tensors, or that under `state_dict`.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def published_sizes(state: Mapping[str, Tensor]) -> SelftokSizes:
    """The built-in sizes that fit a checkpoint.

    Raises:
        ValueError: none do.
    """
    queries = state.get("encoder.query_tokens")
    tokens = queries.shape[1] if queries is not None and queries.dim() == 3 else 0
    if tokens == 1024:
        raise ValueError(
            "`config` is needed for 1024 tokens: how they are divided over the schedule's stages is not public. Give a "
            "json file with all sizes, `stages` and `tokens_per_stage` among them."
        )
    sizes = SelftokSizes(encoder_positions=64)
    if tokens != sizes.K or queries is None or queries.shape[2] != sizes.query_width:
        shape = "no" if queries is None else str(list(queries.shape))
        raise ValueError(f"`config` is needed: {shape} query tokens are not those of the published 512-token file.")
    return sizes
