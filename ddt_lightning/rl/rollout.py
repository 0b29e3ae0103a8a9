"""Rollouts: what a language model writes and draws for its prompts, as rows of ids that a policy is scored on.

A row is `prompt plan [BOV] image`; the prompt of an edit shows its source, too. Every sample has its own seed, so a
rollout does not depend on what else is in the batch, on the number of processes, or on interruptions of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddt_lightning.pipeline import Pipeline, Prompts
from ddt_lightning.rl.rewards import Prompt
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.render import Scene, render
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

    def replaced(self, places: Sequence[int], others: "Rollouts") -> "Rollouts":
        """These rollouts with others in some of their places."""
        at = dict(zip(places, range(len(places)), strict=True))
        columns = {
            name: [getattr(others, name)[at[n]] if n in at else one for n, one in enumerate(getattr(self, name))]
            for name in ("rows", "starts", "cut", "plans")
        }
        images = self.images.clone()
        images[list(places)] = others.images
        return Rollouts(images=images, **columns)


def ask(pipeline: Pipeline, prompts: Sequence[Prompt]) -> Prompts:
    """LM ids of prompts; one with a `source`, a scene as plain data, asks for an edit of its render."""
    edits = [n for n, prompt in enumerate(prompts) if "source" in prompt]
    drawn = [n for n, prompt in enumerate(prompts) if "source" not in prompt]
    scenes = [Scene.from_dict(prompts[n]["source"]) for n in edits]
    asked: list[tuple[list[int], list[int]]] = [([], [])] * len(prompts)
    for places, made in (
        (drawn, pipeline.draw_prompts([prompts[n]["prompt"] for n in drawn])),
        (edits, pipeline.edit_prompts(stack_scenes(scenes, pipeline), [prompts[n]["prompt"] for n in edits])
         if edits else ([], [])),
    ):  # fmt: skip
        for n, pair in zip(places, zip(*made, strict=True), strict=True):
            asked[n] = pair
    return [whole for whole, _ in asked], [free for _, free in asked]


def stack_scenes(scenes: Sequence[Scene], pipeline: Pipeline) -> Tensor:
    """Renders of scenes at a model's size, uint8 `[N, 3, H, W]`."""
    renders = np.stack([render(scene, pipeline.image_size) for scene in scenes])
    return torch.from_numpy(renders).permute(0, 3, 1, 2)


@torch.no_grad()
def roll_out(pipeline: Pipeline, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Rollouts:
    """Plan, draw and decode, one sample for each prompt and seed.

    Args:
        pipeline: with the language model that is the policy, in eval mode.
        prompts: of drawings and edits, see `ask`.
        sampling: the policy's temperature and plan; guidance 1, for the policy is the plain model.
        seeds: one for each prompt.
    """
    vocab = pipeline.vocab
    asked = ask(pipeline, prompts)
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
