"""Log-probabilities of texts and images behind prompts, and of every word in the place of each word of a text.

Models are those of `generate.py`, in eval mode. Rows are padded on the right, which a causal model does not see.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddt_lightning.lm.generate import LanguageModel, quiet
from ddt_lightning.lm.llama import Llama
from ddt_lightning.lm.policy import Scored, scored

ROWS = 128  # read at once


def likelihoods(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    *,
    start: int,
    size: int,
    pad: int,
) -> Tensor:
    """Log-probability of each text or image behind its prompt in nats, float32 `[N]`.

    Args:
        model: causal language model.
        prompts: N lists of ids.
        texts: N lists of ids of one range: words, or an image in the model's order.
        start: first id of the range: 0 for text, of images the LM id of image code 0.
        size: number of ids of the range; only these are possible.
        pad: any valid id.
    """
    found = []
    for n in range(0, len(prompts), ROWS):
        pairs = list(zip(prompts[n : n + ROWS], texts[n : n + ROWS], strict=True))
        longest = max(len(prompt) + len(text) for prompt, text in pairs)
        rows = [[*prompt, *text, *[pad] * (longest - len(prompt) - len(text))] for prompt, text in pairs]
        before = [
            states[len(prompt) - 1 : len(prompt) + len(text) - 1]
            for states, (prompt, text) in zip(_hidden(model, rows), pairs, strict=True)
        ]
        ids = torch.tensor([i - start for _, text in pairs for i in text], device=model.device)
        chosen = _scored(model, torch.cat(before), ids, start, size).chosen
        found += [part.sum() for part in chosen.split([len(text) for _, text in pairs])]
    return torch.stack(found).cpu()


def word_likelihoods(model: LanguageModel, prompt: Sequence[int], words: Sequence[int], *, text_size: int) -> Tensor:
    """Log-probability of every text id in the place of each word, float32 `[len(words), text_size]`.

    Args:
        model: causal language model.
        prompt: ids that stand before.
        words: ids of a text; a word is predicted from those before it.
        text_size: number of text ids; only these are possible.
    """
    hidden = _hidden(model, [[*prompt, *words]])[0, len(prompt) - 1 : -1]
    return _scored(model, hidden, torch.tensor(words, device=hidden.device), 0, text_size).all.cpu()


def _hidden(model: LanguageModel, rows: list[list[int]]) -> Tensor:
    """Hidden states `[B, T, D]` that the head is applied to."""
    ids = torch.tensor(rows, device=model.device)
    with quiet(model):
        if isinstance(model, Llama):
            return model.hidden(ids)
        # as `llm.hidden_states`, whose file builds models for training: `ddt encode` must not depend on it
        return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def _scored(model: LanguageModel, hidden: Tensor, ids: Tensor, start: int, size: int) -> Scored:
    """The distribution over a range of ids, at temperature 1."""
    softcap = getattr(model.config, "final_logit_softcapping", None)
    with quiet(model):
        return scored(hidden, model.get_output_embeddings().weight[start : start + size], ids, softcap=softcap)
