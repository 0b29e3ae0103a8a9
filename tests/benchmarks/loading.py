"""What making a batch costs beside the training step it is for, at the default language model's size, in one process.

Token shards of Flickr8k captions (`DDT_DATA/text/flickr8k_captions.txt.gz`, five an image) and 32 random ids each.
"""

import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from timing import side_by_side

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.stream import Example
from ddt_lightning.shards.tokens import TokenShards
from ddt_lightning.shards.write import write_shards, write_tokens_json
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.vocab import Vocab, train_text_tokenizer

K, CODES, IMAGES, PER_SHARD, MAX_LENGTH = 32, 512, 4000, 500, 256
STEPS = 8  # of a round


def module(folder: Path, memory_mb: int) -> TokenShards:
    """The data of the default configuration."""
    shards, vocab = [str(folder / "t-*.tar")], str(folder / "vocab")
    data = TokenShards(
        shards, vocab=vocab, t2i=0.7, i2t=0.2, max_length=MAX_LENGTH, packing=True, row_length=MAX_LENGTH, workers=0,
        memory_mb=memory_mb, buffer=PER_SHARD,
    )  # fmt: skip
    data.setup("fit")
    return data


def prepare(folder: Path, captions: list[str]) -> None:
    """Write token shards and a vocabulary."""
    rng = numpy_rng("loading benchmark")
    samples = (
        {
            "__key__": f"{n:06d}",
            "ids.npy": rng.integers(CODES, size=K).astype("uint16"),
            "json": {"captions": captions[5 * n : 5 * n + 5]},
        }
        for n in range(IMAGES)
    )
    write_shards(folder, "t", samples, PER_SHARD)
    write_tokens_json(
        folder, tokenizer="none", K=K, codebook_size=CODES, order="fine_to_coarse", transform="", source=""
    )
    Vocab(train_text_tokenizer(captions, 1024), CODES, K, "fine_to_coarse", "none").save(folder / "vocab")


def main() -> None:
    """Print the table; without the captions, one line."""
    path = Path(os.environ.get("DDT_DATA", "")) / "text" / "flickr8k_captions.txt.gz"
    if not path.is_file():
        print("\nloading: `DDT_DATA` does not hold text/flickr8k_captions.txt.gz: skipped")
        return
    with gzip.open(path, "rt") as lines:
        captions = [line.rstrip("\n").split("\t")[-1] for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), captions)
        table(Path(folder))


def table(folder: Path) -> None:
    """Print the figures."""
    kept, read = module(folder, memory_mb=256), module(folder, memory_mb=0)
    vocab = kept.vocab
    torch.manual_seed(0)
    config = LlmConfig(width=128, depth=5, heads=4, kv_heads=4, ffn_width=384, max_length=MAX_LENGTH)
    model = build_llm(config, vocab.size, vocab.bos, vocab.eos, vocab.pad)
    optimizer = build_optimizer(model, OptimConfig(), 1000)["optimizer"]
    in_memory, from_disk = iter(kept.train_dataloader()), iter(read.train_dataloader())
    batches = [next(in_memory) for _ in range(2 * IMAGES // kept.batch_size)]  # everything was read by then

    def train() -> None:
        for batch in batches[:STEPS]:
            hidden = hidden_states(model, batch["ids"], batch["positions"])
            head = model.get_output_embeddings().weight
            sums = split_loss(hidden, head, batch["labels"], vocab.image_start, vocab.image_end)
            optimizer.zero_grad()
            (sums.total / sums.count).backward()
            optimizer.step()

    def take(stream: Iterator[Example]) -> None:
        for _ in range(STEPS):
            next(stream)

    side_by_side(
        f"{STEPS} steps of {kept.batch_size} documents, and their batches",
        {
            "training steps": train,
            "batches, shards in memory": lambda: take(in_memory),
            "batches, shards read from disk": lambda: take(from_disk),
        },
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
