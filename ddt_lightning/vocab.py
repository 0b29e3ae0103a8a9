"""One id space for text and images, and every sequence the language model ever sees.

    [ text pieces: 0 .. text_size ) [ image codes: image_start .. image_end ) [BOV] [EOV]

Text to ids and back, image ids `[K]` (codebook order) to LM ids `[K]` (the model's order, offset added) and back, and
the sequence formats. Training, generation and export all take their sequences from here:

    text_only   BOS text EOS                     image_only  BOS image EOS
    t2i         BOS text image EOS               i2t         BOS image text EOS
    chat        BOS USER: parts ASSISTANT: parts EOS USER: ...       parts = any mix of text and images
    image       [BOV] id_1 .. id_K [EOV]         text        one space, then the text

The leading space makes a word the same piece at the start of a text and inside it. Everything after BOS is scored but
the EOS of image_only, in chat only what an assistant says and the EOS that ends it. BOS, EOS and PAD are the text
tokenizer's own; the only new specials are [BOV] and [EOV]. The vocabulary is not padded: a model has `Vocab.size` rows.

Special strings inside a text are split into ordinary pieces, never parsed, so a user cannot forge a special id; nor a
turn: inside a turn "USER:" is written "USER :".
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ddt_lightning.atomic import write_json, write_text

TokenOrder = Literal["fine_to_coarse", "coarse_to_fine", "raster"]  # raster: a grid's ids, for comparison
Ids = Sequence[int] | np.ndarray | Tensor
Images = Sequence[Ids] | np.ndarray | Tensor
Turn = Mapping[str, Any]

WORD = re.compile(r"[^\W_]+")
WORDS = "words.txt"  # beside vocab.json, a word of the training texts on each line
IGNORE = -100  # label of a position that is not scored
ROLES = {"user": "USER:", "assistant": "ASSISTANT:"}

# Tokenizers without a pad token, most suitable stand-in first (Llama 3.1 and later, Llama 3, Llama 2).
_PAD_STAND_INS = ("<pad>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<unk>")


def train_text_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`: lossless for every text, frequent words are one piece.

    Args:
        texts: captions, instructions, questions and answers; read once. The same texts give the same tokenizer.
        size: the most pieces, with the 256 bytes and BOS, EOS, PAD; fewer where no pair is left that occurs twice.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size <= len(alphabet) + 3:
        raise ValueError(f"`text_vocab_size` ({size}) must be above {len(alphabet) + 3}: 256 bytes and BOS, EOS, PAD.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(special.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Each text as the formats write it, the role tags with it so that they end as frequent words.
    rendered = (f"{ROLES['user']} {text} {ROLES['assistant']}" for text in texts)
    tokenizer.train_from_iterator(rendered, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, split_special_tokens=True, clean_up_tokenization_spaces=False, **special
    )


def gather_words(texts: Iterable[str], words: set[str]) -> Iterator[str]:
    """The texts as they are; their words are added to `words` on the way."""
    for text in texts:
        words.update(WORD.findall(text))
        yield text


def write_words(folder: Path, words: Iterable[str]) -> None:
    """Write the words of training texts to `folder/words.txt`."""
    write_text(folder / WORDS, "".join(f"{word}\n" for word in sorted(words)))


def read_words(folder: Path) -> frozenset[str] | None:
    """The words that `write_words` wrote to a folder; None where it did not, so that they are not known."""
    file = folder / WORDS
    return frozenset(file.read_text(encoding="utf-8").split("\n")) - {""} if file.is_file() else None


def load_text_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """A text tokenizer from a local transformers folder: ours, or one of a Llama or Gemma.

    A missing pad token is chosen among the tokenizer's own reserved tokens; EOS is never used, it is scored.

    Raises:
        FileNotFoundError: no such folder, or no tokenizer in it.
        ValueError: not a fast tokenizer, no BOS or EOS, or nothing that can be the pad token.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise FileNotFoundError(f"`text_tokenizer` ({folder}) holds no tokenizer.json: name a transformers folder.")
    text = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, split_special_tokens=True)
    if not isinstance(text, PreTrainedTokenizerFast):
        raise ValueError(f"`text_tokenizer` ({folder}) is not a fast tokenizer: save it with a tokenizer.json.")
    for name in ("bos_token", "eos_token"):
        if getattr(text, name) is None:
            raise ValueError(f"`text_tokenizer` ({folder}) has no {name}: set it in its tokenizer_config.json.")
    if text.pad_token is None or text.pad_token == text.eos_token:
        known = text.get_vocab()
        stand_in = next((name for name in _PAD_STAND_INS if name in known), None)
        if stand_in is None:
            raise ValueError(f"`text_tokenizer` ({folder}) has no pad_token: set it in its tokenizer_config.json.")
        text.pad_token = stand_in
    return text


