"""The way back from LM ids: what a sequence of `Vocab` says and shows. It knows the formats, but not their code."""

from collections.abc import Sequence
from typing import Any

from ddt_lightning.vocab import Vocab


def read_image(vocab: Vocab, ids: Sequence[int]) -> list[int]:
    """An image's ids `[K]` in codebook order from its LM ids `[K]`."""
    codes = [int(i) - vocab.text_size for i in ids]
    assert len(codes) == vocab.image_tokens and all(0 <= code < vocab.codebook_size for code in codes), codes
    return codes[::-1] if vocab.order == "coarse_to_fine" else codes


def read_chat(vocab: Vocab, ids: Sequence[int]) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Turns and images of ids that `conversation` or `chat_prompt(draw=False)` wrote."""
    rest = [int(i) for i in ids if int(i) not in (vocab.bos, vocab.pad)]
    user, assistant = vocab.encode_text("USER:"), vocab.encode_text(" ASSISTANT:")
    turns: list[dict[str, Any]] = []
    images: list[list[int]] = []
    while rest:
        answered = vocab.eos in rest  # with nothing, even
        end = rest.index(vocab.eos) if answered else len(rest)
        exchange, rest = rest[:end], rest[end + 1 :]
        split = next(n for n in range(end) if exchange[n : n + len(assistant)] == assistant)
        assert exchange[: len(user)] == user, exchange
        spoken = {"user": exchange[len(user) : split], "assistant": exchange[split + len(assistant) :]}
        for role, said in spoken.items():
            if role == "user" or said or answered:
                turns.append({"role": role, "content": _read_parts(vocab, said, images)})
    return turns, images


def _read_parts(vocab: Vocab, ids: list[int], images: list[list[int]]) -> list[str | dict[str, int]]:
    content: list[str | dict[str, int]] = []
    while ids:
        if ids[0] == vocab.bov:
            assert ids[1 + vocab.image_tokens] == vocab.eov
            content.append({"image": len(images)})
            images.append(read_image(vocab, ids[1 : 1 + vocab.image_tokens]))
            ids = ids[2 + vocab.image_tokens :]
        else:
            end = ids.index(vocab.bov) if vocab.bov in ids else len(ids)
            content.append(vocab.read_text(ids[:end]))
            ids = ids[end:]
    return content
