"""Token shards for pretraining: `{"ids": int64 [B,T], "labels": int64 [B,T], "sample": int64 [B]}`, right-padded.

A row is one sample in one of four formats (`vocab.py`): text to image, image to text, image only, text only. Their
shares are exact; which of an image's captions is taken, and whether it is dropped, depends on the sample's number.

The vocabulary is a saved one (`vocab`), or is made once before training and saved in the run's folder: the text
tokenizer is loaded (`text_tokenizer`) or trained on the shards' texts, K, codebook size and order come from the
`tokens.json` beside the shards.
"""

import shutil
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import whole_folder
from ddt_lightning.shards.documents import DocumentShards, RowDecoder, has_both, has_ids, has_text
from ddt_lightning.shards.module import Loader, check_weights, weighted
from ddt_lightning.shards.order import Slot, exact
from ddt_lightning.shards.permute import NATURAL, marked, permutation
from ddt_lightning.shards.read import Columns, expand
from ddt_lightning.shards.rows import every_text, with_wordings
from ddt_lightning.shards.write import common_fields
from ddt_lightning.vocab import Vocab, gather_words, load_text_tokenizer, train_text_tokenizer

MOST_TEXTS = 1_000_000  # texts that the text tokenizer is trained on; more hardly change it


class TokenShards(DocumentShards):
    """Rows of image and text ids in a reproducible order.

    Args:
        shards: token shards, paths with braces, globs and `${DDT_DATA}`.
        val_shards: held-out token shards; null does not validate.
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
        plans: how often a plan that a sample has follows its caption, so that drawing by a plan, and reading one off
            an image, are learned before instruction tuning asks for them.
        **documents: options that `DocumentShards` has and every data module has.
    """

    def __init__(
        self,
        shards: list[str],
        val_shards: list[str] | None = None,
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
        plans: float = 0.5,
        **documents: Any,
    ) -> None:
        super().__init__(**documents)
        shares = {"t2i": t2i, "i2t": i2t, "image_only": image_only, "text_only": text_only}
        if min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError(
                f"`data.{min(shares, key=lambda k: shares[k])}` {shares}: shares must be 0 or more, not all 0."
            )
        if not 0 <= plans <= 1:
            raise ValueError(f"`data.plans` ({plans}) must be between 0 and 1.")
        self.plans = plans
        self.shards, self.val_shards, self.text_shards, self.texts = shards, val_shards, text_shards, texts
        self.vocab_folder, self.text_tokenizer, self.text_vocab_size = vocab, text_tokenizer, text_vocab_size
        permutation(permute, 1)  # refuses an unknown name
        self.permute = permute
        self.columns, self.weights = columns or Columns(), weights or {}
        check_weights(self.weights, {"shards": shards, "text_shards": text_shards})
        self.shares = shares

    def prepare_data(self) -> None:
        """Make the vocabulary and save it in the run's folder, on one process; one that is there is kept."""
        if self.vocab_folder is not None or (self.run_vocab() / "vocab.json").exists():
            return
        urls = expand(self.shards, "data.shards")
        fields, _ = common_fields(urls, "data.shards")
        words: set[str] | None = None
        if self.text_tokenizer is not None:
            text = load_text_tokenizer(self.text_tokenizer)
        else:
            texts, words = self._texts(urls), set()
            read = gather_words(with_wordings(islice(texts, MOST_TEXTS)), words)
            text = train_text_tokenizer(read, self.text_vocab_size)
            words = words if next(texts, None) is None else None  # those of texts that were not read are not known
        tokenizer = marked(fields["tokenizer"], self.permute)
        known = None if words is None else frozenset(words)
        vocab = Vocab(text, fields["codebook_size"], fields["K"], fields["order"], tokenizer, words=known)
        target = self.run_vocab()
        try:
            with whole_folder(target) as part:
                vocab.save(part)
                if target.exists() and not (target / "vocab.json").exists():
                    shutil.rmtree(target)
        except OSError:
            if not (target / "vocab.json").exists():  # otherwise another node was faster, with the same result
                raise

    def setup(self, stage: str) -> None:
        """Load the vocabulary, find and check the shards.

        Raises:
            FileNotFoundError: a shard, a match, a `tokens.json` or the vocabulary is missing.
            ValueError: shards that disagree with each other or with the vocabulary, or that lack ids or texts.
        """
        self.ranks()
        urls = expand(self.shards, "data.shards")
        val_urls = expand(self.val_shards, "data.val_shards") if self.val_shards is not None else []
        self.set_up_vocab(self.vocab_folder or self.run_vocab(), [*urls, *val_urls], "data.shards", self.permute)
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
        self.set_up_texts()

    def train_dataloader(self) -> Loader:
        """Endless batches of this process."""
        decoder = self.decoder(self.caption_drop, self.seed)
        return self.train_loader(self.train_readers, self.train_slots, decoder)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Held-out batches of this process in the same shares, with every caption; then those of text alone."""
        if self.val_shards is None:
            return self.with_texts(None)
        slots = self.slots([Fraction(1)], [])
        return self.with_texts(self.val_loader([self.val_reader], slots, self.decoder(0.0, 0)))

    def decoder(self, caption_drop: float, seed: int) -> RowDecoder:
        """Raw samples to rows, for training or validation."""
        return RowDecoder(
            self.vocab, self.max_length, caption_drop, self.columns, seed, self.row_length, self.permute, self.plans
        )

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
        """Folder of this run's vocabulary."""
        if self.trainer is None:
            raise ValueError("`data.vocab` must name a folder where no run is trained.")
        return Path(self.trainer.default_root_dir) / "vocab"

    def _texts(self, urls: list[str]) -> Iterator[str]:
        """Every text that the text tokenizer is trained on, in file order."""
        more = {"data.text_shards": self.text_shards, "data.texts": self.texts}
        for option, patterns in more.items():
            urls = [*urls, *(expand(patterns, option) if patterns is not None else [])]
        yield from every_text(urls, self.columns, self.skipped, self.cache)
