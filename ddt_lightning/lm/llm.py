"""The language model: a small random Llama, or a local Llama or Gemma whose vocabulary grows by the image ids.

Sizes or a folder in, a transformers causal model with exactly `vocab_size` rows out (no padding rows: the exported
folder then needs no explanation): ids `[B, T]` to logits `[B, T, V]`. Sequences are padded on the right in training,
which a causal model needs no mask for. Random weights: standard deviation sqrt(2 / 5D), and 2 / (L sqrt D) for the two
matrices that write to the residual stream (GPT-NeoX-20B, arXiv 2204.06745, 2.1.2), so one default fits every width.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ddt_lightning.lm.weights import check_rows, new_rows

FAMILIES = ("llama", "gemma", "gemma2", "gemma3_text")
"""Model types with the layout that growing and generation rely on: one head without a bias, on top of one decoder."""


@dataclass(frozen=True)
class LlmConfig:
    """Sizes of a Llama that starts from random weights.

    Args:
        width: D, a multiple of `heads`.
        depth: number of layers L.
        heads: attention heads.
        kv_heads: key-value heads, a divisor of `heads`.
        ffn_width: width inside the feed-forward layers.
        max_length: longest sequence, prompt and answer together.
        rope_theta: base of the rotary positions.
        tie_embeddings: one matrix for embedding and head.
        dropout: attention dropout; drawn per process, so runs with it depend on the number of processes.
    """

    width: int = 160
    depth: int = 5
    heads: int = 5
    kv_heads: int = 5
    ffn_width: int = 432
    max_length: int = 512
    rope_theta: float = 10000.0
    tie_embeddings: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "kv_heads", "ffn_width", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`model.network.{name}` ({getattr(self, name)}) must be at least 1.")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"`model.network.width` ({self.width}) must be a multiple of 2 x `model.network.heads` ({self.heads})."
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"`model.network.kv_heads` ({self.kv_heads}) must divide `model.network.heads` ({self.heads})."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`model.network.dropout` ({self.dropout}) must lie in [0, 1).")


def build_llm(
    config: LlmConfig,
    vocab_size: int,
    bos: int,
    eos: int,
    pad: int,
    folder: str | Path | None = None,
    text_size: int | None = None,
    codes: Tensor | None = None,
) -> PreTrainedModel:
    """Builds the model on the default device and in the default dtype.

    Args:
        config: sizes of a random Llama; of a `folder` model only `dropout` is taken from it.
        vocab_size: rows of embedding and head.
        bos: id of the text tokenizer's BOS, written to the model's config as are `eos` and `pad`.
        eos: id of EOS.
        pad: id of PAD.
        folder: a transformers folder of a Llama or Gemma. A model with `vocab_size` rows is taken as it is (grown
            before); otherwise all rows from `text_size` on are new (`weights.new_rows`), the same in every process. On
            the meta device only `config.json` is read.
        text_size: ids of the text tokenizer; by default all rows of the folder's model.
        codes: code vectors `[C, d]` that the rows of the C image ids, which follow the text, start from; None starts
            them from noise.

    Raises:
        FileNotFoundError: no model in `folder`.
        ValueError: another family, weights that do not fit, or a text tokenizer that is not the model's.
    """
    if folder is None:
        model: PreTrainedModel = _random_llama(config, vocab_size)
        if codes is not None and text_size is not None:
            _start_rows(model, text_size, codes)
    else:
        model = _load(Path(folder), config.dropout, vocab_size)
        rows = tables(model)[0].shape[0]
        if rows != vocab_size:
            text_size = rows if text_size is None else text_size
            check_rows(folder, rows, text_size, vocab_size)
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
            _start_rows(model, text_size, codes)
    for ids in (model.config, model.generation_config):
        ids.bos_token_id, ids.eos_token_id, ids.pad_token_id = bos, eos, pad
    return model


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Hidden states that the head is applied to, `[B, T, D]`.

    Args:
        model: the language model.
        ids: int64 `[B, T]`.
        positions: int64 `[B, T]`; each 0 begins a document that sees nothing before it. None: one document a row.
    """
    return model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state


def softcap(model: PreTrainedModel) -> float | None:
    """The c of `c tanh(logits / c)` at the head of Gemma 2."""
    return getattr(model.config, "final_logit_softcapping", None)


def _random_llama(config: LlmConfig, vocab_size: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.max_length,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            attention_dropout=config.dropout,
            initializer_range=math.sqrt(2 / (5 * config.width)),
        )
    )
    for layer in model.model.layers:
        for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.normal_(out.weight, std=2 / (config.depth * math.sqrt(config.width)))
    return model


def _load(folder: Path, dropout: float, vocab_size: int) -> PreTrainedModel:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"`model.llm` ({folder}) holds no config.json: name a transformers model folder.")
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if config.model_type not in FAMILIES:
        raise ValueError(f"`model.llm` ({folder}) is a {config.model_type}: it must be one of {', '.join(FAMILIES)}.")
    config.attention_dropout = dropout
    # SDPA cannot cap attention logits, which Gemma 2 was trained with.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    if torch.get_default_device().type == "meta":
        config.vocab_size = vocab_size
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(f"`model.llm` ({folder}) holds no *.safetensors: copy the weights there.")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=config,
        dtype=torch.get_default_dtype(),
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    model, found = loaded
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        raise ValueError(f"`model.llm` ({folder}): its weights do not fit its config.json, first at {wrong[0]}.")
    return model


def tables(model: PreTrainedModel) -> list[nn.Parameter]:
    """Embedding, and head where it is a matrix of its own."""
    tables = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings().weight)
    return cast(list[nn.Parameter], tables)


@torch.no_grad()
def _start_rows(model: PreTrainedModel, text_size: int, codes: Tensor | None) -> None:
    """Start every row from `text_size` on."""
    for number, table in enumerate(tables(model)):
        table[text_size:] = new_rows(table[:text_size], len(table) - text_size, number, codes).to(table)
