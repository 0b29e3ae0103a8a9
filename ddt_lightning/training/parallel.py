"""Checkpointing, compilation and sharding of a network: the only place that shards.

Order: activation checkpointing, then compile, then `fully_shard` (FSDP2), block by block and then the root, so that a
block's weights are gathered only while it runs.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint import async_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ddt_lightning.training.kept import META, keep_before, remove
from ddt_lightning.training.sharded import held, local
from ddt_lightning.training.tensor_parallel import OPTION, DividedLinear, Groups, groups_of, shard_parts


@dataclass(frozen=True)
class ParallelConfig:
    """Options of a network's blocks.

    Args:
        activation_checkpointing: recompute a block's activations in the backward pass; a number between 0 and 1 does so
            for that share of the blocks, spread evenly.
        compile: compile each block.
        bf16_params: under FSDP2, compute in bf16 with fp32 master weights and reductions.
    """

    activation_checkpointing: bool | float = False
    compile: bool = False
    bf16_params: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.activation_checkpointing <= 1:
            raise ValueError(
                f"`model.parallel.activation_checkpointing` ({self.activation_checkpointing}) must be true, false or a "
                "share of the blocks between 0 and 1."
            )


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes of all nodes, of which groups can divide a language model's layers.

    Args:
        process_group_backend: gloo or nccl; None chooses by device.
        save_distributed_checkpoint: one checkpoint folder written by all ranks instead of one whole file.
        replicas: copies of the weights, each sharded over as many processes in a row (HSDP); with one for each node,
            weights are gathered inside of nodes alone, and only gradients go between them.
        save_in_background: training goes on while a distributed checkpoint is written, out of a copy in main memory.
        tensor_parallel: processes in a row, of one node, that divide the heads and columns of a language model.

    Raises:
        ValueError: the number of processes is not a multiple of `replicas` or `tensor_parallel`, both are above 1, or a
            callback averages whole weights.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        save_distributed_checkpoint: bool = True,
        replicas: int = 1,
        save_in_background: bool = False,
        tensor_parallel: int = 1,
    ) -> None:
        if save_in_background and not save_distributed_checkpoint:
            raise ValueError(
                "`trainer.strategy.init_args.save_in_background` (true) is for distributed checkpoints: set "
                "`save_distributed_checkpoint` to true."
            )
        if replicas > 1 and tensor_parallel > 1:
            raise ValueError(
                f"`{OPTION}` ({tensor_parallel}) and `trainer.strategy.init_args.replicas` ({replicas}): one of them "
                "must be 1."
            )
        self.replicas, self.save_in_background, self.tensor_parallel = replicas, save_in_background, tensor_parallel
        self.written: Future[None] | None = None
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        """Every process has data of its own, and a shard of one copy of the weights."""
        processes = self.num_nodes * self.num_processes
        if self.replicas < 1 or processes % self.replicas:
            raise ValueError(
                f"`trainer.strategy.init_args.replicas` ({self.replicas}) must divide the {processes} processes."
            )
        if self.tensor_parallel < 1 or self.num_processes % self.tensor_parallel:
            raise ValueError(
                f"`{OPTION}` ({self.tensor_parallel}) must divide the {self.num_processes} processes of a node."
            )
        trainer = self.lightning_module.trainer if self.lightning_module is not None else None
        averaging = [one for one in (trainer.callbacks if trainer else []) if isinstance(one, WeightAveraging)]
        if any(not getattr(one, "of_parts", False) for one in averaging):
            raise ValueError(
                f"`trainer.callbacks` ({type(averaging[0]).__name__}) copies the network, which cannot be done with "
                "sharded weights: use `ddt_lightning.training.averaging.EmaWeightAveraging`."
            )
        self._data_parallel_size = processes
        super().setup_environment()
        if self.save_in_background:  # collectives of its own, which do not meet those of training
            self.writers: Any = dist.new_group(backend="gloo")
            self.thread = ThreadPoolExecutor(1)
        self.weights_mesh = self.device_mesh["data_parallel"]
        if self.replicas > 1:
            self.weights_mesh = mesh_of_copies(self.root_device.type, self.replicas, processes)
        self.groups: Groups | None = None
        if self.tensor_parallel > 1:
            self.groups = groups_of(self.root_device.type, self.tensor_parallel, processes)

    def setup(self, trainer: pl.Trainer) -> None:
        """Prepare model and optimisers.

        Raises:
            ValueError: the stage leaves weights whole, whose gradients nobody would average, or layers, although they
                are to be divided.
        """
        whole = [name for name, weight in trainer.lightning_module.named_parameters()
                 if weight.requires_grad and not isinstance(weight, DTensor)]  # fmt: skip
        if whole:
            raise ValueError(
                f"`trainer.strategy` (FullyShardedStrategy) shards language models and DDT tokenizers, and this stage "
                f"trains another network ({whole[0]}): use `--trainer.strategy ddp`."
            )
        layers = trainer.lightning_module.modules()
        if self.groups is not None and not any(isinstance(layer, DividedLinear) for layer in layers):
            raise ValueError(
                f"`{OPTION}` ({self.tensor_parallel}) divides the layers of language models, and this stage trains "
                "another network: set it to 1."
            )
        super().setup(trainer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Weights and optimisers from a folder, whatever the number of processes that wrote it.

        Raises:
            ValueError: it is one file, of a run that did not shard: Lightning cannot deal out its optimisers.
        """
        if self._save_distributed_checkpoint and Path(checkpoint_path).is_file():
            raise ValueError(
                f"`ckpt_path` ({checkpoint_path}) is one file, of a run that does not shard: go on like that, or "
                f"start another `--run_dir` with `--init_from {checkpoint_path}`."
            )
        return super().load_checkpoint(checkpoint_path, weights_only)

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        filepath: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401 - Lightning's own
    ) -> None:
        """Save to a folder beside its place, renamed when all processes are done; the one before it is kept.

        In the background, the write of the one before ends first.
        """
        if not self._save_distributed_checkpoint:
            return super().save_checkpoint(checkpoint, filepath, storage_options)
        self.end_writing()
        target = Path(self.broadcast(filepath))
        part = target.with_name(f".{target.name}.partial")
        if self.is_global_zero:
            remove(part)
            part.mkdir(parents=True)
        self.barrier()
        if self.save_in_background:
            weights = {"state_dict": checkpoint.pop("state_dict")}
            weights |= {f"optimizer_{n}": state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
            if self.is_global_zero:
                torch.save(checkpoint, part / META)
            copied: Any = async_save(weights, checkpoint_id=part, process_group=self.writers)
            self.written = self.thread.submit(self.put_in_place, part, target, copied)
            return
        super().save_checkpoint(checkpoint, part, storage_options)
        self.barrier()
        self.put_in_place(part, target)
        self.barrier()

    def put_in_place(self, part: Path, target: Path, written: "Future[Any] | None" = None) -> None:
        """Rename a checkpoint on the first process, once it is written: its index is, after the parts of all."""
        if written is not None:
            written.result()
        if self.is_global_zero:
            keep_before(target)
            remove(target)
            part.replace(target)

    def end_writing(self) -> None:
        """Wait until the checkpoint that is being written is in its place.

        Raises:
            CheckpointException: it could not be written.
        """
        if self.written is not None:
            self.written.result()
            self.written = None

    def teardown(self) -> None:
        """End with nothing half written."""
        self.end_writing()
        super().teardown()


def mesh_of_copies(device: str, replicas: int, processes: int) -> DeviceMesh:
    """The mesh of copies of the weights, each sharded over as many processes in a row.

    Args:
        device: type of the device.
        replicas: number of copies, which divides the processes.
        processes: of all nodes.
    """
    return init_device_mesh(device, (replicas, processes // replicas), mesh_dim_names=("replicate", "shard"))


def weights_mesh(strategy: Strategy) -> DeviceMesh | None:
    """The processes that share the weights, or None where each holds all of them.

    Where there are several copies of the weights, the mesh's first axis is that of the copies.
    """
    if isinstance(strategy, FullyShardedStrategy):
        return strategy.weights_mesh
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None


def dividing_groups(strategy: Strategy) -> Groups | None:
    """The groups of processes that divide layers among them, or None where each computes whole layers."""
    return strategy.groups if isinstance(strategy, FullyShardedStrategy) else None


def refuse_divided(strategy: Strategy, what: str) -> None:
    """Refuse to draw or answer with a model whose layers are divided.

    Raises:
        ValueError: they are; it names the option.
    """
    groups = dividing_groups(strategy)
    if groups is not None:
        raise ValueError(f"`{OPTION}` ({groups.own.size()}): {what} with a model that is not divided; set it to 1.")


def shard(
    net: nn.Module,
    blocks: Iterable[nn.Module],
    config: ParallelConfig,
    mesh: DeviceMesh | None,
    apart: Iterable[nn.Module] = (),
    methods: Iterable[str] = (),
) -> None:
    """Apply the config to a network in place.

    Args:
        net: the root.
        blocks: its repeated blocks, direct members of a ModuleList.
        config: what to apply.
        mesh: of `weights_mesh`, or None to leave the weights whole.
        apart: parts of blocks that are called without their block, too, and so gather their weights themselves.
        methods: of the root that are forward passes, besides `forward`.
    """
    blocks = list(blocks)
    wrapped = {id(block): checkpoint_wrapper(block) for block in spread(blocks, float(config.activation_checkpointing))}
    if wrapped:
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if id(child) in wrapped:
                    setattr(parent, name, wrapped[id(child)])
        blocks = [wrapped.get(id(block), block) for block in blocks]
    if config.compile:
        for block in blocks:
            block.compile()
    if mesh is not None:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if config.bf16_params else MixedPrecisionPolicy()
        for part in (*apart, *blocks):
            shard_parts(part, policy)
            fully_shard(part, mesh=mesh, mp_policy=policy)
        # the root's weights stay whole until the backward pass: the loss multiplies with the head behind the network
        fully_shard(net, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        for method in methods:
            register_fsdp_forward_method(net, method)


def spread(blocks: list[nn.Module], share: float) -> list[nn.Module]:
    """A share of the blocks, rounded down, as evenly spread as can be."""
    counts = [int(number * share + 1e-9) for number in range(len(blocks) + 1)]
    return [block for block, before, after in zip(blocks, counts, counts[1:], strict=False) if after > before]


def forward_method(net: nn.Module, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function `f(net, ...)` as another forward pass of a network: a sharded one gathers its weights for it."""
    setattr(net, function.__name__, MethodType(function, net))
    register_fsdp_forward_method(net, function.__name__)
    return getattr(net, function.__name__)


@torch.no_grad()
def materialise(net: PreTrainedModel, device: torch.device, read: Callable[[str, int, int], torch.Tensor]) -> None:
    """Give a network that was sharded on the meta device memory for its own rows, and fill them.

    Buffers that no checkpoint holds (rotary frequencies, the scale of embeddings) are computed anew by the network's
    own `_init_weights`, which leaves weights marked as initialised alone.

    Args:
        net: a sharded transformers model.
        device: of this process.
        read: `(name, start, end)` to rows of a whole weight.
    """
    net.to_empty(device=device)
    for name, parameter in net.named_parameters():
        parameter._is_hf_initialized = True
        rows, *others = held(parameter)
        local(parameter).copy_(read(plain(name), rows.start, rows.stop)[:, *others])
    for module in net.modules():
        if module._non_persistent_buffers_set:
            net._init_weights(module)


def whole_state_dict(net: nn.Module) -> dict[str, torch.Tensor]:
    """Every weight of a possibly sharded network, whole and on the CPU, tied ones once.

    Collective; empty off rank 0 when sharded.
    """
    state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = {plain(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    once = {plain(name) for names in (net.named_parameters(), net.named_buffers()) for name, _ in names}
    return {name: value for name, value in whole.items() if name in once}


def plain(name: str) -> str:
    """A weight's name without the wrapper of activation checkpointing."""
    return name.replace("_checkpoint_wrapped_module.", "")
