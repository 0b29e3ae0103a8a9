"""Documents of text and image ids: raw token samples to documents, and the base of the data modules for them.

A document is one sample in one of four formats (`vocab.py`): text to image, image to text, image only, text only; in
instruction tuning (`shards/chat.py`) a conversation. A row holds one document and padding, or several (`packing.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.members import Record
from ddt_lightning.shards.module import Loader, ShardModule
from ddt_lightning.shards.order import Slot
from ddt_lightning.shards.packing import check_row_length, make_rows
from ddt_lightning.shards.permute import NATURAL, marked, permutation
from ddt_lightning.shards.read import Columns, expand
from ddt_lightning.shards.rows import pick_view, plans_of, read_ids
from ddt_lightning.shards.stream import Example
from ddt_lightning.shards.texts import captions, read_json
from ddt_lightning.shards.write import common_fields
from ddt_lightning.vocab import Ids, Vocab

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
        plans: how often a plan that a sample has follows its caption, as one text: `a red ring: red ring 5 4 6 |`.
    """

    vocab: Vocab
    max_length: int
    caption_drop: float
    columns: Columns
    seed: int
    row_length: int | None = None
    permute: str = NATURAL
    plans: float = 0.0

    def __call__(self, record: Record, label: str, sample: int) -> Example:
        """The row of one sample in the format `label`."""
        rng = numpy_rng("row", self.seed, sample)
        text = self.text(record, label, rng) if label != "image_only" else None
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

    def text(self, record: Record, label: str, rng: np.random.Generator) -> str:
        """One of the texts of a sample; where there is an image beside it, perhaps with the plan of the image."""
        data = read_json(record)
        texts = captions(record, self.columns, data)
        if not texts:
            raise ValueError(f"has no text for the format {label}")
        number = int(rng.integers(len(texts)))
        if not self.plans or self.columns.text or label == "text_only":  # plans are those of a sample's own captions
            return texts[number]
        plans = plans_of(data, len(texts), "captions")
        return f"{texts[number]}: {plans[number]}" if plans and rng.random() < self.plans else texts[number]

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


class DocumentShards(ShardModule):
    """The base of the data modules for a language model: vocabulary, lengths, packing, and validation on text alone.

    Args:
        caption_drop: how often a prompt for an image loses its text, which is what makes guidance possible.
        max_length: longest document; longer texts are cut, images never.
        packing: several documents a row instead of one and padding.
        row_length: longest row of several documents.
        val_text_shards: held-out shards with texts (`KEY.txt`), for the perplexity of text alone.
        **order: options of every data module, see `ShardModule`.
    """

    vocab: Vocab
    columns = Columns()

    def __init__(
        self,
        caption_drop: float = 0.1,
        max_length: int = 256,
        packing: bool = False,
        row_length: int = 512,
        val_text_shards: list[str] | None = None,
        **order: Any,
    ) -> None:
        super().__init__(**order)
        if not 0 <= caption_drop <= 1:
            raise ValueError(f"`data.caption_drop` ({caption_drop}) must be between 0 and 1.")
        if packing:
            check_row_length(row_length, max_length)
        self.row_length = row_length if packing else None
        self.caption_drop, self.max_length, self.val_text_shards = caption_drop, max_length, val_text_shards

    def set_up_vocab(self, folder: str | Path, urls: list[str], option: str, permute: str = NATURAL) -> None:
        """Load the vocabulary, checked against token shards as `load_vocab` and against the length of rows.

        Raises:
            FileNotFoundError: there is no vocabulary, or no `tokens.json`.
            ValueError: they were made for different image tokenizers, or `max_length` cannot hold an image.
        """
        self.vocab = load_vocab(folder, urls, option, permute)
        least = self.vocab.image_tokens + 4  # an image and its marks
        if self.max_length < least:
            raise ValueError(
                f"`data.max_length` ({self.max_length}) must be at least {least}: an image has "
                f"{self.vocab.image_tokens} ids."
            )

    def set_up_texts(self) -> None:
        """Find and check the held-out texts, if there are any."""
        if self.val_text_shards is not None:
            option = "data.val_text_shards"
            urls = expand(self.val_text_shards, option)
            self.text_reader = self.reader(urls, has_text, option, "a text (txt)", train=False)

    def with_texts(self, documents: Loader | None) -> Loader | list[Loader]:
        """The validation loaders: held-out documents, if there are any, and then held-out texts alone."""
        loaders = [] if documents is None else [documents]
        if self.val_text_shards is not None:
            self.text_loader = len(loaders)
            decoder = RowDecoder(self.vocab, self.max_length, 0.0, self.columns, 0, self.row_length)
            loaders.append(self.val_loader([self.text_reader], [Slot(0, 1.0, "text_only")], decoder))
        return loaders[0] if len(loaders) == 1 else loaders


def load_vocab(folder: str | Path, urls: list[str], option: str, permute: str = NATURAL) -> Vocab:
    """A saved vocabulary, checked against the `tokens.json` files beside some token shards read in the order `permute`.

    Without shards there is nothing to check.

    Raises:
        FileNotFoundError: there is no vocabulary, or no `tokens.json`.
        ValueError: they were made for different image tokenizers.
    """
    vocab = Vocab.load(folder)
    if not urls:
        return vocab
    fields, place = common_fields(urls, option)
    vocab.check({**fields, "tokenizer": marked(fields["tokenizer"], permute)}, f"{place}/tokens.json")
    return vocab
