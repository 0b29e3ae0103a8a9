"""Drawing image ids with guidance: one batch for both branches and one cache, against transformers' own guidance."""

import torch
from timing import side_by_side
from transformers import LogitsProcessor, LogitsProcessorList

from ddt_lightning.lm.generate import image_ids
from ddt_lightning.lm.llm import LlmConfig, build_llm

TEXT, CODES, K, BATCH = 500, 512, 32, 16


class OnlyVisual(LogitsProcessor):
    """Forbids everything but visual ids."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, TEXT : TEXT + CODES] = 0
        return scores + allowed


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    size = TEXT + CODES + 2
    config = LlmConfig(width=128, depth=5, heads=4, kv_heads=4, ffn_width=384)
    model = build_llm(config, size, bos=0, eos=1, pad=2).eval()
    prompt = [0, *range(10, 20), size - 2]
    unconditional = [0, size - 2]
    prompts = torch.tensor([prompt] * BATCH)

    def ours() -> None:
        image_ids(model, [prompt] * BATCH, unconditional=[unconditional] * BATCH, start=TEXT, codebook_size=CODES,
                  length=K, guidance=2.0, seeds=list(range(BATCH)), pad=2)  # fmt: skip

    def theirs() -> None:
        model.generate(prompts, negative_prompt_ids=torch.tensor([unconditional] * BATCH), guidance_scale=2.0,
                       attention_mask=torch.ones_like(prompts), do_sample=True, min_new_tokens=K, max_new_tokens=K,
                       logits_processor=LogitsProcessorList([OnlyVisual()]))  # fmt: skip

    side_by_side(f"{BATCH} images of {K} ids with guidance", {"transformers.generate": theirs, "lm.generate": ours})


if __name__ == "__main__":
    main()
