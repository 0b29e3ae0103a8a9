"""Loading of shards: images against a bare decode of the same bytes, token shards against images and training steps.

Photos are those of `DDT_DATA/flickr8k_224`, as they are and four to a picture, read from disk. Token shards hold
Flickr8k's captions (`DDT_DATA/text/flickr8k_captions.txt.gz`, five an image) and random ids, 256 an image beside the
photos, 32 beside the training step of the default language model.
"""

import gzip
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import compare, side_by_side

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.images import ImageShards, decode_image
from ddt_lightning.shards.module import ShardModule
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.stream import Example
from ddt_lightning.shards.tokens import TokenShards
from ddt_lightning.shards.write import write_shards, write_tokens_json
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.vocab import Vocab, train_text_tokenizer

K, CODES, IMAGES, PER_SHARD, MAX_LENGTH = 32, 512, 4000, 500, 256
STEPS = 8  # of a round
SIDE, BATCH, PHOTO_IDS, WORKERS = 224, 32, 256, (0, 2)
FILES: list[bytes] = []  # encoded photos, which forked processes share


def module(folder: Path, memory_mb: int, length: int = MAX_LENGTH) -> TokenShards:
    """The data of the default configuration, with rows of another length."""
    shards, vocab = [str(folder / "t-*.tar")], str(folder / "vocab")
    data = TokenShards(
        shards, vocab=vocab, t2i=0.7, i2t=0.2, max_length=length, packing=True, row_length=length, workers=0,
        memory_mb=memory_mb, buffer=PER_SHARD,
    )  # fmt: skip
    data.setup("fit")
    return data


def prepare(folder: Path, captions: list[str], ids: int) -> None:
    """Write token shards with so many ids an image, and a vocabulary."""
    rng = numpy_rng("loading benchmark")
    samples = (
        {
            "__key__": f"{n:06d}",
            "ids.npy": rng.integers(CODES, size=ids).astype("uint16"),
            "json": {"captions": captions[5 * n : 5 * n + 5]},
        }
        for n in range(IMAGES)
    )
    write_shards(folder, "t", samples, PER_SHARD)
    write_tokens_json(
        folder, tokenizer="none", K=ids, codebook_size=CODES, order="fine_to_coarse", transform="", source=""
    )
    Vocab(train_text_tokenizer(captions, 1024), CODES, ids, "fine_to_coarse", "none").save(folder / "vocab")


def main() -> None:
    """Print the tables; without the data, one line."""
    data = Path(os.environ.get("DDT_DATA", ""))
    path, photos = data / "text" / "flickr8k_captions.txt.gz", data / "flickr8k_224"
    if not path.is_file() or not photos.is_dir():
        print("\nloading: `DDT_DATA` holds no text/flickr8k_captions.txt.gz or flickr8k_224/: skipped")
        return
    with gzip.open(path, "rt") as lines:
        captions = [line.rstrip("\n").split("\t")[-1] for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        small = sorted(str(file) for file in photos.glob("*-train-*.tar"))
        large = tiled(Path(folder), encoded(small))
        for name, shards in {f"photos of {SIDE} px": small, f"of {2 * SIDE} px, scaled to {SIDE}": large}.items():
            for workers in WORKERS:
                images(name, shards, workers)
        prepare(Path(folder) / "photos", captions, PHOTO_IDS)
        tokens(small, large, Path(folder) / "photos")
        prepare(Path(folder) / "steps", captions, K)
        table(Path(folder) / "steps")


def image_module(shards: list[str], workers: int) -> ImageShards:
    """Photos at their own size, none kept in memory."""
    data = ImageShards(shards, image_size=SIDE, batch_size=BATCH, lanes=1, buffer=256, memory_mb=0, workers=workers)
    data.setup("fit")
    return data


def tiled(folder: Path, files: list[bytes]) -> list[str]:
    """A shard of pictures twice as wide, each of four photos."""

    def pictures() -> Iterator[dict[str, object]]:
        for number in range(len(files) // 4):
            four = [decode_image(file, SIDE) for file in files[4 * number : 4 * number + 4]]
            whole, stream = np.block([[[four[0]], [four[1]]], [[four[2]], [four[3]]]]), io.BytesIO()
            Image.fromarray(whole).save(stream, "JPEG", quality=90)
            yield {"__key__": f"{number:04d}", "jpg": stream.getvalue()}

    return [str(path) for path in write_shards(folder / "tiled", "i", pictures(), 200)]


def encoded(shards: list[str]) -> list[bytes]:
    """The encoded bytes of every photo."""
    return [record["jpg"] for url in shards for record in read_shard(url, {})]


def decode_all(files: list[bytes]) -> None:
    """Decode in this process."""
    for file in files:
        decode_image(file, SIDE)


def decode_part(part: slice) -> None:
    """Decode a part of `FILES` in a worker."""
    decode_all(FILES[part])


def take(data: ShardModule, batches: int) -> float:
    """Seconds of so many batches, behind the first one: the start of workers is none of them."""
    stream = iter(data.train_dataloader())
    next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return time.perf_counter() - start


def images(name: str, shards: list[str], workers: int) -> None:
    """Print the speed of a loader against as many processes that do nothing but decode."""
    FILES[:] = encoded(shards)
    data, batches = image_module(shards, workers), len(FILES) // BATCH
    files, parts = batches * BATCH, max(workers, 1)
    shares = [slice(part, files, parts) for part in range(parts)]
    with ProcessPoolExecutor(parts, multiprocessing.get_context("fork")) as pool:

        def bare() -> float:
            start = time.perf_counter()
            list(pool.map(decode_part, shares)) if workers else decode_all(FILES[:files])
            return time.perf_counter() - start

        compare(
            f"{files} {name}, {workers} workers",
            {"bare decode of the same bytes": bare, "batches": lambda: take(data, batches)},
        )


def tokens(small: list[str], large: list[str], folder: Path) -> None:
    """Print the speed of token shards against image shards, without workers."""
    ids, batches, more = module(folder, 0, 2 * PHOTO_IDS), 6, 16
    share = batches * BATCH / (more * ids.batch_size)  # photos for each token sample
    first, second = image_module(small, 0), image_module(large, 0)
    compare(
        f"{batches * BATCH} samples, 0 workers",
        {
            f"photos of {SIDE} px": lambda: take(first, batches),
            f"photos of {2 * SIDE} px, scaled to {SIDE}": lambda: take(second, batches),
            f"{PHOTO_IDS} ids with captions": lambda: share * take(ids, more),
        },
    )


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

    def some(stream: Iterator[Example]) -> None:
        for _ in range(STEPS):
            next(stream)

    side_by_side(
        f"{STEPS} steps of {kept.batch_size} documents, and their batches",
        {
            "training steps": train,
            "batches, shards in memory": lambda: some(in_memory),
            "batches, shards read from disk": lambda: some(from_disk),
        },
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
