"""Token shards for pretraining: `{"ids": int64 [B,T], "labels": int64 [B,T], "sample": int64 [B]}`, right-padded.

A row is one sample in one of four formats (`vocab.py`): text to image, image to text, image only, text only. Their
shares are exact; which of an image's captions is taken, and whether it is dropped, depends on the sample's number.

The vocabulary is a saved one (`vocab`), or is made once before training and saved in the run's folder: the text
tokenizer is loaded (`text_tokenizer`) or trained on the shards' texts, K, codebook size and order come from the
`tokens.json` beside the shards.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.module import Loader, ShardModule, check_weights, weighted
from ddt_lightning.shards.order import Slot, exact
from ddt_lightning.shards.packing import check_row_length, make_rows
from ddt_lightning.shards.permute import NATURAL, marked, permutation
from ddt_lightning.shards.read import Columns, Reader, Record, captions, expand, read_shard
from ddt_lightning.shards.rows import pick_view, read_ids, texts_of, with_wordings
from ddt_lightning.shards.stream import Example
from ddt_lightning.shards.write import common_fields
from ddt_lightning.vocab import Ids, Vocab, load_text_tokenizer, train_text_tokenizer

MOST_TEXTS = 1_000_000  # texts that the text tokenizer is trained on; more hardly change it
TEXT_MEMBERS = ("txt", "json")


@dataclass(frozen=True)
class RowDecoder:
    """Raw samples to rows.

    Args:
        vocab: the id space.
        max_length: longest row; longer texts are cut, images never.
        caption_drop: how often a `t2i` sample loses its caption and becomes `image_only`; 0 in validation.
        columns: layout of the shards.
        seed: of the choice of captions.
        row_length: see `shards/packing.py`.
        permute: see `shards/permute.py`.
    """

    vocab: Vocab
    max_length: int
    caption_drop: float
    columns: Columns
    seed: int
    row_length: int | None = None
    permute: str = NATURAL

    def __call__(self, record: Record, label: str, sample: int) -> Example:
        """The row of one sample in the format `label`."""
        rng = numpy_rng("row", self.seed, sample)
        texts = captions(record, self.columns) if label != "image_only" else []
        text = texts[int(rng.integers(len(texts)))] if texts else None
        if text is None and label != "image_only":
            raise ValueError(f"has no text for the format {label}")
        if label == "text_only":
            ids, labels = self.vocab.text_only(text or "", self.max_length)
            return {"ids": ids, "labels": labels}
        image = in_order(pick_view(read_ids(record), self.seed, sample), self.permute, self.vocab)
        if label == "i2t":
            ids, labels = self.vocab.i2t(image, text or "", self.max_length)
        elif label == "image_only" or rng.random() < self.caption_drop:
            ids, labels = self.vocab.image_only(image)
        else:
            ids, labels = self.vocab.t2i(text or "", image, self.max_length)
        return {"ids": ids, "labels": labels}

    def collate(self, examples: list[Example]) -> Example:
        """Padded or packed ids and labels."""
        return make_rows(examples, self.vocab.pad, self.row_length)


def in_order(ids: NDArray[np.int64], permute: str, vocab: Vocab) -> Ids:
    """Image ids `[K]` so that the model, whatever the vocabulary's order, sees them permuted from that order."""
    if permute == NATURAL:
        return ids
    seen = vocab.reorder(torch.from_numpy(ids))[permutation(permute, len(ids))]
    return vocab.reorder(seen)


def has_ids(record: Record) -> bool:
    """Whether a raw sample has image ids."""
    return "ids.npy" in record


def has_text(record: Record) -> bool:
    """Whether a raw sample has a member with texts."""
    return any(member in record for member in TEXT_MEMBERS)


def has_both(record: Record) -> bool:
    """Whether a raw sample has image ids and texts."""
    return has_ids(record) and has_text(record)


