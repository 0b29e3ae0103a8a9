"""Policy gradients against TRL's GRPOTrainer, where it is installed: one training step, watched from inside."""

import pytest
import torch

from ddt_lightning.lm.llm import hidden_states
from ddt_lightning.lm.policy import advantages, k3, policy_loss, scored

WORDS = ["<pad>", "<s>", "</s>", "red", "blue", "circle", *(f"<{n}>" for n in range(12))]
GROUP, LENGTH, BETA, TEMPERATURE = 4, 5, 0.04, 0.8


def our_loss(model, inputs):
    """The loss of what TRL gives its own, and the mean divergence."""
    assert inputs["prompt_mask"].all()  # prompts of one length: no padding before the completions
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    first, mask = inputs["prompt_ids"].shape[1], inputs["completion_mask"].bool()
    row, _ = mask.nonzero(as_tuple=True)
    hidden = hidden_states(model, ids)[:, first - 1 : -1][mask]
    head = model.get_output_embeddings().weight
    found = scored(hidden, head, inputs["completion_ids"][mask], temperature=TEMPERATURE)
    kl = k3(found.chosen, inputs["ref_per_token_logps"][mask])
    total, count = policy_loss(found.chosen, inputs["advantages"][row], kl, row, len(ids), kl_weight=BETA)
    return total / count, kl.mean().item()


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """What TRL's trainer put into its loss in one step, and what came out."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("trl")
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "padding_side": "left"}
    text = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(WORDS), initializer_range=0.5, **special)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    text.save_pretrained(folder / "model")
    seen = {}

    def rollout(prompts, trainer):
        draw = torch.Generator().manual_seed(3)
        lengths = torch.randint(2, LENGTH + 1, (len(prompts),), generator=draw).tolist()
        ids = [torch.randint(6, len(WORDS), (n,), generator=draw).tolist() for n in lengths]
        prompt_ids = [text(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": [[0.0] * n for n in lengths]}

    def reward(completion_ids, **_):
        seen["drawn"], seen["rewards"] = completion_ids, [sum(ids) / 100 for ids in completion_ids]
        return seen["rewards"]

    class Watched(trl.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            with torch.no_grad():  # the reference becomes another model than the policy
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
            loss = super()._compute_loss(model, inputs)
            mine, kl = our_loss(model, inputs)
            weights = list(model.parameters())
            seen.update(inputs=inputs, kl=kl)
            seen["theirs"] = loss.detach(), torch.autograd.grad(loss, weights, retain_graph=True)
            seen["ours"] = mine.detach(), torch.autograd.grad(mine, weights)
            return loss

    args = trl.GRPOConfig(
        str(folder / "run"),
        use_cpu=True,
        report_to="none",
        per_device_train_batch_size=2 * GROUP,
        num_generations=GROUP,
        max_completion_length=LENGTH,
        max_steps=1,
        beta=BETA,
        temperature=TEMPERATURE,
        loss_type="grpo",
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    prompts = {"prompt": ["red circle", "blue circle"] * 4}
    trainer = Watched(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=args,
        # with a fingerprint of its own: the library cannot hash a fresh one under Python 3.11
        train_dataset=Dataset(InMemoryTable(pyarrow.table(prompts)), fingerprint="prompts"),
        processing_class=text,
        rollout_func=rollout,
    )
    trainer.train()
    return seen


def test_advantages_are_those_of_trl(step):
    by_ids = dict(zip(map(tuple, step["drawn"]), advantages(torch.tensor(step["rewards"]), GROUP), strict=True))
    masks = step["inputs"]["completion_mask"].bool()
    drawn = [tuple(ids[mask].tolist()) for ids, mask in zip(step["inputs"]["completion_ids"], masks, strict=True)]
    assert len(by_ids) == len(drawn) == 2 * GROUP
    ours = torch.stack([by_ids[ids] for ids in drawn])  # TRL shuffles them before the loss
    torch.testing.assert_close(ours, step["inputs"]["advantages"], atol=1e-6, rtol=1e-6)


def test_loss_and_gradient_are_those_of_trl(step):
    assert step["kl"] > 1e-3  # the reference is another model
    torch.testing.assert_close(step["ours"][0], step["theirs"][0], atol=1e-6, rtol=1e-6)
    for mine, other in zip(step["ours"][1], step["theirs"][1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)
