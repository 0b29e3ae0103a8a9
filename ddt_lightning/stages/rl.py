"""Stage 5, `ddt-fit rl`: an instruct model practises on prompts, and a reward says how well it drew or answered.

A step samples a group of plans and images for each of its prompts, or of answers, rewards them, and makes one update of
the policy that drew them: group-relative policy gradient (`lm/policy.py`) with a divergence from the start. Groups in
which all are worth the same teach nothing: they are drawn again, if asked for, or left out. As a baseline, the policy
learns what was worth enough as training data is learned (rejection sampling). Rollouts are keyed by (seed, prompt,
sample): several processes do what one does, and a continued run what an uninterrupted one does. Watch the reward of
held-out prompts and the variety beside the reward, not the loss: what a reward does not see may be given up.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddt_lightning.distributed import summed
from ddt_lightning.latents.vae import FrozenVae
from ddt_lightning.lm.generate import barred_ids
from ddt_lightning.lm.llm import LlmConfig, hidden_states, softcap
from ddt_lightning.lm.loss import global_mean
from ddt_lightning.lm.policy import Scored, advantages, exact_kl, k3, policy_loss, scored, undecided
from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.model_folder import find_part
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.rl.rewards import Prompt, find_rewards, worth
from ddt_lightning.rl.rollout import (
    ANSWER,
    IMAGE,
    PLAN,
    Policy,
    Rollouts,
    policy_rows,
    roll_out,
    same_before,
    variety,
)
from ddt_lightning.sampling import Sampling
from ddt_lightning.seeding import key_bits
from ddt_lightning.stages.language import LanguageModule
from ddt_lightning.tokens.renderer import Renderer
from ddt_lightning.training.logs import log_row, log_step, ratios
from ddt_lightning.training.optim import OptimConfig
from ddt_lightning.training.parallel import forward_method, refuse_divided


@dataclass(frozen=True)
class PracticeConfig:
    """Options of sampling a policy and of learning from its samples.

    Args:
        group: samples of each prompt that are compared with each other.
        objective: `policy_gradient` makes samples that are better than their group likelier, and worse ones less;
            `rejection` makes those likelier that are worth at least `keep`, and leaves out all others.
        keep: the least reward of a sample that `rejection` learns.
        resample: how often at most a group that teaches nothing is drawn again.
        policy: what is learned of drawings: the `ids` of images, the text of the `plan`, or `both`.
        plan: `auto` lets the model plan before it draws, `none` lets it draw at once, a text is one plan for all; null
            is `auto` where the model was trained with plans, else `none`.
        plan_length: where a plan or an answer is cut, in ids of text.
        temperature: of sampling image ids or answers, and of the policy, above 0.
        plan_temperature: the same of the plan.
        scale: divide advantages by the standard deviation of their group.
        limit: largest size of an advantage.
        kl_weight: weight of the divergence from the start; 0 leaves it behind freely.
        kl: `exact` sums over all ids at each place, `k3` estimates it from the sampled ones.
        steps: Euler steps of the diffusion decoder, where there is no renderer.
        decode_guidance: of the diffusion decoder.
        val_temperature: of image ids and answers in validation.
        val_plan_temperature: of plans in validation.

    Raises:
        ValueError: an option out of its range.
    """

    group: int = 12
    objective: Literal["policy_gradient", "rejection"] = "policy_gradient"
    keep: float = 1.0
    resample: int = 0
    policy: Policy = "ids"
    plan: str | None = None
    plan_length: int = 96
    temperature: float = 1.0
    plan_temperature: float = 1.0
    scale: bool = True
    limit: float = 3.0
    kl_weight: float = 0.02
    kl: Literal["exact", "k3"] = "exact"
    steps: int = 16
    decode_guidance: float = 1.5
    val_temperature: float = 0.0
    val_plan_temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError(f"`model.practice.group` ({self.group}) must be at least 2: samples are compared.")
        for name in ("temperature", "plan_temperature", "limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`model.practice.{name}` ({getattr(self, name)}) must be above 0.")
        for name in ("kl_weight", "resample"):
            if getattr(self, name) < 0:
                raise ValueError(f"`model.practice.{name}` ({getattr(self, name)}) must be 0 or more.")

    def lessons(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """What is learned from samples with these rewards `[N]`: the weight of each, and whether it is learned at all.

        Of a group that teaches nothing no sample is learned.
        """
        if self.objective == "rejection":
            return torch.ones_like(rewards), rewards >= self.keep
        gains = advantages(rewards, self.group, scale=self.scale, limit=self.limit)
        return gains, ~undecided(rewards, self.group)

    def sampling(self, *, validate: bool = False) -> Sampling:
        """The policy's sampling: the plain model without guidance."""
        temperatures = self.temperature, self.plan_temperature
        if validate:
            temperatures = self.val_temperature, self.val_plan_temperature
        return Sampling(self.steps, self.decode_guidance, guidance=1.0, temperature=temperatures[0], plan=self.plan,
                        plan_temperature=temperatures[1], plan_length=self.plan_length, looks=0)  # fmt: skip


