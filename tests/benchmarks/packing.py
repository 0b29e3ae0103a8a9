"""Training steps on real captions and 32 ids: documents packed into rows, against a row of padding each.

Captions are those of Flickr8k (`DDT_DATA/text/flickr8k_captions.txt.gz`), the formats' shares those of pretraining, the
model is the default one. Compared are ids of documents per second, forward and backward.
"""

import gzip
import os
import statistics
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.packing import make_rows
from ddt_lightning.shards.stream import Example
from ddt_lightning.vocab import Vocab, train_text_tokenizer

K, CODES, BATCHES, MAX_LENGTH = 32, 512, 6, 256
BATCH = (64, 256)  # that of the default configuration, and one in which longer captions occur
ROW_LENGTHS = (None, 128, 256)


def batches(vocab: Vocab, captions: list[str], size: int) -> list[list[Example]]:
    """Documents of some steps: 70 % text to image (a tenth without its caption), 20 % image to text, 10 % text."""
    rng = numpy_rng("packing benchmark")
    found = []
    for _ in range(size * BATCHES):
        text, image = captions[rng.integers(len(captions))], rng.integers(CODES, size=K)
        kind = rng.random()
        if kind < 0.07:
            row = vocab.image_only(image)
        elif kind < 0.7:
            row = vocab.t2i(text, image, MAX_LENGTH)
        elif kind < 0.9:
            row = vocab.i2t(image, text, MAX_LENGTH)
        else:
            row = vocab.text_only(text, MAX_LENGTH)
        found.append(dict(zip(("ids", "labels"), row, strict=True)))
    return [found[i : i + size] for i in range(0, len(found), size)]


def main() -> None:
    """Print the table; without the captions, one line."""
    path = Path(os.environ.get("DDT_DATA", "")) / "text" / "flickr8k_captions.txt.gz"
    if not path.is_file():
        print("\npacking: `DDT_DATA` does not hold text/flickr8k_captions.txt.gz: skipped")
        return
    with gzip.open(path, "rt") as lines:
        captions = [line.rstrip("\n").split("\t")[-1] for line in lines]
    vocab = Vocab(train_text_tokenizer(captions, 1024), CODES, K, "fine_to_coarse", "none")
    torch.manual_seed(0)
    config = LlmConfig(width=128, depth=5, heads=4, kv_heads=4, ffn_width=384, max_length=MAX_LENGTH)
    model = build_llm(config, vocab.size, vocab.bos, vocab.eos, vocab.pad)
    for size in BATCH:
        table(model, vocab, batches(vocab, captions, size))


def table(model: PreTrainedModel, vocab: Vocab, steps: list[list[Example]]) -> None:
    """Print the figures of some steps."""
    useful = sum(len(row["ids"]) for step in steps for row in step)
    ways = {length: [make_rows(step, vocab.pad, length) for step in steps] for length in ROW_LENGTHS}
    seconds: dict[int | None, list[float]] = {length: [] for length in ROW_LENGTHS}
    for number in range(BATCHES):
        for length, rows in ways.items():
            batch = rows[number]
            start = time.perf_counter()
            hidden = hidden_states(model, batch["ids"], batch.get("positions"))
            head = model.get_output_embeddings().weight
            split_loss(hidden, head, batch["labels"], vocab.image_start, vocab.image_end).total.backward()
            seconds[length].append(time.perf_counter() - start)
            model.zero_grad()
    print(
        f"\n{BATCHES} steps of {len(steps[0])} documents, {useful / len(steps[0]) / BATCHES:.1f} ids each, one process"
    )
    print(f"{'':<44}{'ids/s':>10}{'speed':>8}{'useful':>8}")
    for length, rows in ways.items():
        name = "a row of padding each" if length is None else f"packed into rows of {length}"
        speed = statistics.median(a / b for a, b in zip(seconds[None], seconds[length], strict=True))
        filled = useful / sum(batch["ids"].numel() for batch in rows)
        print(f"{name:<44}{useful / sum(seconds[length]):>10.0f}{speed:>7.2f}x{filled:>8.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
