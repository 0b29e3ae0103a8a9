"""Second looks: what a language model wrote about an image and its change, weighed word by word against other words.

In: prompts with an image and the plans that the model wrote behind them. Out: plans some words of which were changed. A
model is misled by habit: a diamond in a colour that it never had in training is read as a square, and the order to make
one ends in a square, too. Each text is therefore weighed by

    log p(image | request to draw the text) + TRUST (log p(text | prompt) - HABIT log p(text | request for anything)).

Only what is seen has the first term, a noisy channel (arXiv 1611.02554): the same model also draws, and drawing
composes what training never shows. The last term takes off a share of what the model would say anyway (arXiv
1510.03055).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ddt_lightning.lm.generate import LanguageModel, text_ids
from ddt_lightning.lm.likelihood import likelihoods, word_likelihoods
from ddt_lightning.sampling import PLAN_END, PLAN_TURN, Sampling
from ddt_lightning.vocab import Vocab

ALTERNATIVES = 8  # likeliest other words that are tried in each place
FARTHEST = 12.0  # nats by which a word that is tried may be less likely than the present one
TRUST = 1.0  # weight of how likely the text is beside how likely it draws the image
HABIT = 0.35  # share of the log-probability that the text would have anyway
FINALISTS = 8  # changes that are weighed with all words that follow
ANYTHING = "a picture"  # the request behind which a text is as likely as it would be anyway

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
        written: dict[int, list[int]] = {}
        for reads in (False, True):
            some = [n for n, row in enumerate(rows) if bool(last_image(vocab, row)) is reads]
            found = text_ids(model, [rows[n] for n in some], text_size=vocab.text_size, eos=vocab.bov, pad=vocab.pad,
                             seeds=[seeds[n] for n in some], max_new_tokens=length,
                             temperature=sampling.planning_temperature(reads),
                             closed=sorted(vocab.special_ids)) if some else []  # fmt: skip
            written |= dict(zip(some, found, strict=True))
        return [written[n] for n in range(len(rows))]

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
            better = improved(model, vocab, prompt, words, looks, end, image)
            if better != words:
                changed[number] = better
    for size in sorted({len(words) for words in changed.values()}):  # a text may be as long as if it were alone
        some = [number for number, words in changed.items() if len(words) == size]
        rows = [[*prompts[number], *changed[number]] for number in some]
        rest = write(rows, max(1, length - size), [seeds[number] for number in some])
        for number, following in zip(some, rest, strict=True):
            written[number] = [*changed[number], *following]
    if end == PLAN_TURN:
        return [target_reconsidered(model, vocab, *pair, looks) for pair in zip(prompts, written, strict=True)]
    return written


def last_image(vocab: Vocab, prompt: Sequence[int]) -> list[int]:
    """LM ids `[K]` of the last whole image in a prompt; empty where there is none."""
    ends = [place for place, i in enumerate(prompt) if i == vocab.eov]
    return list(prompt[ends[-1] - vocab.image_tokens : ends[-1]]) if ends else []


def target_reconsidered(
    model: LanguageModel, vocab: Vocab, prompt: list[int], plan: list[int], looks: int
) -> list[int]:
    """The plan of an edit with better words for what the image becomes; as it is where it has no such part."""
    seen, turned, behind = vocab.read_text(plan).partition(PLAN_TURN)
    target, ended, _ = behind.partition(PLAN_END)
    if not (turned and ended and last_image(vocab, prompt)):
        return plan
    before, words = vocab.encode_text(f" {seen.strip()}{PLAN_TURN.rstrip()}"), vocab.encode_text(f" {target.strip()}")
    better = improved(model, vocab, [*prompt, *before], words, looks, PLAN_END)
    return plan if better == words else [*before, *better, *vocab.encode_text(f" {PLAN_END}")]


def improved(
    model: LanguageModel,
    vocab: Vocab,
    prompt: list[int],
    words: list[int],
    looks: int,
    end: str,
    image: Sequence[int] = (),
) -> list[int]:
    """The words after at most so many sweeps, each of which changes one word, or one in every place that gains by it.

    Changes are ranked by what the word itself gains; the first ones are weighed with all words that follow.

    Args:
        model: causal language model.
        vocab: its id space.
        prompt: ids that stand before.
        words: ids of a text that the model wrote behind them.
        looks: how often at most every word is tried.
        end: what follows the text.
        image: ids of the image that the text says; empty where it says no image.
    """
    measured = partial(likelihoods, model, pad=vocab.pad)
    ending, special = vocab.encode_text(f" {end.strip()}"), sorted(i for i in vocab.special_ids if i < vocab.text_size)

    def request(text: str) -> list[int]:
        return vocab.chat_prompt([{"role": "user", "content": [text]}])

    def drawn(texts: list[list[int]]) -> Tensor:
        """Log-probability of the image behind a request to draw each text, and its plan; 0 without an image."""
        if not image:
            return torch.zeros(len(texts))
        said = [vocab.read_text(text) for text in texts]
        rows = [[*request(text), *vocab.encode_text(f" {text} {PLAN_END}"), vocab.bov] for text in said]
        return measured(rows, [image] * len(rows), start=vocab.image_start, size=vocab.codebook_size)

    def written(texts: list[list[int]]) -> Tensor:
        """How likely each text is, less the share of habit."""
        ended = [[*text, *ending] for text in texts]
        here, anyway = (
            measured([before] * len(ended), ended, start=0, size=vocab.text_size) for before in (prompt, anything)
        )
        return TRUST * (here - HABIT * anyway)

    anything = request(ANYTHING)
    for _ in range(looks):
        read, anyway = (word_likelihoods(model, one, words, text_size=vocab.text_size) for one in (prompt, anything))
        loss = read[torch.arange(len(words)), words][:, None] - read.index_fill(1, torch.tensor(special), -torch.inf)
        likeliest = [
            (place, int(i)) for place, row in enumerate(loss) for i in row.topk(ALTERNATIVES, largest=False)[1]
        ]
        tried = [(place, i) for place, i in likeliest if i != words[place] and loss[place, i] < FARTHEST]
        if not tried:
            break
        texts = [[*words[:place], i, *words[place + 1 :]] for place, i in tried]
        value = TRUST * (read - HABIT * anyway)
        drawing = drawn([words, *texts])
        gains = (
            drawing[1:] - drawing[0] + torch.stack([value[place, i] - value[place, words[place]] for place, i in tried])
        )
        order = gains.argsort(descending=True).tolist()
        every = list(words)
        for number in reversed(order):  # the best change of a place comes last
            if gains[number] > 0:
                every[tried[number][0]] = tried[number][1]
        first = order[:FINALISTS]
        finalists = [words, *(texts[number] for number in first), every]
        likely = torch.cat([drawing[[0, *(number + 1 for number in first)]], drawn([every])]) + written(finalists)
        best = int(likely.argmax())
        if finalists[best] == words:
            break
        words = finalists[best]
    return words
