"""Rollouts: what a language model writes and draws for its prompts, as rows of ids that a policy is scored on.

A row is `prompt plan [BOV] image`. Every sample has its own seed, so a rollout does not depend on what else is in the
batch, on the number of processes, or on whether training was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from ddt_lightning.vocab import Vocab

Policy = Literal["both", "ids", "plan"]

GIVEN, TEXT, IMAGE = 0, 1, 2  # kinds of places in a row: not the policy's, an id of its text, an id of its image


@dataclass(frozen=True)
class Rollouts:
    """Plans and images drawn for N prompts.

    Args:
        rows: LM ids of prompt, plan, [BOV] and image.
        starts: where the plan begins in each row; the row's image follows the id [BOV].
        cut: whether the plan was cut, so that the model did not choose [BOV] itself.
        plans: the plans as texts.
        images: uint8 `[N, 3, H, W]` on the CPU.
    """

    rows: list[list[int]]
    starts: list[int]
    cut: list[bool]
    plans: list[str]
    images: Tensor


@torch.no_grad()
def roll_out(pipeline: Pipeline, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> Rollouts:
    """Plan, draw and decode, one sample for each prompt and seed.

    Args:
        pipeline: with the language model that is the policy, in eval mode.
        prompts: texts.
        sampling: the policy's temperature and plan; guidance 1, for the policy is the plain model.
        seeds: one for each prompt.
    """
    vocab = pipeline.vocab
    asked = pipeline.draw_prompts(prompts)
    planned, plans = pipeline.plan(asked, sampling, seed=seeds)
    ids = pipeline.draw_ids(planned, replace(sampling, plan="none"), seed=seeds)
    rows = [[*row, *vocab.image_to_lm(one)] for row, one in zip(planned[0], ids.cpu(), strict=True)]
    starts = [len(row) - 1 for row in asked[0]]
    lengths = [len(row) - len(before) for row, before in zip(planned[0], asked[0], strict=True)]
    given = sampling.plan_for(vocab.plans) != "auto"
    cut = [given or length >= sampling.plan_length for length in lengths]
    return Rollouts(rows, starts, cut, plans, pipeline.decode(ids, sampling, seed=seeds).cpu())


def policy_rows(rollouts: Rollouts, vocab: Vocab, policy: Policy) -> tuple[Tensor, Tensor]:
    """Padded rows, and which of their places the policy is scored on.

    Args:
        rollouts: N of them.
        vocab: the id space.
        policy: the `ids` of images, the text of the `plan` up to [BOV], or `both`.

    Returns:
        ids int64 `[N, T]`, and `GIVEN`, `TEXT` or `IMAGE` for each, int64 `[N, T]`.
    """
    longest = max(map(len, rollouts.rows))
    ids = torch.full((len(rollouts.rows), longest), vocab.pad)
    kinds = torch.full_like(ids, GIVEN)
    for n, (row, start, cut) in enumerate(zip(rollouts.rows, rollouts.starts, rollouts.cut, strict=True)):
        ids[n, : len(row)] = torch.tensor(row)
        first = len(row) - vocab.image_tokens
        if policy in ("both", "plan"):
            kinds[n, start : first - cut] = TEXT
        if policy in ("both", "ids"):
            kinds[n, first : len(row)] = IMAGE
    return ids, kinds


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