class RlModule(LanguageModule):
    """Trains a language model on prompts `{"prompt": [dict, ...], "sample": [n, ...]}` by the worth of what it draws.

    Args:
        network: sizes of the instruct model; unused when `llm` names a folder.
        optim: optimiser and schedule.
        tokenizer: run, release or folder of the image tokenizer that decodes.
        rewards: import path -> weight of functions of images and prompts, see `rl/rewards.py`.
        judge: file of `ddt study attributes`, for rewards that read images with it.
        practice: how the policy samples and learns.
        renderer: run, release or folder of a renderer of that tokenizer, which decodes in one step.
        vae: folder of the frozen diffusers AutoencoderKL of the latents; None works on pixels.
        **language: options that every language model has.
    """

    fresh = False

    def __init__(
        self,
        network: LlmConfig,
        optim: OptimConfig,
        tokenizer: str,
        rewards: dict[str, float],
        judge: str | None = None,
        practice: PracticeConfig | None = None,
        renderer: str | None = None,
        vae: str | None = None,
        **language: Any,
    ) -> None:
        super().__init__(network, optim, **language)
        if self.code_weight:
            raise ValueError(
                f"`model.code_weight` ({self.code_weight}) is a loss of pretrain and instruct: set it to 0."
            )
        self.tokenizer_folder = find_part("tokenizer", tokenizer, "model.tokenizer")
        self.renderer_folder = find_part("renderer", renderer, "model.renderer") if renderer else None
        self.vae = vae
        self.rewards = find_rewards(rewards, judge=judge)
        self.practice = practice or PracticeConfig()

    def configure_model(self) -> None:
        """Build the policy, the frozen model it started from, and what decodes its ids."""
        if hasattr(self, "llm"):
            return
        refuse_divided(self.trainer.strategy, "practice draws and answers")
        super().configure_model()
        device = self.trainer.strategy.root_device
        if self.practice.kl_weight:
            # Past nn.Module, or the start would be saved with the run and given to the optimiser.
            self.__dict__["reference"] = reference = self.built().requires_grad_(False).to(device).eval()
            self.reference_states = forward_method(reference, hidden_states)
        images = load_tokenizer(self.tokenizer_folder).to(device)
        vae = FrozenVae(self.vae).to(device) if self.vae else None
        renderer = Renderer.from_pretrained(self.renderer_folder, images) if self.renderer_folder else None
        self.pipeline = Pipeline(images, self.llm, self.vocab, vae, renderer)
        plan = self.practice.sampling().plan_for(self.vocab.plans)
        if self.practice.policy != "ids" and plan != "auto":
            raise ValueError(
                f"`model.practice.plan` ({plan}) must be auto for `model.practice.policy` ({self.practice.policy}): "
                "otherwise the model writes no plan that it could learn from."
            )
        vocab = self.vocab
        plan_allowed = ~barred_ids(vocab.bov + 1, vocab.text_size, vocab.bov, sorted(vocab.special_ids)).to(device)
        every_text = max(vocab.text_size, vocab.eos + 1)
        answer_allowed = ~barred_ids(every_text, vocab.text_size, vocab.eos, ()).to(device)
        # What is sampled at a place of each kind: the range of ids, which of them, and the temperature.
        self.choices: dict[int, tuple[int, int, Tensor | None, float]] = {
            PLAN: (0, vocab.bov + 1, plan_allowed, self.practice.plan_temperature),
            IMAGE: (vocab.image_start, vocab.image_end, None, self.practice.temperature),
            ANSWER: (0, every_text, answer_allowed, self.practice.temperature),
        }

    def on_fit_start(self) -> None:
        """Reward an empty image for the first prompts, so that rewards that need something else are found at once."""
        data, side = self.trainer.datamodule, self.pipeline.image_size
        empty = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        for prompt in [data.prompt(0), *data.watched[:1]]:
            worth(self.rewards, empty, [{**prompt, "plan": "", "written": ""}])

    def draw(
        self, prompts: list[Prompt], samples: list[int], places: range, sampling: Sampling, key: str
    ) -> tuple[Rollouts, Tensor]:
        """Samples number `places` of each prompt, one prompt after the other, and their rewards."""
        each = [prompt for prompt in prompts for _ in places]
        seeds = [key_bits(key, self.seed, n, g) >> 1 for n in samples for g in places]
        training = self.llm.training
        self.llm.eval()
        drawn = roll_out(self.pipeline, each, sampling, seeds)
        self.llm.train(training)
        said = "plan" if drawn.drawn else "written"
        known = [{**prompt, said: text} for prompt, text in zip(each, drawn.texts, strict=True)]
        return drawn, torch.tensor(worth(self.rewards, drawn.images, known), dtype=torch.float64)

    def practised(self, prompts: list[Prompt], samples: list[int]) -> tuple[Rollouts, Tensor, Tensor]:
        """A group for each prompt, drawn again where it teaches nothing.

        Returns:
            Their samples, their rewards `[N]`, and the rewards of those that were drawn first `[N]`.
        """
        group, sampling = self.practice.group, self.practice.sampling()
        drawn, rewards = self.draw(prompts, samples, range(group), sampling, "rollout")
        first = rewards.clone()
        for attempt in range(1, self.practice.resample + 1):
            idle = (~self.practice.lessons(rewards)[1].view(-1, group).any(1)).nonzero()[:, 0].tolist()
            if not summed(torch.tensor(len(idle), device=self.device)):
                break
            at = idle or [0]  # where weights are sharded, every process takes part in the steps of all
            chosen = [prompts[n] for n in at], [samples[n] for n in at]
            again, found = self.draw(*chosen, range(attempt * group, (attempt + 1) * group), sampling, "rollout")
            if not idle:
                continue
            places = [n * group + g for n in idle for g in range(group)]
            drawn = drawn.replaced(places, again)
            rewards[places] = found
        return drawn, rewards, first

    def scores(self, hidden: Tensor, head: Tensor, ids: Tensor, kinds: Tensor) -> dict[int, Scored]:
        """The policy at the places of each kind, among the ids that could be sampled there."""
        found = {}
        for kind, (low, high, allowed, temperature) in self.choices.items():
            at = kinds[:, 1:] == kind
            if at.any():
                found[kind] = scored(hidden[:, :-1][at], head[low:high], ids[:, 1:][at] - low,
                                     temperature=temperature, softcap=softcap(self.llm), allowed=allowed)  # fmt: skip
        return found

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Sample, reward, and the loss of the policy on what it sampled."""
        prompts, practice = batch["prompt"], self.practice
        drawn, rewards, first = self.practised(prompts, batch["sample"])
        gains, learned = practice.lessons(rewards)
        # Every process takes part in the forward pass, also one that has nothing to learn from.
        kept = learned.nonzero()[:, 0] if learned.any() else torch.tensor([0])
        ids, kinds = (rows[kept].to(self.device) for rows in policy_rows(drawn, self.vocab, practice.policy))
        gains = gains[kept].float().to(self.device)

        policy = self.scores(self.hidden_states(ids), self.llm.get_output_embeddings().weight, ids, kinds)
        start = self.start_scores(ids, kinds)
        chosen, divergence, row = [], [], []
        for kind, found in policy.items():
            chosen.append(found.chosen)
            row.append((kinds[:, 1:] == kind).nonzero()[:, 0])
            if not start:
                divergence.append(torch.zeros_like(found.chosen))
            elif practice.kl == "exact":
                divergence.append(exact_kl(found.all, start[kind].all))
            else:
                divergence.append(k3(found.chosen, start[kind].chosen))
        rows, kl = torch.cat(row), torch.cat(divergence)
        total, count = policy_loss(torch.cat(chosen), gains[rows], kl, rows, len(ids), kl_weight=practice.kl_weight)
        if not learned.any():
            total, count = 0.0 * total, 0 * count
        loss = global_mean(total, count)
        self.log_rollouts(prompts, drawn, rewards, first, policy, kl, kinds, loss)
        return loss

    @torch.no_grad()
    def start_scores(self, ids: Tensor, kinds: Tensor) -> dict[int, Scored]:
        """The start's policy at the same places; empty where it is not asked for."""
        if not self.practice.kl_weight:
            return {}
        start = self.__dict__["reference"]
        return self.scores(self.reference_states(ids), start.get_output_embeddings().weight, ids, kinds)

    def log_rollouts(
        self,
        prompts: list[Prompt],
        drawn: Rollouts,
        rewards: Tensor,
        first: Tensor,
        policy: dict[int, Scored],
        kl: Tensor,
        kinds: Tensor,
        loss: Tensor,
    ) -> None:
        """Log what a step drew, over all processes; the names are explained in `stages/README.md`."""
        if self.global_step % self.trainer.log_every_n_steps:
            return
        group, device = self.practice.group, self.device
        equal, left_out = undecided(first, group), ~self.practice.lessons(rewards)[1]
        found = {"loss": loss, "reward": first, "equal_groups": equal, "left_out": left_out, "kl": kl}
        found |= {"cut_plans": torch.tensor(drawn.cut), **self.entropies(policy, kinds)}
        if drawn.drawn:
            found["distance"], found["distinct"] = variety(drawn.images, group)
        else:
            found["distinct"] = ~torch.tensor(same_before(drawn.texts, group))
        tags = [prompt["tag"] for prompt in prompts for _ in range(group)]
        for tag in self.trainer.datamodule.by_tag:
            found[f"reward/{tag}"] = first[torch.tensor([one == tag for one in tags])]
        pairs = {
            f"train/{name}": (values.double().sum().to(device), torch.tensor(values.numel(), device=device))
            for name, values in found.items()
        }
        log_row(self, ratios(pairs))

    def entropies(self, policy: dict[int, Scored], kinds: Tensor) -> dict[str, Tensor]:
        """Entropies of the policy: of plans, answers, and of the first and the last quarter of an image's ids."""
        found = {
            name: policy[kind].entropy()
            for name, kind in (("entropy_plan", PLAN), ("entropy_answer", ANSWER))
            if kind in policy
        }
        if IMAGE in policy:
            by_place = policy[IMAGE].entropy().view(-1, self.vocab.image_tokens)
            quarter = max(1, self.vocab.image_tokens // 4)
            found |= {"entropy_first": by_place[:, :quarter], "entropy_last": by_place[:, -quarter:]}
        return found

    def on_validation_epoch_start(self) -> None:
        """The prompts to watch begin anew."""
        data = self.trainer.datamodule
        self.watched = {tag: [0.0, 0] for tag in dict.fromkeys(prompt["tag"] for prompt in data.watched)}

    def validation_step(self, batch: dict[str, Any], _: int, dataloader_idx: int = 0) -> None:
        """Draw each prompt to watch once."""
        prompts = batch["prompt"]
        rewards = self.draw(prompts, batch["sample"], range(1), self.practice.sampling(validate=True), "watched")[1]
        for prompt, reward in zip(prompts, rewards.tolist(), strict=True):
            self.watched[prompt["tag"]][0] += reward
            self.watched[prompt["tag"]][1] += 1

    def on_validation_epoch_end(self) -> None:
        """Mean reward of the prompts of each tag, and of all."""
        sums = torch.tensor(list(self.watched.values()), dtype=torch.float64, device=self.device)
        log_step(self)
        pairs = {f"val/reward/{tag}": (total, count) for tag, (total, count) in zip(self.watched, sums, strict=True)}
        found = ratios({**pairs, "val/reward": (sums[:, 0].sum(), sums[:, 1].sum())})
        self.log_dict(found, rank_zero_only=True)
