"""Cost of training a tokenizer configuration: parameters, memory and arithmetic, without allocating any of it.

Shapes are traced with fake tensors: parameters are counted, floating-point operations are those of the matrix products
and attentions of one image, and activations are what autograd would keep for it in fp32.
"""

from dataclasses import dataclass
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Cost of training a tokenizer.

    Args:
        parts: trained parameters by part.
        state: bytes of weights, gradients and AdamW's moments in fp32, and of averaged weights where configured.
        buffers: bytes of the codebook, its statistics and the position tables.
        activations: bytes that autograd keeps for one image in fp32, nothing recomputed.
        forward: floating-point operations of one image, forward; a training step takes about three times as many.
        batch: global batch size.
    """

    parts: dict[str, int]
    state: int
    buffers: int
    activations: int
    forward: int
    batch: int


def tokenizer_cost(settings: dict[str, Any]) -> Cost:
    """The cost of a tokenizer stage's settings.

    Raises:
        ValueError: the settings are of another stage.
    """
    import torch
    from torch._subclasses import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig

    model = settings.get("model", {})
    if "tokenizer" not in model:
        raise ValueError("`--config` has no `model.tokenizer`: only the cost of tokenizer stages is known.")
    config = TokenizerConfig.from_dict(model["tokenizer"])
    fake = FakeTensorMode()
    with fake:
        tokenizer = Tokenizer(config)
        image = torch.empty(1, config.latent_channels, config.latent_size, config.latent_size)
        time = torch.empty(1)
    parts = {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in tokenizer.named_children()
    }
    own = {p.untyped_storage()._cdata for p in [*tokenizer.parameters(), *tokenizer.buffers()]}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        held.append(x)  # a freed storage's address could be given to another one
        return x

    held: list[torch.Tensor] = []
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the one torch does not count itself
    flops = FlopCounterMode(display=False, custom_mapping={attention: attention_flops})
    with fake, flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        ids = tokenizer.quantizer.nearest(tokenizer.features(image).detach())
        tokenizer.output(image, time, tokenizer.embed(ids), None).pow(2).mean()
    copies = 4 + any("WeightAveraging" in callback["class_path"] for callback in callbacks(settings))
    return Cost(
        parts=parts,
        state=4 * copies * sum(parts.values()),
        buffers=sum(b.numel() * b.element_size() for b in tokenizer.buffers()),
        activations=sum(kept.values()),
        forward=int(flops.get_total_flops()),
        batch=settings.get("data", {}).get("batch_size", 1),
    )


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401 - torch's protocol
    """Operations of an attention over `[B, heads, *, width]` shapes: two products."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def callbacks(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The callbacks of a configuration."""
    found = settings.get("trainer", {}).get("callbacks") or []
    return found if isinstance(found, list) else [found]


def cost_lines(cost: Cost, tflops: float) -> list[str]:
    """The cost in words.

    Args:
        cost: what to say.
        tflops: sustained TFLOP/s of one device.
    """
    step = 3 * cost.forward * cost.batch / 1e12
    trained = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in cost.parts.items() if count)
    return [
        f"{'parameters':<16} {sum(cost.parts.values()) / 1e6:,.1f} M trained: {trained}",
        f"{'state':<16} {cost.state / GIB:.3g} GiB in fp32: weights, gradients, AdamW"
        f" (sharding divides it), and {cost.buffers / GIB:.2g} GiB of codebook, statistics and tables",
        f"{'activations':<16} {cost.activations / GIB:.2g} GiB an image, fp32, nothing recomputed; about half in bf16",
        f"{'arithmetic':<16} {cost.forward / 1e12:.3g} TFLOP an image forward, {step:.4g} TFLOP a training step of "
        f"{cost.batch} images: {step / tflops:.3g} s on one device that sustains {tflops:g} TFLOP/s",
    ]
