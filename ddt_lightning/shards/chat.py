"""Conversations for instruction tuning: `{"ids": int64 [B,T], "labels": int64 [B,T], "sample": int64 [B]}`.

Sources with exact shares: token shards of captioned images, asked for in many wordings (draw, describe), and
conversation shards (`KEY.json {"turns": [...]}` with `KEY.ids.npy [n,K]`, or without it where no image is shown), among
them edits and questions as `ddt encode` writes them (`to_turns`). A sample may have a plan, a text that the assistant
writes before it draws, or before it says in words what it sees. Only what the assistant says is scored.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddt_lightning.sampling import PLAN_END
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.conversations import Turns, check_turns
from ddt_lightning.shards.documents import DocumentShards, has_both, has_ids
from ddt_lightning.shards.images import ImageSample
from ddt_lightning.shards.members import Record
from ddt_lightning.shards.module import Loader, check_weights, weighted
from ddt_lightning.shards.order import Slot, exact
from ddt_lightning.shards.packing import make_rows
from ddt_lightning.shards.read import Columns, Reader, read_shard
from ddt_lightning.shards.remote import is_remote
from ddt_lightning.shards.rows import DESCRIBE, DRAW, pick_view, plans_of, read_ids, word
from ddt_lightning.shards.stream import Example
from ddt_lightning.shards.texts import captions, read_json
from ddt_lightning.shards.write import folder_of
from ddt_lightning.vocab import Vocab

CAPTIONED = "image ids (ids.npy) and a text (txt, json)"
TURNS = 'image ids (ids.npy) and {"turns": ...} (json)'
SPOKEN = '{"turns": ...} (json)'


def is_spoken(record: Record) -> bool:
    """Whether a raw sample has a conversation, with image ids or without."""
    return b'"turns"' in record.get("json", b"")


def has_turns(record: Record) -> bool:
    """Whether a raw sample has image ids and a conversation."""
    return has_ids(record) and is_spoken(record)


def exchange(request: list[Any], answer: list[Any]) -> Turns:
    """One turn of the user and one of the assistant; parts are texts and `{"image": i}`."""
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


def drawing_turns(turns: Turns) -> list[int]:
    """Numbers of the turns in which the assistant answers with an image."""
    answers = [(n, turn["content"]) for n, turn in enumerate(turns) if turn["role"] == "assistant"]
    return [n for n, content in answers if any(not isinstance(part, str) for part in content)]


def planned_turns(turns: Turns) -> list[int]:
    """Numbers of the turns that a plan stands before: those with an image, or else all of the assistant's."""
    return drawing_turns(turns) or list(range(1, len(turns), 2))


def plans_of_turns(data: object, turns: Turns) -> list[str]:
    """The plans in the json of a conversation, one for each of `planned_turns`; otherwise as `plans_of`."""
    what = "answers with an image" if drawing_turns(turns) else "answers"
    return plans_of(data, len(planned_turns(turns)), what)


def with_plans(turns: Turns, plans: list[str]) -> Turns:
    """A conversation with a plan before each of `planned_turns`; before a text it ends with `PLAN_END`."""
    if not drawing_turns(turns):
        plans = [plan if plan.endswith(PLAN_END) else f"{plan} {PLAN_END}" for plan in plans]
    before = dict(zip(planned_turns(turns), plans, strict=True))
    return [
        {**turn, "content": [before[n], *turn["content"]]} if before.get(n) else turn for n, turn in enumerate(turns)
    ]


def holds_plans(urls: list[str], cache: str | None = None) -> bool:
    """Whether a shard begins with a sample that has a plan; of remote shards only the first one is opened."""
    local = [url for n, url in enumerate(urls) if n == 0 or not is_remote(url)]
    first = (record for url in local for record in islice(read_shard(url, {}, cache), 1))
    return any(b'"plan"' in record.get("json", b"") for record in first)


def to_turns(sample: ImageSample) -> list[Turns]:
    """The conversations that a sample stands for: one for an edit or a chat, one for each question.

    Image 0 is the (source) image, image 1 the target. A question's answer is `answer`, or the most frequent of
    `answers`. A captioned image gives none: it stays a token sample.
    """
    if isinstance(sample.data, dict) and "turns" in sample.data:
        return [sample.data["turns"]]
    if len(sample.images) == 2:
        return [exchange([{"image": 0}, text], [{"image": 1}]) for text in sample.texts[:1]]
    return [exchange([{"image": 0}, asked["question"]], [asked["answer"]]) for asked in sample.questions]


def token_keys(key: str, turns: list[Turns]) -> list[str]:
    """The keys of a sample's token samples: its own, numbered where it gives several conversations."""
    return [key] if len(turns) < 2 else [f"{key}-{number}" for number in range(len(turns))]


