"""The schedule d(t) of the tokens that the decoder sees at each noise level.

Time runs from t=0 (data) to t=1 (noise). At t the decoder sees tokens 0..d(t); d never decreases, token 0 is always
visible and token K-1 only near pure noise. Source: DDT-LLaMA (one token per timestep: `uniform`) and Selftok's staged
schedule, `d = floor(b_s + k_s * (1000 t - T_{s-1}) / (T_s - T_{s-1}))` inside stage s.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScheduleConfig:
    """Stages of the token schedule.

    Args:
        stages: end of every stage in thousandths of t, rising, the last one 1000. `[1000]` is the uniform schedule.
        tokens_per_stage: tokens that become visible in each stage; they add up to the number of tokens. Empty with
            one stage: all of them.
    """

    stages: list[int] = field(default_factory=lambda: [1000])
    tokens_per_stage: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1] != 1000 or sorted(set(self.stages)) != list(self.stages):
            raise ValueError(f"`schedule.stages` ({self.stages}) must rise and end at 1000.")
        if self.tokens_per_stage or len(self.stages) > 1:
            if len(self.tokens_per_stage) != len(self.stages):
                raise ValueError(
                    f"`schedule.tokens_per_stage` ({self.tokens_per_stage}) needs one number for each of the "
                    f"{len(self.stages)} stages."
                )
            if min(self.tokens_per_stage) < 1:
                raise ValueError(f"`schedule.tokens_per_stage` ({self.tokens_per_stage}) must be positive.")

    def check(self, tokens: int) -> None:
        """Raise ValueError unless the stages hand out exactly `tokens` tokens."""
        if self.tokens_per_stage and sum(self.tokens_per_stage) != tokens:
            raise ValueError(
                f"`schedule.tokens_per_stage` adds up to {sum(self.tokens_per_stage)}, but there are {tokens} tokens."
            )


def last_visible(schedule: ScheduleConfig, tokens: int, thousandths: Tensor) -> Tensor:
    """Index d of the last visible token.

    Args:
        schedule: the stages.
        tokens: K.
        thousandths: 1000 t, any shape, in 0..1000. Sampling passes `floor(1000 * t)` in fp32.

    Returns:
        int64, the shape of `thousandths`, in 0..K-1.
    """
    per_stage = schedule.tokens_per_stage or [tokens]
    time = thousandths.to(torch.float32)
    ends = torch.tensor(schedule.stages, dtype=torch.float32, device=time.device)
    counts = torch.tensor(per_stage, dtype=torch.float32, device=time.device)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    before = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
    stage = torch.bucketize(time, ends, right=True).clamp_max(len(per_stage) - 1)
    share = (time - starts[stage]) / (ends[stage] - starts[stage])
    return (before[stage] + counts[stage] * share).floor().long().clamp(0, tokens - 1)


def visible_mask(schedule: ScheduleConfig, tokens: int, t: Tensor) -> Tensor:
    """Visible tokens at times t `[B]` in [0, 1]: bool `[B, K]`."""
    last = last_visible(schedule, tokens, 1000 * t)
    return torch.arange(tokens, device=t.device) <= last[:, None]


def visibility(schedule: ScheduleConfig, tokens: int) -> Tensor:
    """Probability that token k is visible when t is uniform in [0, 1]: float64 `[K]`, 1 for token 0."""
    per_stage = schedule.tokens_per_stage or [tokens]
    appears, start = [], 0
    for end, count in zip(schedule.stages, per_stage, strict=True):
        appears += [start + k * (end - start) / count for k in range(count)]
        start = end
    return 1 - torch.tensor(appears, dtype=torch.float64) / 1000
