"""Optimiser and learning-rate schedule of every stage, from one plain config.

`muon` trains hidden matrices with orthogonalised momentum (`muon.py`) and everything else with AdamW, inside a single
torch optimiser: two Lightning optimisers would count every step twice.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ddt_lightning.training.muon import Muon

SMALLEST_MATRIX = 32
"""Matrices with a side below this are left to AdamW: there is little to orthogonalise."""
MODULATION = re.compile(r"modulation|norm")
"""Names of submodules that modulate."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule.

    Args:
        name: adamw, or muon for hidden matrices with AdamW for the rest.
        lr: peak learning rate of AdamW.
        matrix_lr: peak learning rate of muon's matrices, in units in which an update has RMS 0.2.
        lrs: peak learning rates of AdamW for some parameters: patterns searched in their names, the first that is found
            decides. For instance smaller ones for pretrained parts.
        beta1: first moment decay of AdamW.
        beta2: second moment decay of AdamW.
        momentum: of muon.
        orthogonalise_in: numbers in which muon orthogonalises. bfloat16 halves the time where the processor has it.
        fused: AdamW in one kernel; pays on a GPU.
        weight_decay: decoupled, on matrices only.
        warmup_steps: linear rise from 0.
        total_steps: length of the schedule; 0 for the trainer's `max_steps`.
        decay: shape of the fall after the warm-up: to `final_share` of the peak, or none.
        final_share: share of the peak at the end.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    matrix_lr: float = 1e-3
    lrs: dict[str, float] = field(default_factory=dict)
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    orthogonalise_in: Literal["float32", "bfloat16"] = "float32"
    fused: bool = False
    weight_decay: float = 0.01
    warmup_steps: int = 50
    total_steps: int = 0
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_share: float = 0.02

    def __post_init__(self) -> None:
        if min(self.lr, self.matrix_lr, *self.lrs.values()) <= 0:
            raise ValueError(
                f"`optim.lr` ({self.lr}), `optim.matrix_lr` ({self.matrix_lr}) and `optim.lrs` ({self.lrs}) must be "
                "positive; freeze parameters by name instead."
            )
        if self.total_steps and self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"`optim.warmup_steps` ({self.warmup_steps}) must be below `optim.total_steps` ({self.total_steps})."
            )


def lr_share(step: int, config: OptimConfig, total_steps: int) -> float:
    """Share of the peak learning rate at a step: warm-up, then decay, then `final_share`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    fall = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else 1 - progress
    return config.final_share + (1 - config.final_share) * fall


def hidden_matrices(net: nn.Module) -> set[Tensor]:
    """Weights of attention and feed-forward layers: the Linear layers of blocks that stand in a ModuleList.

    Modulations (zero at the start, a lookup rather than a transformation) stay with AdamW.
    """
    lists = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
    named = [(name, layer) for blocks in lists for block in blocks for name, layer in block.named_modules()]
    linears = [layer for name, layer in named if isinstance(layer, nn.Linear) and not MODULATION.search(name)]
    return {layer.weight for layer in linears if min(layer.weight.shape) >= SMALLEST_MATRIX}


def peak_lr(name: str, config: OptimConfig) -> float:
    """AdamW's peak learning rate of a parameter, by its name."""
    return next((lr for pattern, lr in config.lrs.items() if re.search(pattern, name)), config.lr)


def build_optimizer(
    net: nn.Module, config: OptimConfig, total_steps: int, undecayed: Collection[nn.Parameter] = ()
) -> dict:
    """Optimiser and schedule in the form Lightning's `configure_optimizers` returns.

    Args:
        net: the network; parameters without gradient are left out.
        config: the choice.
        total_steps: length of the run, used when `config.total_steps` is 0.
        undecayed: matrices without weight decay.

    Raises:
        ValueError: a pattern of `lrs` fits no parameter.
    """
    named = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    hidden = hidden_matrices(net) if config.name == "muon" else set()

    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decayed = parameter.dim() >= 2 and not any(parameter is other for other in undecayed)
        matrices, decay = parameter in hidden, config.weight_decay if decayed else 0.0
        lr = config.matrix_lr if matrices else peak_lr(name, config)
        groups.setdefault((lr, decay, matrices), []).append(parameter)
    unused = [pattern for pattern in config.lrs if not any(re.search(pattern, name) for name in named)]
    if unused:
        raise ValueError(f"`optim.lrs` names {unused[0]!r}, which is found in no parameter's name.")
    shared = {
        "betas": (config.beta1, config.beta2),
        "momentum": config.momentum,
        "orthogonalise_in": config.orthogonalise_in,
    }
    optimizer = Muon(
        [
            {"params": parameters, "lr": lr, "weight_decay": decay, "matrices": matrices, **shared}
            for (lr, decay, matrices), parameters in groups.items()
        ],
        lr=config.lr,
        fused=config.fused or None,
    )
    optimizer._step_supports_amp_scaling = False  # of fp16; with the mark Lightning refuses to clip gradients
    total = config.total_steps or total_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_share(step, config, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
