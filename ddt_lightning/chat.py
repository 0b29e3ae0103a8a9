"""Conversations with a pipeline: several images in a prompt, questions about an answer, edits of edits.

A conversation is turns `{"role": "user"|"assistant", "content": ["text" | {"image": i}, ...]}` as in conversation
shards, user first, with the images that the `i` point to. The answer to its last turn is an image or a text. What the
model has drawn goes into the next turn as its ids, not as pixels that are encoded again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddt_lightning.pipeline import Drawing, Pipeline
from ddt_lightning.sampling import Sampling
from ddt_lightning.seeding import Seed
from ddt_lightning.vocab import Turn


@dataclass(frozen=True)
class Conversation:
    """One conversation whose last turn is the user's.

    Args:
        turns: see the module's docstring.
        images: what the turns show, uint8 `[n, 3, H, W]`; None for none.
    """

    turns: Sequence[Turn]
    images: Tensor | None = None

    def encoded(self, pipeline: Pipeline) -> tuple[Sequence[Turn], Tensor]:
        """The turns and the ids `[n, K]` of the images."""
        if self.images is None or not len(self.images):
            return self.turns, torch.empty(0, pipeline.vocab.image_tokens, dtype=torch.long)
        return self.turns, pipeline.encode(self.images).cpu()


def draw(pipeline: Pipeline, conversations: Sequence[Conversation], sampling: Sampling, *, seed: Seed = 0) -> Tensor:
    """The image that answers each conversation, uint8 `[B, 3, H, W]`."""
    prompts = pipeline.chat_prompts([one.encoded(pipeline) for one in conversations])
    return pipeline.draw(prompts, sampling, seed=seed).images


def write(
    pipeline: Pipeline,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: Seed = 0,
) -> list[str]:
    """The text that answers each conversation; options as `Pipeline.describe_image`."""
    prompts = [pipeline.vocab.chat_prompt(*conversation.encoded(pipeline)) for conversation in conversations]
    return pipeline.write(prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


def edit_in_turns(
    pipeline: Pipeline, images: Tensor, instructions: Sequence[str], sampling: Sampling, *, seed: Seed = 0
) -> Iterator[Drawing]:
    """Images uint8 `[B, 3, H, W]` changed by one instruction after the other: the results of each.

    All turns are one conversation, so a later instruction may refer to an earlier one.
    """
    shown = [pipeline.encode(images).cpu()]  # of every image so far, [B, K]
    turns: list[list[dict[str, Any]]] = [[] for _ in images]
    for number, text in enumerate(instructions):
        request = {"role": "user", "content": [*([] if number else [{"image": 0}]), text]}
        turns = [[*said, request] for said in turns]
        history = torch.stack(shown, dim=1)  # [B, 1 + number, K]
        drawn = pipeline.draw(pipeline.chat_prompts(list(zip(turns, history, strict=True))), sampling, seed=seed)
        yield drawn
        shown.append(drawn.ids.cpu())
        answers = [[*([plan] if plan else []), {"image": number + 1}] for plan in drawn.plans]
        turns = [[*said, {"role": "assistant", "content": answer}] for said, answer in zip(turns, answers, strict=True)]
