"""Low-rank adapters (arXiv 2106.09685): small trained matrices beside frozen ones, added into them on release.

`y = W x` becomes `y = W x + alpha / rank B A x` by peft's layers; here are their start, which depends on the weight's
name alone and so is the same in every process and shard, and the merge of a whole state dict.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

A, B, BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"
Read = Callable[[str, int, int], Tensor]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of a language model.

    Args:
        rank: of the added matrices.
        alpha: they are scaled by alpha / rank.
        dropout: of their input; drawn per process, so runs with it depend on the number of processes.
        targets: names of the linear layers that get one.
        tables: train embedding and head as well, whole: needed where rows are new.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    tables: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"`model.lora.rank` ({self.rank}) must be at least 1, `model.lora.alpha` ({self.alpha}) positive and "
                f"`model.lora.dropout` ({self.dropout}) in [0, 1)."
            )


def add_lora(model: PreTrainedModel, config: LoraConfig) -> None:
    """Freeze a model and give its `targets` adapters that change nothing yet; may be on the meta device.

    Raises:
        ValueError: peft is not installed, or a target is not a layer of the model.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("`model.lora` needs peft: pip install 'ddt-lightning[lora]'.") from error
    layers = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = sorted(set(config.targets) - layers)
    if unknown or not config.targets:
        raise ValueError(f"`model.lora.targets` {list(config.targets)}: {unknown[:1]} is no layer of the model.")
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
    )
    peft.inject_adapter_in_model(wanted, model)
    for name, parameter in model.named_parameters():
        if name.endswith((A, B)) and not parameter.is_meta:
            with torch.no_grad():
                parameter.copy_(start(name, parameter.shape))
    if config.tables:
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight.requires_grad_()


def start(name: str, shape: torch.Size) -> Tensor:
    """First values of an adapter's weight: B is zero, A uniform in +-1/sqrt(inputs)."""
    if name.endswith(B):
        return torch.zeros(shape)
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()))
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[1])


def base_name(name: str) -> str | None:
    """Name of a weight in the model without adapters; None for an adapter's own."""
    return None if name.endswith((A, B)) else name.replace(BASE, ".weight")


def reader(model: PreTrainedModel, read: Read) -> Read:
    """`read` of the model without adapters, for the model with them.

    Args:
        model: with adapters, not yet sharded.
        read: `(name, start, end)` to rows of a weight.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def read_either(name: str, first: int, end: int) -> Tensor:
        base = base_name(name)
        return start(name, shapes[name])[first:end] if base is None else read(base, first, end)

    return read_either


def merged(state: dict[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """A whole state dict with adapters as one without them."""
    whole = {}
    for name, value in state.items():
        base = base_name(name)
        if base is None:
            continue
        if name.endswith(BASE):
            layer = name.removesuffix(BASE)
            added = state[layer + B].float() @ state[layer + A].float()
            value = (value.float() + config.alpha / config.rank * added).to(value.dtype)
        whole[base] = value
    return whole
