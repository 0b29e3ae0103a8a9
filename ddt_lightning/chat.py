"""Conversations with a pipeline: several images in a prompt, questions about an answer, edits of edits.

A conversation is turns `{"role": "user"|"assistant", "content": ["text" | {"image": i}, ...]}` as in conversation
shards, user first, with the images that the `i` point to. The answer to its last turn is an image or a text. What the
model has drawn goes into the next turn as its ids, not as pixels that are encoded again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ddt_lightning.pipeline import Drawing, Pipeline, Prompts
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
    looks: int = Sampling.looks,
) -> list[str]:
    """The text that answers each conversation; options as `Pipeline.write_planned`."""
    prompts = [pipeline.vocab.chat_prompt(*conversation.encoded(pipeline)) for conversation in conversations]
    return pipeline.write(prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, looks=looks)


@dataclass(frozen=True)
class Edits:
    """Conversations, one for each of B images, in which every turn changes the last image.

    Args:
        turns: of each conversation so far, answered.
        ids: of the source and of every result so far, `[B, n, K]`.
    """

    turns: Sequence[Sequence[Turn]]
    ids: Tensor

    @classmethod
    def of(cls, pipeline: Pipeline, images: Tensor) -> Self:
        """The beginning: images uint8 `[B, 3, H, W]`, and nothing asked yet."""
        return cls([[] for _ in images], pipeline.encode(images).cpu()[:, None])

    def asked(self, pipeline: Pipeline, instruction: str) -> Prompts:
        """LM ids that the next images answer, for `Pipeline.draw` and `Pipeline.stream`."""
        turns = [[*said, self._request(instruction)] for said in self.turns]
        return pipeline.chat_prompts(list(zip(turns, self.ids, strict=True)))

    def answered(self, instruction: str, drawn: Drawing) -> Self:
        """The conversations with an instruction and what was drawn for it."""
        image = {"image": self.ids.shape[1]}
        answers = [{"role": "assistant", "content": [*([plan] if plan else []), image]} for plan in drawn.plans]
        request = self._request(instruction)
        turns = [[*said, request, answer] for said, answer in zip(self.turns, answers, strict=True)]
        return replace(self, turns=turns, ids=torch.cat([self.ids, drawn.ids.cpu()[:, None]], dim=1))

    def _request(self, instruction: str) -> Turn:
        """A turn of the user, which shows the source where it is the first."""
        return {"role": "user", "content": [*([{"image": 0}] if self.ids.shape[1] == 1 else []), instruction]}


def edit_in_turns(
    pipeline: Pipeline, images: Tensor, instructions: Sequence[str], sampling: Sampling, *, seed: Seed = 0
) -> Iterator[Drawing]:
    """Images uint8 `[B, 3, H, W]` changed by one instruction after the other: the results of each.

    All turns are one conversation, so a later instruction may refer to an earlier one.
    """
    edits = Edits.of(pipeline, images)
    for instruction in instructions:
        drawn = pipeline.draw(edits.asked(pipeline, instruction), sampling, seed=seed)
        yield drawn
        edits = edits.answered(instruction, drawn)