def claim(keys: list[str], taken: set[str]) -> None:
    """Add the keys of a sample's token samples to those of a shard.

    Raises:
        ValueError: another sample of the shard has one of them.
    """
    for key in keys:
        if key in taken:
            raise ValueError(f"its token sample {key} would have the key of another one: rename it")
    taken.update(keys)


def with_ids(urls: list[str], cache: str | None = None) -> list[str]:
    """The shards whose first sample has image ids; of remote ones in a folder only the first is opened."""
    found: dict[str, bool] = {}
    kept = []
    for url in urls:
        place = folder_of(url) if is_remote(url) else url
        if place not in found:
            found[place] = any(has_ids(record) for record in islice(read_shard(url, {}, cache), 1))
        if found[place]:
            kept.append(url)
    return kept


@dataclass(frozen=True)
class ChatDecoder:
    """Raw samples to conversations.

    Args:
        vocab: the id space.
        max_length: longest row; longer texts are cut, images never.
        caption_drop: how often what the user wrote is left out where the assistant draws; 0 in validation.
        seed: of wordings, choice of captions, plans, and dropping.
        row_length: see `shards/packing.py`.
        plans: how often a plan that a sample has is written before its image or its answer; before a description of
            the image only where the vocabulary says that answers are planned.
    """

    vocab: Vocab
    max_length: int
    caption_drop: float
    seed: int
    row_length: int | None = None
    plans: float = 1.0

    def __call__(self, record: Record, label: str, sample: int) -> Example:
        """The row of one sample; `label` is `draw`, `describe`, or another name for turns as they are."""
        rng = numpy_rng("chat", self.seed, sample)
        images = read_ids(record) if has_ids(record) else np.empty((0, self.vocab.image_tokens), np.int64)
        data = read_json(record)
        if label in ("draw", "describe"):
            texts = captions(record, Columns(), data)
            if not texts:
                raise ValueError(f"has no text for the format {label}")
            number = int(rng.integers(len(texts)))
            text = texts[number]
            images = pick_view(images, self.seed, sample)[None]
            if label == "draw":
                turns = exchange([word(rng, DRAW, text)], [{"image": 0}])
            else:
                turns = exchange([{"image": 0}, word(rng, DESCRIBE)], [text])
            if label == "draw" or self.vocab.answer_plans:
                plans = plans_of(data, len(texts), "captions")
                turns = self.planned(turns, plans[number : number + 1], rng)
        else:
            turns = data["turns"]
            check_turns(turns, len(images))
            turns = self.planned(turns, plans_of_turns(data, turns), rng)
        draws = any(not isinstance(part, str) for turn in turns[1::2] for part in turn["content"])
        ids, labels = self.fit(turns, images, drop_text=draws and rng.random() < self.caption_drop)
        return {"ids": ids, "labels": labels}

    def planned(self, turns: Turns, plans: list[str], rng: np.random.Generator) -> Turns:
        """The conversation with its plans, as often as `plans` says; as it is where it has none."""
        if not plans or rng.random() >= self.plans:
            return turns
        return with_plans(turns, plans)

    def fit(self, turns: Turns, images: NDArray[np.int64], drop_text: bool) -> tuple[list[int], list[int]]:
        """The conversation as ids and labels, its longest text cut until it has at most `max_length` ids.

        Raises:
            ValueError: the images alone are longer.
        """
        while True:
            ids, labels = self.vocab.conversation(turns, images, drop_text=drop_text)
            over = len(ids) - self.max_length
            if over <= 0:
                return ids, labels
            texts = [part for turn in turns for part in turn["content"] if isinstance(part, str)]
            longest = max(texts, key=len, default="")
            pieces = self.vocab.encode_text(longest)
            if not pieces:
                raise ValueError(f"has {len(ids)} ids, more than `data.max_length` ({self.max_length})")
            kept = self.vocab.decode_text(pieces[: max(len(pieces) - over, 0)])
            shorter = kept if len(kept) < len(longest) else longest[: len(longest) // 2]
            turns = [
                {**turn, "content": [shorter if part == longest else part for part in turn["content"]]}
                for turn in turns
            ]

    def collate(self, examples: list[Example]) -> Example:
        """Padded or packed ids and labels."""
        return make_rows(examples, self.vocab.pad, self.row_length)


class ChatShards(DocumentShards):
    """Conversations in a reproducible order. A share counts where its shards are given.

    Args:
        vocab: folder of the vocabulary that the language model was pretrained with.
        images: token shards of captioned images, for `draw` and `describe`.
        edits: conversation shards of edits.
        questions: conversation shards of questions and answers.
        conversations: any other conversation shards; those in which no image is shown need no `tokens.json`.
        val_images: held-out shards of the same kind; without any held-out shards there is no validation.
        val_edits: held-out shards of the same kind.
        val_questions: held-out shards of the same kind.
        val_conversations: held-out shards of the same kind.
        weights: `images`, `edits`, `questions` or `conversations` -> a weight for each of its patterns, which then are
            sources of their own with exact shares, e.g. `{conversations: [3, 1]}`; null takes all samples alike.
        draw: share of captions to draw.
        describe: share of images to describe.
        edit: share of edits.
        answer: share of questions.
        converse: share of other conversations.
        plans: how often the plan of a sample that has one is written before its image or its answer. Where it is
            above 0 and there are plans, the vocabulary says so, and the model plans without being told to.
        **documents: options that `DocumentShards` has and every data module has.
    """

    def __init__(
        self,
        vocab: str,
        images: list[str] | None = None,
        edits: list[str] | None = None,
        questions: list[str] | None = None,
        conversations: list[str] | None = None,
        val_images: list[str] | None = None,
        val_edits: list[str] | None = None,
        val_questions: list[str] | None = None,
        val_conversations: list[str] | None = None,
        weights: dict[str, list[float]] | None = None,
        draw: float = 0.4,
        describe: float = 0.15,
        edit: float = 0.25,
        answer: float = 0.2,
        converse: float = 0.2,
        plans: float = 1.0,
        **documents: Any,
    ) -> None:
        super().__init__(**documents)
        if not 0 <= plans <= 1:
            raise ValueError(f"`data.plans` ({plans}) must be between 0 and 1.")
        self.plans = plans
        self.vocab_folder = vocab
        self.train_shards = {
            "images": images,
            "edits": edits,
            "questions": questions,
            "conversations": conversations,
        }
        self.val_shards = {
            "val_images": val_images,
            "val_edits": val_edits,
            "val_questions": val_questions,
            "val_conversations": val_conversations,
        }
        if not any(self.train_shards.values()):
            raise ValueError("`data.images`, `data.edits`, `data.questions`, `data.conversations`: give at least one.")
        self.weights = weights or {}
        check_weights(self.weights, self.train_shards)
        # label -> (number of its source, share)
        self.shares = {
            "draw": (0, draw),
            "describe": (0, describe),
            "edit": (1, edit),
            "answer": (2, answer),
            "converse": (3, converse),
        }

    def setup(self, stage: str) -> None:
        """Load the vocabulary, find and check the shards.

        Raises:
            FileNotFoundError: a shard, a match, a `tokens.json` or the vocabulary is missing.
            ValueError: shards that disagree with each other or with the vocabulary, or that lack ids or turns.
        """
        self.ranks()
        train = {key: weighted(patterns, key, self.weights) for key, patterns in self.train_shards.items() if patterns}
        val = {key: weighted(patterns, key, {}) for key, patterns in self.val_shards.items() if patterns}
        found = [(key, urls) for key, parts in (*train.items(), *val.items()) for urls, _ in parts]
        every = [
            url
            for key, urls in found
            for url in (with_ids(urls, self.cache) if key.endswith("conversations") else urls)
        ]
        self.set_up_vocab(self.vocab_folder, every, "data")
        if stage == "fit":
            planned = {
                option: self.plans > 0 and any(holds_plans(urls, self.cache) for urls, _ in parts)
                for option, parts in train.items()
            }
            self.vocab.answer_plans = planned.pop("questions", False)
            self.vocab.plans = any(planned.values())
            self.train_readers, self.train_slots = self.sources(train, list(self.train_shards), train=True)
        self.val_readers, self.val_slots = self.sources(val, list(self.val_shards), train=False)
        self.set_up_texts()

    def sources(
        self, found: dict[str, list[tuple[list[str], Fraction]]], options: list[str], *, train: bool
    ) -> tuple[list[Reader], list[Slot]]:
        """Checked readers of the shards that are given, and the shares of what they hold."""
        readers, slots = [], []
        for number, option in enumerate(options):
            usable, wanted = ((has_both, CAPTIONED), (has_turns, TURNS), (has_turns, TURNS), (is_spoken, SPOKEN))[
                number
            ]
            for urls, part in found.get(option, []):
                readers.append(self.reader(urls, usable, f"data.{option}", wanted, train=train))
                for label, (source, share) in self.shares.items():
                    if source == number:
                        slots.append(Slot(len(readers) - 1, exact(share) * part, label))
        return readers, slots

    def train_dataloader(self) -> Loader:
        """Endless batches of this process."""
        decoder = ChatDecoder(self.vocab, self.max_length, self.caption_drop, self.seed, self.row_length, self.plans)
        return self.train_loader(self.train_readers, self.train_slots, decoder)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Held-out batches of this process in the same shares; then those of text alone, as in pretraining."""
        if not self.val_readers:
            return self.with_texts(None)
        decoder = ChatDecoder(self.vocab, self.max_length, 0.0, 0, self.row_length, self.plans)
        return self.with_texts(self.val_loader(self.val_readers, self.val_slots, decoder))
