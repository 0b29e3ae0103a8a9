"""Sampling image ids with guidance against transformers' own guidance: same weights, prompts and settings.

At the default size of the language model, and at the vocabulary of Llama 3 with 65,536 image codes on a model narrow
enough for a CPU. `python tests/benchmarks/generation.py compile` adds the compiled step (a minute to compile).
"""

import sys
from functools import partial

import torch
from timing import side_by_side
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from ddt_lightning.lm.llm import LlmConfig, build_llm
from tests.tiny import image_ids

K, BATCH, GUIDANCE = 32, 16, 2.0
SIZES = {
    "default size": (500, 512, LlmConfig(width=128, depth=5, heads=4, kv_heads=4, ffn_width=384, max_length=256)),
    "vocabulary of 128,256 + 65,536": (
        128_256, 65_536, LlmConfig(width=256, depth=4, heads=4, kv_heads=4, ffn_width=768, max_length=256)
    ),
}  # fmt: skip


class OnlyVisual(LogitsProcessor):
    """Forbids everything but visual ids."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, self.start : self.end] = 0
        return scores + allowed


def ours(model: PreTrainedModel, text: int, codes: int, compile: bool = False) -> None:
    """A batch of images by this project."""
    prompt, free = [0, *range(10, 20), text + codes], [0, text + codes]
    image_ids(model, [prompt] * BATCH, unconditional=[free] * BATCH, start=text, codebook_size=codes, length=K,
              guidance=GUIDANCE, seeds=list(range(BATCH)), pad=2, compile=compile)  # fmt: skip


def theirs(model: PreTrainedModel, text: int, codes: int) -> None:
    """The same by `transformers.generate`."""
    prompts = torch.tensor([[0, *range(10, 20), text + codes]] * BATCH)
    free = torch.tensor([[0, text + codes]] * BATCH)
    model.generate(prompts, negative_prompt_ids=free, guidance_scale=GUIDANCE, attention_mask=torch.ones_like(prompts),
                   do_sample=True, top_k=0, min_new_tokens=K, max_new_tokens=K,
                   logits_processor=LogitsProcessorList([OnlyVisual(text, text + codes)]))  # fmt: skip


def main(compiled: bool = False) -> None:
    """Print a table for each size."""
    for name, (text, codes, config) in SIZES.items():
        torch.manual_seed(0)
        model = build_llm(config, text + codes + 2, bos=0, eos=1, pad=2).eval()
        candidates = {
            "transformers.generate": partial(theirs, model, text, codes),
            "lm.generate": partial(ours, model, text, codes),
        }
        if compiled:
            candidates["lm.generate, compiled"] = partial(ours, model, text, codes, compile=True)
        title = f"{BATCH} images of {K} ids with guidance, {name}"
        side_by_side(title, candidates, amount=BATCH * K, unit="ids")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] == ["compile"])
