"""Tensor parallelism of a language model: a group of processes divides the heads and the feed-forward columns.

Every process keeps batches of its own, as without it. Before attention and before the feed-forward layer the processes
of a group gather their rows; each computes its heads, or its columns, for all of these rows; behind the layer their
results are summed, and every process goes on with its own rows. Data, losses, norms and the tables of ids are therefore
those of FSDP2 over all processes. The projections alone are divided twice: over the processes of a group, and over the
groups by FSDP2.

Between layers this is the sequence parallelism of Korthikanti et al. 2022 (arXiv 2205.05198), over rows of the batch.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from transformers import PreTrainedModel

OPTION = "trainer.strategy.init_args.tensor_parallel"


@dataclass(frozen=True)
class Groups:
    """Groups of processes in a row, as this process sees them.

    Args:
        own: the processes of its group, which divide layers.
        others: the processes that hold the same parts in all groups, among which FSDP2 shards them.
    """

    own: DeviceMesh
    others: DeviceMesh


def groups_of(device: str, size: int, processes: int) -> Groups:
    """The groups of `size` processes, which divides `processes`, the number of all."""
    mesh = init_device_mesh(device, (processes // size, size), mesh_dim_names=("others", "own"))
    return Groups(mesh["own"], mesh["others"])


class DividedLinear(nn.Linear):
    """A linear layer without bias of which every process of a group holds a part.

    Args:
        whole: the layer, the same on all processes.
        groups: of `groups_of`.
        outputs: whether a part has some of the outputs for all inputs (`[N, T, in]` to `[N, T, out / n]`); otherwise it
            has some of the inputs (`[n B, T, in / n]` to `[B, T, out]`), and the sum's rows go back to their processes.
    """

    def __init__(self, whole: nn.Linear, groups: Groups, outputs: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.groups, self.outputs = groups, outputs
        # no process sends what all of them have
        part = distribute_tensor(whole.weight.detach(), groups.own, [Shard(0 if outputs else 1)], src_data_rank=None)
        self.weight = nn.Parameter(part, whole.weight.requires_grad)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply this process's part."""
        gathered: Any = self.weight  # by FSDP2, from the other groups
        weight = gathered.to_local()
        if weight.requires_grad:
            # a sum over the rows of all processes of the group, where FSDP2 averages over groups
            weight.register_hook(lambda gradient: gradient / self.groups.own.size())
        found = F.linear(x, weight)
        if self.outputs:
            return found
        summed = DTensor.from_local(found, self.groups.own, [Partial()], run_check=False)
        return summed.redistribute(placements=[Shard(0)]).to_local()


def divide(model: PreTrainedModel, groups: Groups) -> None:
    """Replace the projections of a Llama or Gemma by their parts, in place.

    Args:
        model: on one process as on every other.
        groups: of `groups_of`.

    Raises:
        ValueError: heads or columns cannot be dealt out evenly, or projections have biases or adapters.
    """
    size, config = groups.own.size(), model.config
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise ValueError(f"`{OPTION}` ({size}) must divide the model's {name} ({getattr(config, name)}).")
    gather = RowsOfGroup(groups)
    for layer in model.get_decoder().layers:
        for part, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj")), (layer.mlp, ("gate_proj", "up_proj"))):
            last = "o_proj" if part is layer.self_attn else "down_proj"
            for name in (*names, last):
                whole = getattr(part, name)
                if type(whole) is not nn.Linear or whole.bias is not None:
                    raise ValueError(
                        f"`{OPTION}` ({size}) divides linear layers without biases and adapters, and {name} is "
                        f"another: set it to 1, or `model.lora` to null."
                    )
                setattr(part, name, DividedLinear(whole, groups, outputs=name != last))
            part.register_forward_pre_hook(gather, with_kwargs=True)


class RowsOfGroup:
    """Hook before a layer: the rows of all processes of a group, in every tensor that has one entry for each row.

    Masks and positions, which every layer takes, are gathered once.

    Args:
        groups: of `groups_of`.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.taken: list[tuple[Tensor, Tensor]] = []

    def __call__(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The arguments of the layer, gathered.

        Raises:
            ValueError: the layer is to go on behind keys and values, as it does where a model draws or answers.
        """
        if kwargs.get("past_key_values") is not None:
            raise ValueError(f"`{OPTION}`: a divided model neither draws nor answers; set it to 1.")
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        others = {name: self.gathered(value, len(hidden)) for name, value in kwargs.items()}
        hidden = self.rows(hidden)
        return ((hidden, *args[1:]), others) if args else ((), {"hidden_states": hidden, **others})

    def gathered(self, x: Any, rows: int) -> Any:  # noqa: ANN401 - whatever a layer takes
        """Tensors of `rows` rows become those of the group, in tuples, too; everything else stays."""
        if isinstance(x, tuple):
            return tuple(self.gathered(one, rows) for one in x)
        if not isinstance(x, Tensor) or not x.dim() or len(x) != rows:
            return x
        for one, made in self.taken:
            if one is x:
                return made
        made = self.rows(x)
        self.taken = [*self.taken[-6:], (x, made)]  # a batch has positions, and at most two masks and four tables
        return made

    def rows(self, x: Tensor) -> Tensor:
        """`[B, ...]` of this process to `[n B, ...]`; its gradient is the sum over the group."""
        own = DTensor.from_local(x, self.groups.own, [Shard(0)], run_check=False)
        return own.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


def shard_parts(block: nn.Module, policy: MixedPrecisionPolicy) -> None:
    """Shard the divided layers of a block over the groups, gathered together."""
    parts = [layer for layer in block.modules() if isinstance(layer, DividedLinear)]
    if parts:
        # nothing changes in place what a layer returns
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
        fully_shard([*parts], mesh=parts[0].groups.others, mp_policy=policy)


def evened(ids: Tensor, positions: Tensor | None, groups: Groups) -> tuple[Tensor, Tensor | None]:
    """Rows of one number and length on all processes of a group, with ids behind a row's end that nothing before sees.

    Args:
        ids: `[B, T]`, other sizes on other processes.
        positions: of packed rows, `[B, T]`; the added ones are documents of one id each.
        groups: of `groups_of`.

    Returns:
        The same with as many rows as the process with most has, as long as the longest.
    """
    most = torch.tensor(ids.shape, device=ids.device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=groups.own.get_group())
    # transformers leaves the mask out where no row holds two documents, and one process must not do so alone
    apart = 0 if positions is None else 1
    more = (0, int(most[1]) - ids.shape[1] + apart, 0, int(most[0]) - ids.shape[0])
    return F.pad(ids, more), None if positions is None else F.pad(positions, more)
