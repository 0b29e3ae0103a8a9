"""Second looks: what a language model reads in an image, corrected by how well it explains the ids of the image.

In: prompts with an image and the plans that the model wrote behind them. Out: plans whose part about what is seen was
changed, word by word, and then gone on with. A model that reads is misled by habit: a diamond in a colour that it never
had in training is read as a square. The same model also draws, and drawing composes what training never shows. So each
reading is judged in the other direction, by the log-probability of the ids of the image behind a request to draw what
was read, plus a share of the log-probability with which the words were read: a noisy channel (arXiv 1611.02554).
"""

from collections.abc import Callable, Sequence

import torch

from ddt_lightning.lm.generate import LanguageModel, text_ids
from ddt_lightning.lm.likelihood import image_likelihoods, word_likelihoods
from ddt_lightning.sampling import PLAN_END, PLAN_TURN, Sampling
from ddt_lightning.vocab import Vocab

ALTERNATIVES = 8  # likeliest other words that are tried in each place
FARTHEST = 12.0  # nats by which a word that is tried may be less likely than the present one
TRUST = 0.3  # weight of how likely the words were read beside how likely they draw the image

Write = Callable[[list[list[int]], int, list[int]], list[list[int]]]  # prompts, length, seeds -> what follows


def write_plans(
    model: LanguageModel, vocab: Vocab, prompts: list[list[int]], sampling: Sampling, seeds: list[int]
) -> list[list[int]]:
    """Ids of the plan that the model writes behind each prompt before its image, after second looks.

    Args:
        model: causal language model.
        vocab: its id space.
        prompts: ids of conversations that an image is to answer, without [BOV].
        sampling: temperature and length of plans, and `looks`.
        seeds: one per prompt.

    Raises:
        ValueError: the context has no room for such long plans.
    """
    room = model.config.max_position_embeddings - max(map(len, prompts)) - vocab.image_tokens - 1
    if sampling.plan_length > room:
        raise ValueError(f"`plan_length` ({sampling.plan_length}) must be at most {room}: beside the longest "
                         "prompt and an image, the language model's context has no more room.")  # fmt: skip

    def write(rows: list[list[int]], length: int, seeds: list[int]) -> list[list[int]]:
        return text_ids(model, rows, text_size=vocab.text_size, eos=vocab.bov, pad=vocab.pad, seeds=seeds,
                        max_new_tokens=length, temperature=sampling.plan_temperature,
                        closed=sorted(vocab.special_ids))  # fmt: skip

    return look_again(model, vocab, prompts, write, sampling.plan_length, seeds, sampling.looks, PLAN_TURN)


def look_again(
    model: LanguageModel,
    vocab: Vocab,
    prompts: list[list[int]],
    write: Write,
    length: int,
    seeds: list[int],
    looks: int,
    end: str = PLAN_END,
) -> list[list[int]]:
    """Ids that the model writes behind each prompt, after second looks at the images that it reads.

    Texts without `end`, and those behind a prompt without an image, stay as they are written at first.

    Args:
        model: causal language model.
        vocab: its id space.
        prompts: ids of conversations; the last image in each is the one that is read.
        write: writes behind prompts, at most so many ids, from one seed for each.
        length: most ids behind a prompt.
        seeds: one per prompt.
        looks: how often at most every word is tried; it ends where no change is better.
        end: what ends the part of a text that says what is seen: `PLAN_END` before an answer, `PLAN_TURN` before what
            the image becomes.
    """
    written = write(prompts, length, seeds)
    if not looks:
        return written
    changed: dict[int, list[int]] = {}
    for number, (prompt, ids) in enumerate(zip(prompts, written, strict=True)):
        image, (seen, ended, _) = last_image(vocab, prompt), vocab.read_text(ids).partition(end)
        if image and ended:
            words = vocab.encode_text(f" {seen.strip()}")
            better = corrected(model, vocab, prompt, words, image, looks)
            if better != words:
                changed[number] = better
    for size in sorted({len(words) for words in changed.values()}):  # a text may be as long as if it were alone
        some = [number for number, words in changed.items() if len(words) == size]
        rows = [[*prompts[number], *changed[number]] for number in some]
        rest = write(rows, max(1, length - size), [seeds[number] for number in some])
        for number, following in zip(some, rest, strict=True):
            written[number] = [*changed[number], *following]
    return written


def last_image(vocab: Vocab, prompt: Sequence[int]) -> list[int]:
    """LM ids `[K]` of the last whole image in a prompt; empty where there is none."""
    ends = [place for place, i in enumerate(prompt) if i == vocab.eov]
    return list(prompt[ends[-1] - vocab.image_tokens : ends[-1]]) if ends else []


def corrected(
    model: LanguageModel, vocab: Vocab, prompt: list[int], words: list[int], image: list[int], looks: int
) -> list[int]:
    """The words of a reading after at most so many sweeps, each of which takes the best change of every place.

    All places change at once where that is better than the best change of a single one.
    """

    def drawn(readings: list[list[int]]) -> torch.Tensor:
        """Log-probability of the image behind a request to draw each reading, and its plan."""
        texts = [vocab.read_text(reading) for reading in readings]
        asked = [vocab.chat_prompt([{"role": "user", "content": [text]}]) for text in texts]
        plans = [[*vocab.encode_text(f" {text} {PLAN_END}"), vocab.bov] for text in texts]
        rows = [[*row, *plan] for row, plan in zip(asked, plans, strict=True)]
        return image_likelihoods(model, rows, image, start=vocab.image_start, size=vocab.codebook_size, pad=vocab.pad)

    def with_word(place: int, word: int) -> list[int]:
        return [*words[:place], word, *words[place + 1 :]]

    special = torch.tensor(sorted(i for i in vocab.special_ids if i < vocab.text_size))
    for _ in range(looks):
        read = word_likelihoods(model, prompt, words, text_size=vocab.text_size).index_fill(1, special, -torch.inf)
        places = torch.arange(len(words))
        loss = read - read[places, words][:, None]  # of each other word against the present one
        tried = [(place, int(i)) for place in places.tolist() for i in read[place].topk(ALTERNATIVES).indices]
        tried = [(place, i) for place, i in tried if i != words[place] and loss[place, i] > -FARTHEST]
        if not tried:
            break
        scores = drawn([words, *(with_word(place, i) for place, i in tried)])
        gains = scores[1:] - scores[0] + TRUST * torch.stack([loss[place, i] for place, i in tried])
        best: dict[int, tuple[float, int]] = {}
        for (place, i), gain in zip(tried, gains.tolist(), strict=True):
            if gain > best.get(place, (0.0, 0))[0]:
                best[place] = (gain, i)
        if not best:
            break
        first = max(best, key=lambda place: best[place][0])
        single = with_word(first, best[first][1])
        every = [best[place][1] if place in best else i for place, i in enumerate(words)]
        of_all = float(drawn([every])[0] - scores[0]) + TRUST * sum(float(loss[p, i]) for p, (_, i) in best.items())
        words = every if of_all > best[first][0] else single
    return words
