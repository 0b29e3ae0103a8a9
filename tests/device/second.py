"""A second device with real numbers: a tensor on `second` holds a CPU tensor, and mixing the two is an error.

A GPU refuses what code that only ever ran on a CPU does by accident. Here the CPU computes and the rules are those of
CUDA, so the code takes its branches for devices other than the CPU and its numbers can be compared with the CPU's:

- An operation on tensors of both devices is refused. Copies and a CPU number without dimensions are allowed, and so are
  indices on the CPU for a tensor on `second`, but not the other way round.
- A generator draws on its own device only, and none can be made for this one.
- numpy cannot see a tensor; a copy to the CPU that does not wait for its values is refused.
- Autocast follows CUDA's lists of operations.

Not covered: kernels, speed, streams and collectives. `use()` changes this process for good, and the process aborts
where the interpreter is left to end it: leave with `os._exit`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "second"
COPIES = {"_to_copy", "copy_", "to", "type_as"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
LOWER = ("conv1d", "conv2d", "conv3d", "conv_transpose2d.input", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm",
         "addbmm", "mv", "prelu", "scaled_dot_product_attention")  # fmt: skip
"""Operations that autocast computes in its own type."""
FULL = ("exp", "log", "log1p", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "rsqrt", "reciprocal", "cumsum", "cumprod",
        "prod", "sum", "sum.dim_IntList", "norm.Scalar", "norm.ScalarOpt_dim", "softmax.int", "log_softmax.int",
        "layer_norm", "group_norm", "mse_loss", "smooth_l1_loss", "nll_loss", "cross_entropy_loss",
        "binary_cross_entropy_with_logits", "cosine_similarity", "softplus")  # fmt: skip
"""Operations that autocast computes in float32."""


class MixedDevices(RuntimeError):
    """An operation that a GPU would refuse."""


class Backend(_DummyBackendModule):
    """`torch.second`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Second(Tensor):
    """A tensor of the device, around the CPU tensor that holds its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Second":
        return Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"second({self.held!r})"

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: int) -> Any:
        """Files hold the numbers, as they do for those who load a GPU's checkpoint to the CPU."""
        return self.held.__reduce_ex__(protocol)


def on_second(value: object) -> bool:
    """Whether a tensor, a device or its name is of this device."""
    if isinstance(value, torch.device | str):
        return torch.device(value).type == NAME
    return isinstance(value, Second)


def refuse(func: Any, reason: str) -> None:
    raise MixedDevices(f"{func}: {reason}")


