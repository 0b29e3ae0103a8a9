"""Policy gradients on a language model, as functions: rewards of groups of samples to a loss over their ids.

A policy is the distribution from which an id was sampled: the softmax over the ids that were allowed there, at the
temperature of sampling. The loss uses that same distribution, and one update is made of each batch of samples, so the
ratio of new to old probability is 1 in value and the clipping of PPO has nothing to do. Group-relative advantages are
those of GRPO (arXiv 2402.03300); without their division by the standard deviation those of Dr. GRPO (arXiv 2503.20783).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Scored:
    """The policy at N places.

    Args:
        chosen: log-probability of the id that was sampled, `[N]`, with a gradient.
        all: log-probability of every id, `[N, C]`; -inf for those that were not allowed.
    """

    chosen: Tensor
    all: Tensor

    def entropy(self) -> Tensor:
        """Entropy of each place in nats, `[N]`, without a gradient."""
        logs = self.all.detach()
        return -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(-1)


def scored(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    allowed: Tensor | None = None,
) -> Scored:
    """The policy at places of a sequence, in float32.

    Args:
        hidden: `[N, D]`, what the head is applied to.
        head: rows of the head for a range of ids, `[C, D]`.
        ids: int64 `[N]`, the ids that were sampled, counted from the start of the range.
        temperature: of sampling, above 0.
        softcap: c of `c tanh(logits / c)` (Gemma 2), or None.
        allowed: bool `[C]`, which ids could be sampled; None for all.
    """
    logits = (hidden @ head.T).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    logs = F.log_softmax(logits / temperature, dim=-1)
    return Scored(logs.gather(1, ids[:, None])[:, 0], logs)


def advantages(rewards: Tensor, group: int, *, scale: bool = True, limit: float | None = None) -> Tensor:
    """Advantage of each sample over the mean of its group, `[N]`.

    Args:
        rewards: `[N]`, `group` samples of one prompt after the other.
        group: samples of a prompt, at least 2.
        scale: divide by the standard deviation of the group.
        limit: largest size of an advantage; None for none.
    """
    groups = rewards.view(-1, group)
    found = groups - groups.mean(1, keepdim=True)
    if scale:
        found = found / (groups.std(1, keepdim=True) + 1e-4)
    return (found if limit is None else found.clamp(-limit, limit)).flatten()


def undecided(rewards: Tensor, group: int) -> Tensor:
    """Whether all samples of a sample's group have one reward, so that nothing can be learned from it: bool `[N]`."""
    groups = rewards.view(-1, group)
    return (groups == groups[:, :1]).all(1).repeat_interleave(group)


def ratio(chosen: Tensor) -> Tensor:
    """New over old probability where the old policy is the new one: 1, with the gradient of the log-probability."""
    return (chosen - chosen.detach()).exp()


def k3(chosen: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of the KL divergence from the reference, never negative.

    Both its value and its gradient are unbiased: as a mean over samples, the gradient of the estimate alone would leave
    out that the policy moves (DeepSeek-V3.2, arXiv 2512.02556), which the ratio of 1 makes up for.

    Args:
        chosen: log-probabilities of the sampled ids, `[N]`.
        reference: those of the reference model, `[N]`.
    """
    ahead = reference - chosen
    return (ahead.exp() - ahead - 1) * ratio(chosen)


def exact_kl(policy: Tensor, reference: Tensor) -> Tensor:
    """KL divergence of the policy from the reference, summed over the ids: `[N, C]` twice to `[N]`."""
    possible = policy > -torch.inf
    gap = torch.where(possible, policy, 0.0) - torch.where(possible, reference, 0.0)
    return (policy.exp() * gap).sum(-1)


def policy_loss(
    chosen: Tensor, advantage: Tensor, kl: Tensor, row: Tensor, rows: int, *, kl_weight: float
) -> tuple[Tensor, Tensor]:
    """The loss of a batch of samples: the mean over the ids of each sample, summed over the samples.

    Args:
        chosen: log-probabilities of the sampled ids of all samples, `[N]`.
        advantage: of the sample of each id, `[N]`.
        kl: of each id, `[N]`.
        row: int64 `[N]`, the sample of each id.
        rows: number of samples.
        kl_weight: beta; 0 leaves the start behind freely.

    Returns:
        The sum, and the number of samples with ids, for a mean over the samples of all processes.
    """
    each = kl_weight * kl - ratio(chosen) * advantage
    lengths = torch.bincount(row, minlength=rows)
    return (each / lengths[row]).sum(), (lengths > 0).sum()
