"""A training step of a 1B-shaped Llama on a GPU: share of the peak that its arithmetic reaches (MFU).

Packed rows of documents with an image of 480 ids, bf16 autocast over fp32 weights as in training, the loss of
`lm/loss.py`, gradient, clipping and fused AdamW. What is counted is what the model needs (`device.training_flops`):
attention inside a document only, whatever an implementation computes. Each way runs in a process of its own.
"""

import subprocess
import sys

import torch
from device import cuda, matmul_peak, seconds, training_flops
from gpu_generation import BILLION
from torch import nn

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.packing import pack_rows
from ddt_lightning.training.optim import OptimConfig, build_optimizer

VOCAB, ROW, DOCUMENTS, IMAGE = 128_256 + 65_536 + 2, 4096, 24, 480
WAYS = {
    "sdpa": "SDPA with a mask",
    "flex": "flex attention",
    "flex-compiled": "flex attention, blocks compiled",
    "sdpa-compiled": "SDPA with a mask, blocks compiled",
}


def lengths(documents: int, image: int) -> list[int]:
    """Documents of one image and 10 to 60 ids of text and marks."""
    return [image + int(text) for text in numpy_rng("training benchmark").integers(10, 60, size=documents)]


def measure(
    way: str, device: torch.device, network: LlmConfig, vocab: int, documents: list[int], row: int
) -> tuple[float, int]:
    """Seconds of a step, and its floating-point operations."""
    torch.manual_seed(0)
    with device:
        model = build_llm(network, vocab, bos=0, eos=1, pad=2).train()
    if way.startswith("flex"):
        model.set_attn_implementation("flex_attention")
    if way.endswith("compiled"):
        for layer in model.model.layers:
            layer.compile()
    rng = numpy_rng("ids")
    rows = [{"ids": (ids := rng.integers(vocab, size=length).tolist()), "labels": ids} for length in documents]
    batch = {name: value.to(device) for name, value in pack_rows(rows, 2, row).items()}
    optimizer = build_optimizer(model, OptimConfig(fused=True), 100)["optimizer"]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            hidden = hidden_states(model, batch["ids"], batch["positions"])
            loss = split_loss(hidden, model.get_output_embeddings().weight, batch["labels"], 0, vocab)
            (loss.total / loss.count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return seconds(step, device, rounds=5, warm=3), training_flops(network, vocab, documents)


def main() -> None:
    """Print the table, or that there is no GPU; a way that fails has said why, and the others go on."""
    device = cuda("training step of a 1B model on a GPU")
    if device is None:
        return
    peak, documents = matmul_peak(device), lengths(DOCUMENTS, IMAGE)
    torch.cuda.empty_cache()
    title = f"training step of {len(documents)} documents, {sum(documents):,} ids in rows of {ROW}, 1B-shaped"
    print(f"\n{title}, peak {peak / 1e12:,.0f} TFLOP/s by a probe")
    print(f"{'':<44}{'seconds':>10}{'ids/s':>10}{'MFU':>8}")
    for way, name in WAYS.items():
        done = subprocess.run([sys.executable, __file__, way], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name:<44}{'failed':>10}")
            continue
        spent, flops = (float(word) for word in done.stdout.split()[-2:])
        print(f"{name:<44}{spent:>10.3f}{sum(documents) / spent:>10,.0f}{flops / spent / peak:>8.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*measure(sys.argv[1], torch.device("cuda"), BILLION, VOCAB, lengths(DOCUMENTS, IMAGE), ROW))
    else:
        main()
