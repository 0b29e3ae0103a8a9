"""Rollouts: what a language model writes and draws for its prompts, as rows of ids that a policy is scored on.

A row is `prompt plan [BOV] image`, where the prompt of an edit shows its source, too, or `image question answer EOS`,
with a plan as part of the answer where the model was trained so. Every sample has its own seed, so a rollout does not
depend on what else is in the batch, on the number of processes, or on interruptions of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddt_lightning.pipeline import Pipeline, Prompts
from ddt_lightning.rl.rewards import Prompt
from ddt_lightning.sampling import Sampling, split_plan
from ddt_lightning.scenes.render import Scene, render
from ddt_lightning.vocab import Vocab

Policy = Literal["both", "ids", "plan"]

GIVEN, PLAN, IMAGE, ANSWER = range(4)  # kinds of places in a row: not the policy's, ids of its plan, image or answer


@dataclass(frozen=True)
class Rollouts:
    """Plans and images drawn for N prompts, or answers to N questions.

    Args:
        rows: LM ids of prompt, plan, [BOV] and image, or of prompt, answer and EOS.
        starts: where the plan or the answer begins in each row; the row's image follows the id [BOV].
        cut: whether the text was cut, so that the model did not choose [BOV] or EOS itself.
        texts: the plans or answers.
        images: uint8 `[N, 3, H, W]` on the CPU: what was drawn, or what the questions are about.
        drawn: whether they were drawn.
    """

    rows: list[list[int]]
    starts: list[int]
    cut: list[bool]
    texts: list[str]
    images: Tensor
    drawn: bool = True

    def replaced(self, places: Sequence[int], others: "Rollouts") -> "Rollouts":
        """These rollouts with others in some of their places."""
        at = dict(zip(places, range(len(places)), strict=True))
        columns = {
            name: [getattr(others, name)[at[n]] if n in at else one for n, one in enumerate(getattr(self, name))]
            for name in ("rows", "starts", "cut", "texts")
        }
        images = self.images.clone()
        images[list(places)] = others.images
        return Rollouts(images=images, drawn=self.drawn, **columns)


def ask(pipeline: Pipeline, prompts: Sequence[Prompt]) -> Prompts:
    """LM ids of prompts to draw; one with a `source`, a scene as plain data, asks for an edit of its render."""
    edits = [n for n, prompt in enumerate(prompts) if "source" in prompt]
    drawn = [n for n, prompt in enumerate(prompts) if "source" not in prompt]
    asked: list[tuple[list[int], list[int]]] = [([], [])] * len(prompts)
    for places, made in (
        (drawn, pipeline.draw_prompts([prompts[n]["prompt"] for n in drawn])),
        (edits, pipeline.edit_prompts(renders([prompts[n]["source"] for n in edits], pipeline),
                                      [prompts[n]["prompt"] for n in edits]) if edits else ([], [])),
    ):  # fmt: skip
        for n, pair in zip(places, zip(*made, strict=True), strict=True):
            asked[n] = pair
    return [whole for whole, _ in asked], [free for _, free in asked]


def renders(scenes: Sequence[Mapping[str, Any]], pipeline: Pipeline) -> Tensor:
    """Renders of scenes, given as plain data, at a model's size: uint8 `[N, 3, H, W]`."""
    images = np.stack([render(Scene.from_dict(dict(scene)), pipeline.image_size) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def roll_out(pipeline: Pipeline, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Rollouts:
    """One sample for each prompt and seed.

    Args:
        pipeline: with the language model that is the policy, in eval mode.
        prompts: all to draw or edit, see `ask`, or all questions: with a `scene`, as plain data, and its `answer`.
        sampling: the policy's temperature and plan; guidance 1, for the policy is the plain model.
        seeds: one for each prompt.
    """
    different = list({id(prompt): prompt for prompt in prompts}.values())  # of a group, each is encoded once
    at = {id(prompt): n for n, prompt in enumerate(different)}
    places = [at[id(prompt)] for prompt in prompts]
    if "scene" in prompts[0]:
        return answer(pipeline, different, places, sampling, seeds)
    whole, free = ask(pipeline, different)
    return draw(pipeline, ([whole[n] for n in places], [free[n] for n in places]), sampling, seeds)


def draw(pipeline: Pipeline, asked: Prompts, sampling: Sampling, seeds: Sequence[int]) -> Rollouts:
    """Plan, draw and decode; arguments as `roll_out`, with LM ids of the prompts."""
    vocab = pipeline.vocab
    planned, plans = pipeline.plan(asked, sampling, seed=seeds)
    ids = pipeline.draw_ids(planned, replace(sampling, plan="none"), seed=seeds)
    rows = [[*row, *vocab.image_to_lm(one)] for row, one in zip(planned[0], ids.cpu(), strict=True)]
    starts = [len(row) - 1 for row in asked[0]]
    lengths = [len(row) - len(before) for row, before in zip(planned[0], asked[0], strict=True)]
    given = sampling.plan_for(vocab.plans) != "auto"
    cut = [given or length >= sampling.plan_length for length in lengths]
    return Rollouts(rows, starts, cut, plans, pipeline.decode(ids, sampling, seed=seeds).cpu())


def answer(
    pipeline: Pipeline, questions: Sequence[Prompt], places: Sequence[int], sampling: Sampling, seeds: Sequence[int]
) -> Rollouts:
    """Answer question `places[n]` with seed n; other arguments as `roll_out`."""
    vocab, images = pipeline.vocab, renders([one["scene"] for one in questions], pipeline)
    prompts = pipeline.describe_prompts(images, [one["prompt"] for one in questions])
    asked, length = [prompts[n] for n in places], sampling.plan_length
    written = pipeline.write_ids(asked, length, temperature=sampling.temperature or 0.0, seed=seeds)
    cut = [len(text) == length for text in written]
    ends: list[list[int]] = [[] if short else [vocab.eos] for short in cut]
    rows = [[*prompt, *text, *end] for prompt, text, end in zip(asked, written, ends, strict=True)]
    texts = [split_plan(vocab.read_text(text), vocab.answer_plans)[1] for text in written]
    return Rollouts(rows, list(map(len, asked)), cut, texts, images[list(places)], drawn=False)


def policy_rows(rollouts: Rollouts, vocab: Vocab, policy: Policy) -> tuple[Tensor, Tensor]:
    """Padded rows, and which of their places the policy is scored on.

    Args:
        rollouts: N of them.
        vocab: the id space.
        policy: of what was drawn, the `ids` of images, the text of the `plan` up to [BOV], or `both`; of answers always
            the text and its EOS.

    Returns:
        ids int64 `[N, T]`, and `GIVEN`, `PLAN`, `IMAGE` or `ANSWER` for each, int64 `[N, T]`.
    """
    longest = max(map(len, rollouts.rows))
    ids = torch.full((len(rollouts.rows), longest), vocab.pad)
    kinds = torch.full_like(ids, GIVEN)
    for n, (row, start, cut) in enumerate(zip(rollouts.rows, rollouts.starts, rollouts.cut, strict=True)):
        ids[n, : len(row)] = torch.tensor(row)
        first = len(row) - vocab.image_tokens
        if not rollouts.drawn:
            kinds[n, start : len(row)] = ANSWER
        if rollouts.drawn and policy in ("both", "plan"):
            kinds[n, start : first - cut] = PLAN
        if rollouts.drawn and policy in ("both", "ids"):
            kinds[n, first : len(row)] = IMAGE
    return ids, kinds


def same_before(texts: Sequence[str], group: int) -> list[bool]:
    """Whether a text of a group is one of those before it; arguments as `variety`."""
    return [text in texts[n - n % group : n] for n, text in enumerate(texts)]


def variety(images: Tensor, group: int, apart: float = 0.05) -> tuple[Tensor, Tensor]:
    """Variety of the images of each prompt: what a reward leaves open should stay open.

    Args:
        images: uint8 `[N, 3, H, W]`, `group` of a prompt one after the other.
        group: images of a prompt.
        apart: mean absolute difference of two images in 0..1 from which on they count as distinct.

    Returns:
        Mean difference of two images of a group, and the share of a group's images that differ from all before them:
        `[N / group]` each.
    """
    flat = images.flatten(1).float().div(255).view(-1, group, images[0].numel())
    distances = torch.cdist(flat, flat, p=1) / flat.shape[-1]  # [N / group, group, group]
    earlier = torch.ones(group, group).tril(-1).bool()
    mean = distances[:, earlier].mean(1) if group > 1 else distances.new_zeros(len(flat))
    near = (distances < apart) & earlier
    return mean, 1 - near.any(2).float().mean(1)
