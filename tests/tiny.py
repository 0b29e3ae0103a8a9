"""A whole model folder of a few thousand random weights, made in a second, for the tests of what reads one."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ddt_lightning.lm.generate import stream_image_ids
from ddt_lightning.lm.llm import LlmConfig, build_llm
from ddt_lightning.sampling import Sampling
from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.tokenizer import Draws, Tokenizer, TokenizerConfig
from ddt_lightning.vocab import TokenOrder, Vocab, gather_words, train_text_tokenizer

TEXTS = ["a red circle above a blue square", "make the ring green", "how many shapes are there ?", "two crosses", "yes"]


def tiny_tokenizer(side: int = 16, seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    config = TokenizerConfig(
        tokens=6,
        codebook_size=24,
        code_dim=4,
        latent_size=side,
        patch=side // 4,
        encoder=EncoderConfig(depth=1, image_width=16, image_heads=2, query_width=16, query_heads=2),
        decoder=DecoderConfig(depth=1, heads=2, head_dim=8),
    )
    return Tokenizer(config).eval()


def taught_tokenizer(side: int = 32, seed: int = 0) -> Tokenizer:
    """A tiny tokenizer after less than a second of training: its ids differ between images, and have an effect."""
    tokenizer = tiny_tokenizer(side, seed).train()
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(32, 3, 1, 1, generator=draw).expand(-1, -1, side, side).clone()
    images[:16, :, : side // 2] = torch.rand(16, 3, 1, 1, generator=draw)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    for _ in range(60):
        noise = torch.randn(images.shape, generator=draw)
        draws = Draws(noise, torch.rand(32, generator=draw), torch.rand(32, generator=draw), draw)
        optimizer.zero_grad()
        tokenizer.loss(2 * images - 1, draws)[0].backward()
        optimizer.step()
    return tokenizer.eval()


def tiny_model(
    folder: Path, *, order: TokenOrder = "fine_to_coarse", side: int = 16, max_length: int = 256,
    tokenizer: Tokenizer | None = None, plans: bool = False,
) -> Path:  # fmt: skip
    """`folder/{tokenizer,lm,vocab}`."""
    tokenizer = tokenizer or tiny_tokenizer(side)
    tokenizer.save_pretrained(folder / "tokenizer")
    words: set[str] = set()
    text = train_text_tokenizer(gather_words(TEXTS * 3, words), 300)
    vocab = Vocab(text, 24, 6, order, tokenizer.fingerprint(), plans, words=frozenset(words))
    vocab.save(folder / "vocab")
    config = LlmConfig(width=16, depth=1, heads=2, kv_heads=2, ffn_width=32, max_length=max_length)
    build_llm(config, vocab.size, vocab.bos, vocab.eos, vocab.pad).save_pretrained(folder / "lm")
    return folder


def image_ids(
    model: PreTrainedModel, prompts: list[list[int]], *, guidance: float = 1.0, temperature: float = 1.0,
    top_k: int = 0, top_p: float = 1.0, compile: bool = False, **ids,
) -> torch.Tensor:  # fmt: skip
    """All ids `[B, K]` of `stream_image_ids`, by default from the model's plain distribution."""
    sampling = Sampling(guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, compile=compile)
    return torch.stack(list(stream_image_ids(model, prompts, sampling, **ids)), dim=1)
