"""A ledger of one process's tensors: when each was made and freed, of which kind it is, and what was multiplied.

It works on fake tensors, which have shapes and no values. Where the traced code asks for a value, the ledger answers so
that the most is computed: masks are full, numbers are large, and nothing is found where something rare is looked for.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

WEIGHTS, AVERAGES, GRADIENTS, OPTIMISER = "weights", "averages", "gradients", "optimiser"
ACTIVATIONS, HEAD, GATHERED, WORKING = "activations", "logits and head", "gathered weights", "working space"
KINDS = (WEIGHTS, AVERAGES, GRADIENTS, OPTIMISER, ACTIVATIONS, HEAD, GATHERED, WORKING)
"""Kinds of memory: what stays from step to step, then what a step needs."""
FORWARD, LOSS, BACKWARD, STEP = "forward", "loss", "backward", "optimiser step"
PHASES = (FORWARD, LOSS, BACKWARD, STEP)
"""Parts of a training step."""
LARGE = 2**20
"""Number that stands for every number that is read out of a tensor: a step count, a length to cut to."""
TABLE_BYTES = (2, 4, 8)
"""Bytes for each element of the embedding that a whole gradient of embedding or head, or of both, has on its way."""
aten = torch.ops.aten


@dataclass(eq=False)
class Storage:
    """Memory of a tensor and its views.

    Args:
        size: bytes.
        kind: one of `KINDS`.
        born: number of the event at which it was made.
        died: number of the event at which it was freed; None while it lives.
    """

    size: int
    kind: str
    born: int
    died: int | None = None


class Ledger(TorchDispatchMode):
    """Record of storages and products while it is entered; `phase` says which part of a step runs.

    Args:
        vocabulary: elements of the embedding; in the backward pass what has its size belongs to the head. 0 for none.
        neighbours: processes in a row; what is sent among more of them is counted apart, too. 0 for all processes.
    """

    def __init__(self, vocabulary: int = 0, neighbours: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.neighbours = vocabulary, neighbours
        self.storages: list[Storage] = []
        self.live: dict[int, Storage] = {}
        self.places: set[int] = set()  # storages of indices: a number out of one of them is a place, and 0 always is
        self.events = 0
        self.making = WORKING
        self.spans: dict[str, tuple[int, int]] = {}
        self.flops: Counter[str] = Counter()
        self.recomputed = 0
        self.network = 0.0
        self.between = 0.0
        self.name = ""

    @contextmanager
    def phase(self, name: str, making: str) -> Iterator[None]:
        """A part of a step, in which new storages are of the kind `making` unless they are known to be another."""
        start, before = self.events, (self.name, self.making)
        self.name, self.making = name, making
        try:
            yield
        finally:
            self.name, self.making = before
            self.spans[name] = start, self.events

    def hold(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Say of which kind tensors are, those of this process where they are sharded."""
        for tensor in tensors:
            if tensor is not None:
                local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
                self.entry(local, kind).kind = kind

    def entry(self, tensor: Tensor, kind: str) -> Storage:
        """The record of a tensor's storage, made where there is none."""
        storage = tensor.untyped_storage()
        found = self.live.get(storage._cdata)
        if found is None:
            found = self.begin(storage._cdata, storage.nbytes(), kind)
            weakref.finalize(storage, self.end, storage._cdata).atexit = False
        return found

    def begin(self, key: int, size: int, kind: str) -> Storage:
        """A new record."""
        self.events += 1
        found = Storage(size, kind, self.events)
        self.live[key] = found
        self.storages.append(found)
        return found

    def end(self, key: int) -> None:
        """Note that a storage is freed."""
        self.places.discard(key)
        found = self.live.pop(key, None)
        if found is not None:
            self.events += 1
            found.died = self.events

    def resized(self, storage: torch.UntypedStorage, size: int) -> None:
        """Note that a storage has another size: how FSDP gathers whole weights and gives them up."""
        if storage._cdata in self.live:
            self.end(storage._cdata)
            self.begin(storage._cdata, size, GATHERED)

    def __enter__(self) -> Self:
        """Watch storages that change their size, too."""
        self._resize: Callable[..., Any] = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:  # noqa: ANN401 - torch's own result
            done = self._resize(storage, size)
            self.resized(storage, size)
            return done

        torch.UntypedStorage.resize_ = resize  # type: ignore[assignment, method-assign]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave storages alone again."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's protocol
        types: Any,  # noqa: ANN401
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:  # noqa: ANN401
        """Record what an operation makes and multiplies."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again with the tensors of this process
        kwargs = kwargs or {}
        packet = func._overloadpacket
        found = answer(func, args, kwargs)
        if packet is aten._local_scalar_dense and args[0].untyped_storage()._cdata in self.places:
            found = 0
        out = func(*args, **kwargs) if found is None else found
        recomputed = self.name == BACKWARD and torch.is_grad_enabled()
        making = ACTIVATIONS if recomputed else self.making
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.entry(leaf, making)
        if func.namespace in ("c10d", "fsdp", "_c10d_functional"):
            tensors = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor)]
            for leaf in tensors:
                self.communicated(leaf)
            if func.namespace == "c10d" or packet in FUNCTIONAL:
                members = group_of(args)
                size = sent(func, tensors, len(members))
                self.network += size
                self.between += size if members[-1] - members[0] >= (self.neighbours or dist.get_world_size()) else 0.0
        if packet is aten.sort:
            self.places.add(out[1].untyped_storage()._cdata)
        count = FLOPS.get(packet)
        if count is not None:
            flops = int(count(*args, **kwargs, out_val=out))
            self.flops[self.name] += flops
            self.recomputed += flops if recomputed else 0
        return out

    def communicated(self, tensor: Tensor) -> None:
        """Note that a tensor is sent or received: a buffer of gathered weights, or of gradients to be summed."""
        found = self.entry(tensor, GATHERED)
        if found.kind in (ACTIVATIONS, WORKING, HEAD):
            found.kind = WORKING if self.name == BACKWARD else GATHERED

    def peak(self, name: str) -> dict[str, int]:
        """Bytes by kind at the fullest moment of a phase."""
        start, stop = self.spans[name]
        changes: Counter[int] = Counter()
        for one in self.storages:
            if one.died is None or one.died > start:
                changes[max(one.born, start)] += one.size
                if one.died is not None:
                    changes[one.died] -= one.size
        held = most = 0
        moment = start
        for event in sorted(event for event in changes if event <= stop):
            held += changes[event]
            if held > most:
                most, moment = held, event
        there: Counter[str] = Counter()
        for one in self.storages:
            if one.born <= moment and (one.died is None or one.died > moment):
                there[self.of_head(one, name)] += one.size
        return {kind: there[kind] for kind in KINDS if there[kind]}

    def of_head(self, one: Storage, name: str) -> str:
        """The kind of a storage; gradients of the whole vocabulary on their way count to the head."""
        tables = one.size / self.vocabulary if self.vocabulary else 0.0
        of_vocabulary = any(abs(tables - width) < 0.01 * width for width in TABLE_BYTES)
        return HEAD if of_vocabulary and name == BACKWARD and one.kind == WORKING else one.kind


def group_of(args: tuple) -> list[int]:
    """Numbers of the processes that take part in a collective operation, from its arguments."""
    for leaf in tree_leaves(args):
        if isinstance(leaf, str) and leaf not in REDUCTIONS:
            return dist.get_process_group_ranks(dist.distributed_c10d._resolve_process_group(cast(Any, leaf)))
        if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
            return dist.get_process_group_ranks(dist.ProcessGroup.unbox(leaf))
    return list(range(dist.get_world_size()))


def sent(func: Any, tensors: list[Tensor], processes: int) -> float:  # noqa: ANN401 - torch's protocol
    """Bytes that a process sends in a collective operation over a ring: a sum passes everybody twice, others once."""
    rounds = 2 if "allreduce" in func.__name__.replace("_", "") else 1
    return rounds * max(tensor.nbytes for tensor in tensors) * (processes - 1) / processes


def answer(func: Any, args: tuple, kwargs: dict) -> Any:  # noqa: ANN401 - torch's protocol
    """Stand-in for what depends on values; None for operations that do not.

    Every mask is full, every number is `LARGE`, and `nonzero` finds nothing (codes that are dead).
    """
    packet = func._overloadpacket
    if packet is aten._local_scalar_dense:
        dtype = args[0].dtype
        return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else LARGE
    if packet is aten.nonzero:
        return args[0].new_empty((0, args[0].dim()), dtype=torch.long)
    if packet is aten.bincount:
        return args[0].new_empty(kwargs.get("minlength", args[2] if len(args) > 2 else 0))
    if packet is aten.index and len(args[1]) == 1 and args[1][0].dtype == torch.bool:
        return args[0].flatten(0, args[1][0].dim() - 1).clone()
    if packet is aten.index_put_ and any(i is not None and i.dtype == torch.bool for i in args[1]):
        return args[0]
    return None


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401 - torch's protocol
    """Operations of an attention over `[B, heads, *, width]` shapes: two products."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def of_shapes(count: Callable[..., int]) -> Callable[..., int]:
    """A count of shapes as a count of tensors."""

    def of_tensors(*args: Any, **kwargs: Any) -> int:
        shapes = [arg.shape if isinstance(arg, Tensor) else arg for arg in args]
        return count(*shapes)

    return of_tensors


def attention_backward_flops(_: Any, query: Any, key: Any, value: Any, *__: Any) -> int:  # noqa: ANN401
    """Operations of its backward pass: four products; the scores that it forms once more are not counted."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (2 * width + 2 * value[3])


FUNCTIONAL = {
    torch.ops._c10d_functional.all_gather_into_tensor,
    torch.ops._c10d_functional.reduce_scatter_tensor,
    torch.ops._c10d_functional.all_reduce,
}
"""Collective operations of distributed tensors; the waiting for their ends is another operation."""
REDUCTIONS = ("sum", "avg", "max")
"""Arguments of theirs that name no group."""
FLOPS = {
    **flop_registry,  # torch counts neither the attention of the CPU nor products that are added in place
    aten.addmm_: flop_registry[aten.addmm],
    aten._scaled_dot_product_flash_attention_for_cpu: of_shapes(attention_flops),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: of_shapes(attention_backward_flops),
}
"""Floating-point operations of the operations that multiply."""
