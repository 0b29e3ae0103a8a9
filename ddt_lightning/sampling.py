"""Options of drawing: how the language model samples ids, and how the diffusion decoder makes images of them."""

from dataclasses import dataclass, replace
from typing import Literal

PLAN_END = "|"
"""What ends a plan before an answer in words; before an image its first id does."""

PLAN_TURN = " to "
"""What stands in the plan of an edit between what is seen and what it becomes."""


@dataclass(frozen=True)
class Decoding:
    """Options of the diffusion decoder, from ids to images.

    Args:
        steps: of the diffusion decoder.
        decode_guidance: guidance of the diffusion decoder; 1 for none.
        solver: of the diffusion decoder; `ab2` and `dpmpp_2m` need fewer steps than `euler`, `heun` takes two calls of
            the network a step.
        shift: of the diffusion decoder's times; above 1 more of the steps are near noise.
    """

    steps: int = 16
    decode_guidance: float = 1.5
    solver: Literal["euler", "heun", "ab2", "dpmpp_2m"] = "euler"
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"`shift` ({self.shift}) must be positive; 1 leaves the times as they are.")


@dataclass(frozen=True)
class Sampling(Decoding):
    """Options of the language model's sampling, and those of decoding what it drew.

    Args:
        guidance: guidance of the language model; 1 for none. By default 1 where it plans the image, which leaves little
            open, else 2.
        temperature: of the language model; 0 takes the likeliest id. By default 0 where it plans the image, for then
            the plan varies, else 0.5.
        top_k: sample among this many ids; 0 for all.
        top_p: sample among the likeliest ids that hold this share of the probability.
        steps: of the diffusion decoder.
        decode_guidance: guidance of the diffusion decoder; 1 for none.
        solver: of the diffusion decoder; `ab2` and `dpmpp_2m` need fewer steps than `euler`, `heun` takes two calls of
            the network a step.
        shift: of the diffusion decoder's times; above 1 more of the steps are near noise.
        compile: compile the language model's step: slow at first, then faster; for many images on a GPU.
        plan: what is written before the image: `none`, `auto` for what an instruct model that has learned to plan
            writes itself, or the plan as a text; by default `auto` where the model was trained with plans, else `none`.
        plan_temperature: of the language model while it plans; 0 takes the likeliest id. By default 0 where it reads an
            image, of which there is one right reading, else 0.7, since a prompt leaves much open.
        plan_length: where a plan is cut, in ids of text.
        looks: where a plan says what is seen in an image, and what an edit makes of it: how often at most its words are
            tried against others that draw the image better, or that the model says less from habit (`second_look.py`);
            0 takes what is written at first. Four times take about half a second an image on one core.

    Raises:
        ValueError: an option out of its range.
    """

    guidance: float | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    compile: bool = False
    plan: str | None = None
    plan_temperature: float | None = None
    plan_length: int = 96
    looks: int = 4

    def plan_for(self, plans: bool) -> str:
        """`none`, `auto` or a plan: the one given, or else as a model trained with or without plans draws."""
        if self.plan is not None:
            return self.plan
        return "auto" if plans else "none"

    def planning_temperature(self, reads: bool) -> float:
        """The temperature of a plan behind a prompt with or without an image."""
        if self.plan_temperature is not None:
            return self.plan_temperature
        return 0.0 if reads else 0.7

    def settled(self, planned: bool) -> "Sampling":
        """The same with numbers for what was left open, for an image with or without a plan before it."""
        guidance, temperature = (1.0, 0.0) if planned else (2.0, 0.5)
        return replace(
            self,
            guidance=guidance if self.guidance is None else self.guidance,
            temperature=temperature if self.temperature is None else self.temperature,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"`temperature` ({self.temperature}) must be 0 (likeliest id) or above.")
        if self.plan_temperature is not None and self.plan_temperature < 0:
            raise ValueError(f"`plan_temperature` ({self.plan_temperature}) must be 0 (likeliest id) or above.")
        if self.plan_length < 1:
            raise ValueError(f"`plan_length` ({self.plan_length}) must be at least 1.")
        if self.looks < 0:
            raise ValueError(f"`looks` ({self.looks}) must be 0 (what is read at first) or above.")
        if self.top_k < 0:
            raise ValueError(f"`top_k` ({self.top_k}) must be 0 (all ids) or above.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` ({self.top_p}) must lie in (0, 1].")


def split_plan(text: str, planned: bool) -> tuple[str, str]:
    """Plan and answer in what a language model wrote as an answer in words.

    Args:
        text: what it wrote.
        planned: whether it was trained to plan its answers; if not, all is answer.
    """
    plan, end, said = text.rpartition(PLAN_END) if planned else ("", "", text)
    return plan + end, said.strip()