class Vocab:
    """The id space of one language model and the formats of its sequences.

    Formats return `(ids, labels)`, two equally long lists, labels at the positions of their ids (the loss shifts);
    prompts return ids that end where the model goes on. Image ids come in and go out in codebook order.

    Args:
        text: fast text tokenizer with BOS, EOS and PAD; refused if it parses special strings inside a text.
        codebook_size: number of image codes.
        image_tokens: K, ids per image.
        order: the order in which the model sees an image's ids: `coarse_to_fine` reverses them, the others do not.
        tokenizer: fingerprint of the image tokenizer that the ids come from, where known.
        plans: whether an assistant writes a plan before its image, so that a model of this vocabulary is to plan.
        answer_plans: whether it writes one before the answer to a question.
        words: words of the texts that the text tokenizer was trained on; None where they are not known.
    """

    def __init__(
        self,
        text: PreTrainedTokenizerFast,
        codebook_size: int,
        image_tokens: int,
        order: TokenOrder = "fine_to_coarse",
        tokenizer: str | None = None,
        plans: bool = False,
        answer_plans: bool = False,
        words: frozenset[str] | None = None,
    ) -> None:
        if codebook_size < 1 or image_tokens < 1:
            raise ValueError(f"`codebook_size` ({codebook_size}) and `K` ({image_tokens}) must be at least 1.")
        if order not in get_args(TokenOrder):
            raise ValueError(f"`order` ({order}) must be one of {', '.join(get_args(TokenOrder))}.")
        self.text, self.codebook_size, self.image_tokens = text, codebook_size, image_tokens
        self.order, self.tokenizer, self.words = order, tokenizer, words
        self.plans, self.answer_plans = plans, answer_plans
        self.bos, self.eos, self.pad = text.bos_token_id, text.eos_token_id, text.pad_token_id
        self.text_size = max(text.get_vocab().values()) + 1
        self.image_start = self.text_size
        self.image_end = self.image_start + codebook_size
        self.bov, self.eov = self.image_end, self.image_end + 1
        self.size = self.image_end + 2
        self._tags = {"user": self.encode_text(ROLES["user"]), "assistant": self.encode_text(f" {ROLES['assistant']}")}
        specials = {i: token.content for i, token in text.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(specials) | {self.bos, self.eos, self.pad}
        for name in {*specials.values(), *text.all_special_tokens}:
            if not self.special_ids.isdisjoint(self.encode_text(f"a {name} b")):
                raise ValueError(f"`text_tokenizer` parses {name!r} inside a text: use one that can split it.")

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` alone: no specials, whatever it says. A ValueError where it holds half a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not valid unicode ({error}): repair the file it comes from.") from None
        backend = self.text.backend_tokenizer
        backend.encode_special_tokens = True  # calls of `self.text` by others set it back
        return backend.encode(text, add_special_tokens=False).ids

    def decode_text(self, ids: Ids) -> str:
        """Text of text ids without BOS, EOS and PAD; the exact inverse of `encode_text` for byte-level tokenizers."""
        kept = [int(i) for i in ids if int(i) not in self.special_ids]
        if not all(0 <= i < self.text_size for i in kept):
            raise ValueError(f"text ids must be below {self.text_size}, not {max(kept, key=abs)}.")
        return self.text.backend_tokenizer.decode(kept, skip_special_tokens=False)

    def read_text(self, ids: Ids) -> str:
        """Text that a format wrote, or that the model wrote in one: without the leading space."""
        return self.decode_text(ids).removeprefix(" ")

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text, in order, that the training texts never hold; none where those are not known."""
        found = dict.fromkeys(WORD.findall(text))
        return [] if self.words is None else [word for word in found if word not in self.words]

    def reorder(self, ids: Tensor) -> Tensor:
        """Image ids `[..., K]` from codebook order to the model's order, and back (its own inverse)."""
        return ids.flip(-1) if self.order == "coarse_to_fine" else ids

    def image_to_lm(self, ids: Ids) -> list[int]:
        """LM ids `[K]` of an image's ids `[K]`: reordered and offset, without [BOV] and [EOV]."""
        codes, last = np.asarray(ids).astype(np.int64), self.codebook_size - 1
        if codes.shape != (self.image_tokens,):
            raise ValueError(
                f"an image has K={self.image_tokens} ids, not {codes.shape}: encode it with its tokenizer."
            )
        if codes.min() < 0 or codes.max() > last:
            raise ValueError(f"image ids must lie in 0..{last}, not {codes.min()}..{codes.max()}.")
        lm = codes + self.image_start
        return (lm[::-1] if self.order == "coarse_to_fine" else lm).tolist()

    # Formats of pretraining. `max_length` cuts the text, never the image.

    def t2i(self, caption: str, ids: Ids, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """BOS caption image EOS, all scored."""
        image = self._image(ids)
        return self._scored([*self._caption(caption, max_length, 2 + len(image)), *image])

    def i2t(self, ids: Ids, caption: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """BOS image caption EOS, all scored."""
        image = self._image(ids)
        return self._scored([*image, *self._caption(caption, max_length, 2 + len(image))])

    def image_only(self, ids: Ids) -> tuple[list[int], list[int]]:
        """BOS image EOS: `t2i` with its caption dropped. EOS is not scored, or captions (`i2t`) would begin with it."""
        return self._scored(self._image(ids), end=False)

    def text_only(self, text: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """BOS text EOS, all scored."""
        return self._scored(self._caption(text, max_length, 2))

    def t2i_prompt(self, caption: str) -> list[int]:
        """Beginning of `t2i`; K image ids follow."""
        return [self.bos, *self._caption(caption), self.bov]

    def uncond_prompt(self) -> list[int]:
        """Beginning of `image_only`, the unconditional branch of guidance for `t2i_prompt`."""
        return [self.bos, self.bov]

    def caption_prompt(self, ids: Ids) -> list[int]:
        """Beginning of `i2t`; a caption and EOS follow."""
        return [self.bos, *self._image(ids)]

    def conversation(
        self, turns: Sequence[Turn], images: Images = (), *, drop_text: bool = False
    ) -> tuple[list[int], list[int]]:
        """A whole conversation; scored is what the assistant says and the EOS behind it.

        Args:
            turns: `{"role": "user"|"assistant", "content": ["text" | {"image": i}, ...]}`, user first, alternating;
                anything else is a ValueError.
            images: ids `[n, K]` that the turns' `i` point to.
            drop_text: leave out what the user wrote and what the assistant wrote before an image, a plan (images
                stay): how training teaches `chat_prompt(drop_text=True)`.
        """
        ids, labels = [self.bos], [IGNORE]
        for role, part in self._chat(turns, images, "assistant", drop_text):
            ids += part
            labels += part if role == "assistant" else [IGNORE] * len(part)
        return ids, labels

    def chat_prompt(
        self, turns: Sequence[Turn], images: Images = (), *, draw: bool = False, drop_text: bool = False
    ) -> list[int]:
        """A conversation up to "ASSISTANT:", with [BOV] behind it if the answer is to be an image (`draw`).

        The last turn is the user's. With `drop_text` it is the unconditional branch of guidance.
        """
        ids = [self.bos]
        for _, part in self._chat(turns, images, "user", drop_text):
            ids += part
        return [*ids, self.bov] if draw else ids

    def save(self, folder: str | Path) -> None:
        """Writes `folder/text/`, a transformers tokenizer folder, and last `folder/vocab.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").unlink(missing_ok=True)
        self.text.save_pretrained(str(folder / "text"))
        if self.words is not None:
            write_words(folder, self.words)
        plans = {"plans": self.plans, "answer_plans": self.answer_plans}
        fields = {"text_size": self.text_size, **self._fields(), **plans}
        write_json(folder / "vocab.json", fields)

    @classmethod
    def load(cls, folder: str | Path) -> "Vocab":
        """Reads what `save` wrote; a ValueError if the text tokenizer is not the one it was saved with."""
        folder, path = Path(folder), Path(folder) / "vocab.json"
        if not path.is_file():
            raise FileNotFoundError(f"`vocab` ({folder}) holds no vocab.json: name a folder that Vocab.save wrote.")
        fields = json.loads(path.read_text())
        text = load_text_tokenizer(folder / "text")
        # vocabularies from before there were plans do not say
        plans = {name: fields.get(name, False) for name in ("plans", "answer_plans")}
        sizes = fields["codebook_size"], fields["K"], fields["order"], fields["tokenizer"]
        vocab = cls(text, *sizes, words=read_words(folder), **plans)
        if vocab.text_size != fields["text_size"]:
            raise ValueError(f"{path}: text_size={fields['text_size']}, but the tokenizer beside it {vocab.text_size}.")
        return vocab

    def check(self, tokens: Mapping[str, Any], name: str) -> None:
        """Refuses image ids that were not made for this vocabulary; an unknown fingerprint (None) agrees with all.

        Args:
            tokens: fields of a `tokens.json` or an image tokenizer: any of `tokenizer`, `K`, `codebook_size`, `order`.
            name: the file or folder that they describe, for the error.
        """
        for field, ours in self._fields().items():
            theirs = tokens.get(field)
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(f"{name} has {field}={theirs}, the vocabulary {ours}: encode the images again.")

    def _fields(self) -> dict[str, Any]:
        sizes = {"K": self.image_tokens, "codebook_size": self.codebook_size}
        return {**sizes, "order": self.order, "tokenizer": self.tokenizer}

    def _image(self, ids: Ids) -> list[int]:
        return [self.bov, *self.image_to_lm(ids), self.eov]

    def _caption(self, text: str, max_length: int | None = None, others: int = 0) -> list[int]:
        ids = self.encode_text(f" {text}") if text else []
        return ids if max_length is None else ids[: max(max_length - others, 0)]

    def _scored(self, body: list[int], end: bool = True) -> tuple[list[int], list[int]]:
        return [self.bos, *body, self.eos], [IGNORE, *body, self.eos if end else IGNORE]

    def _chat(
        self, turns: Sequence[Turn], images: Images, last: str, drop_text: bool
    ) -> Iterator[tuple[str, list[int]]]:
        """Ids of a conversation part by part, each with the role whose loss it belongs to; tags belong to the user."""
        if not turns or turns[-1]["role"] != last:
            raise ValueError(f"the turns must end with one of the {last}.")
        for number, turn in enumerate(turns):
            role = ("user", "assistant")[number % 2]
            if turn["role"] != role:
                raise ValueError(f"turn {number} must be the {role}'s, not {turn['role']!r}: user first, alternating.")
            if role == "user":
                yield "user", self._tags["user"]
            last_image = max((n for n, part in enumerate(turn["content"]) if not isinstance(part, str)), default=-1)
            for place, part in enumerate(turn["content"]):
                if not isinstance(part, str):
                    if not 0 <= part["image"] < len(images):
                        raise ValueError(f"turn {number} shows image {part['image']} of {len(images)}.")
                    yield role, self._image(images[part["image"]])
                elif not (drop_text and (role == "user" or place < last_image)):
                    for tag in ROLES.values():
                        part = part.replace(tag, f"{tag[:-1]} :")
                    yield role, self._caption(part)
            yield role, self._tags["assistant"] if role == "user" else [self.eos]
