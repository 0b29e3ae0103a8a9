"""Sampling image ids on a GPU against the bound that memory sets: weights and caches, read once a step.

A 1B-shaped Llama in bf16. The bound is the time to read what every step has to read at the bandwidth of a probe; the
share says how much of it is reached, prompts included.
"""

from collections.abc import Sequence

import torch
from device import bandwidth, cuda, decoding_bytes, seconds

from ddt_lightning.lm.llm import LlmConfig, build_llm
from tests.tiny import image_ids

BILLION = LlmConfig(width=2048, depth=16, heads=32, kv_heads=8, ffn_width=8192, max_length=4096, rope_theta=5e5)
"""The shape of Llama-3.2-1B."""
TEXT, CODES, K, PROMPT = 128_256, 16_384, 256, 20
BATCHES = (1, 16, 64)


def bound(network: LlmConfig, codes: int, rows: int, prompt: int, length: int, rate: float) -> float:
    """Seconds to read what drawing has to read: a pass for the prompt, and one for each id but the last.

    Args:
        network: sizes.
        codes: ids that may be chosen.
        rows: of the batch.
        prompt: ids of a prompt.
        length: ids of an image.
        rate: bytes a second.
    """
    return sum(decoding_bytes(network, codes, rows, prompt + k) for k in range(length)) / rate


def table(
    device: torch.device,
    network: LlmConfig = BILLION,
    text: int = TEXT,
    codes: int = CODES,
    length: int = K,
    batches: Sequence[int] = BATCHES,
    compiled: Sequence[bool] = (False, True),
) -> None:
    """Measure the bandwidth and draw batches of images with and without guidance."""
    rate = bandwidth(device, 2**32 if device.type == "cuda" else 2**24)
    torch.manual_seed(0)
    with device:
        model = build_llm(network, text + codes + 2, bos=0, eos=1, pad=2).eval().bfloat16()
    prompt, free = [0, *range(10, 8 + PROMPT), text + codes], [0, text + codes]
    print(f"\n{length} ids an image of {codes:,}, {sum(p.numel() for p in model.parameters()) / 1e6:,.0f} M parameters "
          f"in bf16, {rate / 1e9:,.0f} GB/s by a probe")  # fmt: skip
    print(f"{'':<44}{'seconds':>10}{'ids/s':>10}{'bound':>10}{'share':>8}")
    for batch in batches:
        for guidance in (1.0, 2.0):
            least = bound(network, codes, batch * (1 + (guidance != 1)), PROMPT, length, rate)
            for compile in compiled:

                def draw(batch: int = batch, guidance: float = guidance, compile: bool = compile) -> None:
                    image_ids(model, [prompt] * batch, unconditional=[free] * batch, start=text, codebook_size=codes,
                              length=length, guidance=guidance, seeds=list(range(batch)), pad=2,
                              compile=compile)  # fmt: skip

                spent = seconds(draw, device, 3)
                name = f"{batch} images, guidance {guidance:g}{', compiled' if compile else ''}"
                made = batch * length
                print(f"{name:<44}{spent:>10.3f}{made / spent:>10,.0f}{made / least:>10,.0f}{least / spent:>8.2f}")


def main() -> None:
    """Print the table, or that there is no GPU."""
    device = cuda("generation on a GPU")
    if device is not None:
        table(device)


if __name__ == "__main__":
    main()