def check(func: Any, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Refuse what CUDA refuses."""
    if name in COPIES:
        return
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        values = args[2:3]
        if not on_second(args[0]) and any(map(on_second, [*indices, *values])):
            refuse(func, "a tensor on cpu takes indices and values on cpu only")
        if on_second(args[0]) and any(value.dim() and not on_second(value) for value in values):
            refuse(func, f"a tensor on {NAME} takes values on {NAME} only")
        return
    there = [tensor for tensor in tensors if on_second(tensor)]
    here = [tensor for tensor in tensors if tensor.dim() and not on_second(tensor)]
    if there and here:
        refuse(func, f"tensors on {NAME} {[tuple(t.shape) for t in there]} and on cpu {[tuple(t.shape) for t in here]}")


def given(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return dict(zip([argument.name for argument in func._schema.arguments], args, strict=False)) | kwargs


def device_asked(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The device that a call names, and the call for the CPU in its place."""
    here = torch.device("cpu")
    if kwargs.get("device") is not None:
        return kwargs["device"], args, {**kwargs, "device": here}
    for place, argument in enumerate(func._schema.arguments[: len(args)]):
        if argument.name == "device" and args[place] is not None:
            return args[place], (*args[:place], here, *args[place + 1 :]), kwargs
    return None, args, kwargs


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, computed on the CPU by the rules of two devices."""
    name = func._schema.name.partition("::")[2]
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    check(func, name, args, tensors)
    first = args[0] if args and isinstance(args[0], Tensor) else None
    asked, args, kwargs = device_asked(func, args, kwargs)
    if asked is not None:
        there = on_second(asked)
    elif name in ("to", "type_as"):
        there = on_second(tensors[-1])
    elif name in INDEXING | COPIES:
        there = on_second(first)
    else:
        there = any(map(on_second, tensors))
    if there and kwargs.get("generator") is not None:
        refuse(func, f"a generator of cpu draws for a tensor on {NAME}")
    if name in ("_to_copy", "to") and on_second(first) and not there and given(func, args, kwargs).get("non_blocking"):
        refuse(func, "a copy to cpu that does not wait for its values")
    held_args, held_kwargs = pytree.tree_map(
        lambda value: value.held if isinstance(value, Second) else value, (args, kwargs)
    )
    made = func(*held_args, **held_kwargs)
    if name == "to" and on_second(first) != there and made is held_args[0]:
        made = made.clone()  # another device is other memory
    if not there:
        return made
    for value in tensors:
        if on_second(value) and value.shape != value.held.shape:
            raise NotImplementedError(f"{func} changes the shape of a tensor on {NAME} in place")
    views = any(returned.alias_info and not returned.alias_info.is_write for returned in func._schema.returns)
    # a view of a tensor from outside inference mode is none of inference mode
    with torch.inference_mode(torch.is_inference_mode_enabled() and not (views and not args[0].is_inference())):
        made = pytree.tree_map(lambda value: Second(value) if isinstance(value, Tensor) else value, made)
    return given_back(func, args, kwargs, made)


def given_back(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> Any:
    """What an operation made; the tensor that it was given where it wrote into that one."""
    schema, named = func._schema, given(func, args, kwargs)
    written = {str(a.alias_info.before_set): named[a.name] for a in schema.arguments
               if a.alias_info and a.alias_info.is_write and a.name in named}  # fmt: skip
    outs = [written.get(str(r.alias_info.before_set)) if r.alias_info else None for r in schema.returns]
    if len(outs) == 1:
        return made if outs[0] is None else outs[0]
    if all(out is None for out in outs):
        return made
    return tuple(new if old is None else old for old, new in zip(outs, made, strict=True))


def set_data(tensor: Tensor, other: Tensor) -> None:
    """`tensor.data = other`."""
    if not on_second(tensor) or not on_second(other) or tensor.shape != other.shape or tensor.dtype != other.dtype:
        refuse("data", f"{tensor.device} {tuple(tensor.shape)} is set to {other.device} {tuple(other.shape)}")
    tensor.held = other.held


class Everywhere(TorchDispatchMode):
    """Operations in which no tensor of the device takes part yet: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Constructors(TorchFunctionMode):
    """Functions that read Python numbers straight into a device's memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.data.__set__ and (on_second(args[0]) or on_second(args[1])):
            return set_data(*args)
        if func in (torch.tensor, torch.as_tensor) and on_second(kwargs.get("device") or "cpu"):
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        if func is Tensor.new_tensor and on_second(kwargs.get("device", args[0].device)):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs, "device": "cpu"}).to(NAME)
        return func(*args, **kwargs)


def memory() -> torch.library.Library:
    """Memory for the places in torch that ask for it past Python's modes, such as a list of indices."""
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Second:
        return Second(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> Second:
        return Second(torch.empty(size, dtype=dtype, device="cpu"))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        held = [tensor.held if isinstance(tensor, Second) else tensor for tensor in (source, target)]
        held[1].copy_(held[0])
        return target

    library.impl("_copy_from", copy_from)
    library.impl("empty_strided", empty_strided)
    library.impl("empty.memory_format", empty)
    return library


def autocast_rules() -> list[torch.library.Library]:
    """CUDA's lists for autocast on this device."""
    others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def computed_in(overload: Any, wanted: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            kind = wanted()

            def cast(value: Any) -> Any:
                floats = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
                return value.to(kind) if floats and on_second(value) else value

            args, kwargs = pytree.tree_map(cast, (args, kwargs))
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return overload(*args, **kwargs)

        return call

    for names, wanted in ((LOWER, lambda: torch.get_autocast_dtype(NAME)), (FULL, lambda: torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            found = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, computed_in(found, wanted))
    return [others, library]


KEPT: list[object] = []
"""What must live as long as the process."""


def use() -> None:
    """Give this process the device."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch.__future__.set_swap_module_params_on_conversion(True)  # a module's weights become tensors of another class
    KEPT.extend([memory(), *autocast_rules()])
    for mode in (Constructors(), Everywhere()):
        mode.__enter__()
        KEPT.append(mode)