class TokenShards(ShardModule):
    """Rows of image and text ids in a reproducible order.

    Args:
        shards: token shards, paths with braces, globs and `${DDT_DATA}`.
        val_shards: held-out token shards; null does not validate.
        val_text_shards: held-out shards with texts (`KEY.txt`), for the perplexity of text alone.
        text_shards: shards with texts alone (`KEY.txt`) for the share `text_only`; null takes the captions.
        texts: more shards whose texts the text tokenizer is trained on, e.g. edits and questions.
        vocab: folder of a saved vocabulary; null makes one and saves it in the run's folder.
        text_tokenizer: folder of a text tokenizer for that, e.g. of a Llama; null trains one.
        text_vocab_size: the most pieces of a trained text tokenizer.
        permute: order in which the model sees an image's ids, `natural`, `reversed`, `stride-N` or `random-SEED`; for
            studies, as what was trained in another order than the natural one cannot draw.
        columns: where the texts lie in shards of another layout.
        weights: `shards` or `text_shards` -> a weight for each of its patterns, which then are sources of their own
            with exact shares, e.g. `{shards: [0.7, 0.3]}`; null takes all their samples alike.
        t2i: share of rows caption -> image.
        i2t: share of rows image -> caption.
        image_only: share of rows without a caption, besides what `caption_drop` adds.
        text_only: share of rows without an image.
        caption_drop: how often a t2i row loses its caption, which is what makes guidance possible.
        max_length: longest document; longer texts are cut, images never.
        packing: several documents a row instead of one and padding.
        row_length: longest row of several documents.
        batch_size: global batch size in documents, over all processes.
        lanes: into how many lanes the training order is dealt; a multiple of the number of processes.
        buffer: raw samples in the shuffle buffer of each sequence of shards.
        workers: worker processes of each training process.
        memory_mb: shard sets of at most this size stay in memory after their first reading.
        resample: draw an epoch's shards with replacement.
        val_samples: validate on at most so many rows.
        seed: of the order and of every draw.
    """

    vocab: Vocab

    def __init__(
        self,
        shards: list[str],
        val_shards: list[str] | None = None,
        val_text_shards: list[str] | None = None,
        text_shards: list[str] | None = None,
        texts: list[str] | None = None,
        vocab: str | None = None,
        text_tokenizer: str | None = None,
        text_vocab_size: int = 1024,
        permute: str = NATURAL,
        columns: Columns | None = None,
        weights: dict[str, list[float]] | None = None,
        t2i: float = 0.6,
        i2t: float = 0.3,
        image_only: float = 0.0,
        text_only: float = 0.1,
        caption_drop: float = 0.1,
        max_length: int = 256,
        packing: bool = False,
        row_length: int = 512,
        batch_size: int = 64,
        lanes: int = 4,
        buffer: int = 2000,
        workers: int = 1,
        memory_mb: int = 256,
        resample: bool = False,
        val_samples: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, lanes, buffer, workers, memory_mb, resample, val_samples, seed)
        if not 0 <= caption_drop <= 1:
            raise ValueError(f"`data.caption_drop` ({caption_drop}) must be between 0 and 1.")
        if packing:
            check_row_length(row_length, max_length)
        self.row_length = row_length if packing else None
        shares = {"t2i": t2i, "i2t": i2t, "image_only": image_only, "text_only": text_only}
        if min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError(
                f"`data.{min(shares, key=lambda k: shares[k])}` {shares}: shares must be 0 or more, not all 0."
            )
        self.shards, self.val_shards, self.text_shards, self.texts = shards, val_shards, text_shards, texts
        self.vocab_folder, self.text_tokenizer, self.text_vocab_size = vocab, text_tokenizer, text_vocab_size
        permutation(permute, 1)  # refuses an unknown name
        self.permute = permute
        self.columns, self.weights = columns or Columns(), weights or {}
        check_weights(self.weights, {"shards": shards, "text_shards": text_shards})
        self.val_text_shards = val_text_shards
        self.shares, self.caption_drop, self.max_length = shares, caption_drop, max_length

    def prepare_data(self) -> None:
        """Make the vocabulary and save it in the run's folder, on one process; one that is there is kept."""
        if self.vocab_folder is not None or (self.run_vocab() / "vocab.json").exists():
            return
        urls = expand(self.shards, "data.shards")
        fields, _ = common_fields(urls, "data.shards")
        if self.text_tokenizer is not None:
            text = load_text_tokenizer(self.text_tokenizer)
        else:
            text = train_text_tokenizer(with_wordings(islice(self._texts(urls), MOST_TEXTS)), self.text_vocab_size)
        tokenizer = marked(fields["tokenizer"], self.permute)
        vocab = Vocab(text, fields["codebook_size"], fields["K"], fields["order"], tokenizer)
        target = self.run_vocab()
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".vocab-", dir=target.parent))
        try:
            part.chmod(0o755)
            vocab.save(part)
            if target.exists() and not (target / "vocab.json").exists():
                shutil.rmtree(target)
            os.replace(part, target)
        except OSError:
            if not (target / "vocab.json").exists():  # otherwise another node was faster, with the same result
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def setup(self, stage: str) -> None:
        """Load the vocabulary, find and check the shards.

        Raises:
            FileNotFoundError: a shard, a match, a `tokens.json` or the vocabulary is missing.
            ValueError: shards that disagree with each other or with the vocabulary, or that lack ids or texts.
        """
        self.ranks()
        urls = expand(self.shards, "data.shards")
        val_urls = expand(self.val_shards, "data.val_shards") if self.val_shards is not None else []
        self.vocab = load_vocab(self.vocab_folder or self.run_vocab(), [*urls, *val_urls], "data.shards", self.permute)
        check_length(self.max_length, self.vocab.image_tokens)
        if self.shares["t2i"] + self.shares["i2t"] > 0:
            usable, wanted = has_both, "image ids (ids.npy) and a text (txt, json)"
        else:
            usable, wanted = has_ids, "image ids (ids.npy)"
        if stage == "fit":
            sources = weighted(self.shards, "shards", self.weights)
            self.train_readers = [self.reader(part, usable, "data.shards", wanted, train=True) for part, _ in sources]
            lines = []
            if self.text_shards is not None and self.shares["text_only"]:
                lines = weighted(self.text_shards, "text_shards", self.weights)
            for part, _ in lines:
                self.train_readers.append(self.reader(part, has_text, "data.text_shards", "a text (txt)", train=True))
            self.train_slots = self.slots([share for _, share in sources], [share for _, share in lines])
        if val_urls:
            self.val_reader = self.reader(val_urls, usable, "data.val_shards", wanted, train=False)
        if self.val_text_shards is not None:
            self.text_reader = text_reader(self, self.val_text_shards)

    def train_dataloader(self) -> Loader:
        """Endless batches of this process."""
        decoder = self.decoder(self.caption_drop, self.seed)
        return self.train_loader(self.train_readers, self.train_slots, decoder)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Held-out batches of this process in the same shares, with every caption; then those of text alone."""
        loaders: list[Loader] = []
        decoder = self.decoder(0.0, 0)
        if self.val_shards is not None:
            loaders.append(self.val_loader([self.val_reader], self.slots([Fraction(1)], []), decoder))
        if self.val_text_shards is not None:
            self.text_loader = len(loaders)
            loaders.append(self.val_loader([self.text_reader], [Slot(0, 1.0, "text_only")], decoder))
        return loaders[0] if len(loaders) == 1 else loaders

    def decoder(self, caption_drop: float, seed: int) -> RowDecoder:
        """Raw samples to rows, for training or validation."""
        return RowDecoder(self.vocab, self.max_length, caption_drop, self.columns, seed, self.row_length, self.permute)

    def slots(self, images: list[Fraction], texts: list[Fraction]) -> list[Slot]:
        """The formats' shares over the sources of images and then those of text alone, if any."""
        sources = list(enumerate(images))
        lines = list(enumerate(texts, len(images))) or sources
        return [
            Slot(source, exact(share) * part, label)
            for label, share in self.shares.items()
            for source, part in (lines if label == "text_only" else sources)
        ]

    def run_vocab(self) -> Path:
        """Where this run keeps its vocabulary."""
        if self.trainer is None:
            raise ValueError("`data.vocab` must name a folder where no run is trained.")
        return Path(self.trainer.default_root_dir) / "vocab"

    def _texts(self, urls: list[str]) -> Iterator[str]:
        """Every text that the text tokenizer is trained on, in file order."""
        more = {"data.text_shards": self.text_shards, "data.texts": self.texts}
        for option, patterns in more.items():
            urls = [*urls, *(expand(patterns, option) if patterns is not None else [])]
        for url in urls:
            for record in read_shard(url, {}):
                yield from texts_of(record, self.columns)


def text_reader(module: ShardModule, patterns: list[str]) -> Reader:
    """Held-out texts."""
    option = "data.val_text_shards"
    return module.reader(expand(patterns, option), has_text, option, "a text (txt)", train=False)


def load_vocab(folder: str | Path, urls: list[str], option: str, permute: str = NATURAL) -> Vocab:
    """A saved vocabulary, checked against the `tokens.json` files beside some token shards read in the order `permute`.

    Raises:
        FileNotFoundError: there is no vocabulary, or no `tokens.json`.
        ValueError: they were made for different image tokenizers.
    """
    vocab = Vocab.load(folder)
    fields, place = common_fields(urls, option)
    vocab.check({**fields, "tokenizer": marked(fields["tokenizer"], permute)}, f"{place}/tokens.json")
    return vocab


def check_length(max_length: int, image_tokens: int) -> None:
    """Refuse rows that cannot hold one image and its marks.

    Raises:
        ValueError: `max_length` is too small.
    """
    if max_length < image_tokens + 4:
        raise ValueError(
            f"`data.max_length` ({max_length}) must be at least {image_tokens + 4}: an image has {image_tokens} ids."
        )
