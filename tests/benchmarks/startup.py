"""The wait for a first picture: whole processes that import torch and that draw, and a picture by a loaded model.

A model of the default sizes with random weights serves: its pictures take as long as those of a trained one.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from timing import side_by_side

from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.vocab import Vocab, train_text_tokenizer

PROMPT = "a photo of two red circles left of a blue diamond"


def write_model(folder: Path) -> None:
    """A model folder of the default sizes."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig()).eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    Renderer(RendererConfig(), tokenizer).save_pretrained(folder / "renderer")
    facts = tokenizer.config
    vocab = Vocab(train_text_tokenizer([PROMPT] * 3, 1024), facts.codebook_size, facts.tokens,
                  tokenizer=tokenizer.fingerprint())  # fmt: skip
    vocab.save(folder / "vocab")
    build_llm(LlmConfig(), vocab.size, vocab.bos, vocab.eos, vocab.pad).save_pretrained(folder / "lm")


def process(*words: str) -> None:
    """A python process from start to end."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def main() -> None:
    """Print a table of processes, and one of pictures in this process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        write_model(folder)
        draw = ["-m", "ddt_lightning.cli", "generate", PROMPT, "--model", str(folder), "--out", f"{place}/drawn"]
        side_by_side(
            "First picture: whole processes",
            {
                'python -c "import torch"': partial(process, "-c", "import torch"),
                'python -c "import transformers\' Llama"': partial(
                    process, "-c", "from transformers import LlamaForCausalLM"
                ),
                "ddt generate": partial(process, *draw),
            },
        )
        pipeline = Pipeline.from_pretrained(folder)
        prompts = pipeline.draw_prompts([PROMPT])
        side_by_side("Next pictures: a loaded model", {"draw": partial(pipeline.draw, prompts, Sampling())})


if __name__ == "__main__":
    main()
