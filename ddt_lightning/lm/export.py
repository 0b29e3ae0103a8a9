"""The language model as a plain transformers folder, and back: no code of this project is needed to load it.

The text tokenizer is extended by one added token for each image id, in the order of the ids, then [BOV] and [EOV], so
that the tokenizer is as long as the model has rows and its ids are the model's. All of them are special tokens of a
tokenizer that splits special strings inside a text: whatever a text says, it never becomes one. What a tokenizer cannot
say (`K`, `order`, the image tokenizer's hash) stands in the model's `config.json` under `ddt`, where it outlives
training by others.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, processors
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

BOV, EOV = "[BOV]", "[EOV]"
FACTS = ("K", "codebook_size", "order", "tokenizer", "text_size", "text_tokenizer")
"""Fields of `ddt` in config.json."""
PLANS = ("plans", "answer_plans")
"""More of them, which models from before there were plans lack."""

# One exchange as a text; the text tokenizer adds BOS. What ends an answer and what shows an image are ids, which a
# tokenizer that never parses special strings cannot be given as a text: README.md of the folder joins them.
CHAT_TEMPLATE = """\
{%- macro said(content) -%}
{%- if content is string -%}
{%- if content -%}{{ ' ' + content.replace('USER:', 'USER :').replace('ASSISTANT:', 'ASSISTANT :') }}{%- endif -%}
{%- else -%}
{%- for part in content -%}
{%- if part['type'] != 'text' -%}
{{- raise_exception('The chat template writes texts alone: join the ids of images as README.md shows.') -}}
{%- endif -%}
{{- said(part['text']) -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if loop.index0 > 1 -%}
{{- raise_exception('The chat template writes one exchange: join several as README.md shows.') -}}
{%- elif message['role'] != ('user', 'assistant')[loop.index0] -%}
{{- raise_exception('The first message must be of the role user, the second of the role assistant.') -}}
{%- elif loop.index0 == 0 -%}
{{- 'USER:' + said(message['content']) -}}
{%- else -%}
{{- ' ASSISTANT:' + said(message['content']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages|length == 1 -%}{{ ' ASSISTANT:' }}{%- endif -%}"""


def image_token(code: int) -> str:
    """The name of an image id as a token."""
    return f"<|image:{code}|>"


def extend_tokenizer(text: PreTrainedTokenizerFast, codebook_size: int) -> PreTrainedTokenizerFast:
    """A text tokenizer extended by the image ids, [BOV] and [EOV]; the given one stays as it is.

    It puts BOS in front of a text, splits special strings, and holds the chat template.

    Raises:
        ValueError: it has a token of these names already, or holes among its ids.
    """
    names = [*(image_token(code) for code in range(codebook_size)), BOV, EOV]
    known = text.get_vocab()
    taken = next((name for name in names if name in known), None)
    if taken is not None:
        raise ValueError(f"the text tokenizer has a token {taken!r} already: use one without it.")
    if len(known) != max(known.values()) + 1:
        raise ValueError(
            f"the text tokenizer has {len(known)} tokens, but ids up to {max(known.values())}: added tokens would not "
            "get the ids of the model's rows."
        )
    backend = Tokenizer.from_str(text.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    bos = (str(text.bos_token), int(text.bos_token_id))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    extended = _wrap(backend, text)
    extended.chat_template = CHAT_TEMPLATE
    return extended


def text_part(extended: PreTrainedTokenizerFast, text_size: int) -> PreTrainedTokenizerFast:
    """The text tokenizer inside one that `extend_tokenizer` made: without the tokens from `text_size` on."""
    state = json.loads(extended.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < text_size]
    return _wrap(Tokenizer.from_str(json.dumps(state)), extended)


def _wrap(backend: Tokenizer, like: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    special = {name: str(getattr(like, name)) for name in ("bos_token", "eos_token", "pad_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, split_special_tokens=True, clean_up_tokenization_spaces=False, **special
    )


def text_fingerprint(text: PreTrainedTokenizerFast) -> str:
    """Sixteen hex digits of everything that decides the ids of a text; the same before and after `extend_tokenizer`."""
    state = json.loads(text.backend_tokenizer.to_str())
    parts = json.dumps([state["normalizer"], state["pre_tokenizer"], state["model"]], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()


def write_model(folder: Path, model: PreTrainedModel, extended: PreTrainedTokenizerFast, facts: dict[str, Any]) -> None:
    """Write model, tokenizer, generation config; `facts` (see `FACTS`) go into config.json.

    Raises:
        ValueError: tokenizer and model differ in length, or an id has another token than the model's row.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(extended) != rows:
        raise ValueError(f"the tokenizer has {len(extended)} tokens, the model {rows} rows: they are not of one run.")
    first = facts["text_size"]
    names = [*(image_token(code) for code in range(facts["codebook_size"])), BOV, EOV]
    for number, found in enumerate(extended.convert_tokens_to_ids(names)):
        if found != first + number:
            raise ValueError(f"the token {names[number]} has the id {found}, the model's is {first + number}.")
    model.config.ddt = {name: facts[name] for name in (*FACTS, *PLANS)}
    # Sampling from the whole distribution, as `ddt generate` does; an image, its end mark and EOS fit.
    model.generation_config = GenerationConfig(
        bos_token_id=extended.bos_token_id,
        eos_token_id=extended.eos_token_id,
        pad_token_id=extended.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=facts["K"] + 2,
    )
    model.save_pretrained(folder)
    extended.save_pretrained(str(folder))


def read_model(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """Model, extended tokenizer and facts of a folder that `write_model` wrote, or that was trained on from one.

    Raises:
        FileNotFoundError: no safetensors, or no config.json.
        ValueError: config.json lacks the facts, or tokenizer and model do not fit each other or the facts.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} holds no config.json with *.safetensors: name a folder of `ddt export`.")
    facts = json.loads((folder / "config.json").read_text()).get("ddt") or {}
    missing = [name for name in FACTS if name not in facts]
    if missing:
        raise ValueError(f"{folder}/config.json: `ddt` lacks {', '.join(missing)}: name a folder of `ddt export`.")
    model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    extended = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    rows, size = model.get_input_embeddings().num_embeddings, facts["text_size"] + facts["codebook_size"] + 2
    if not len(extended) == rows == size:
        raise ValueError(f"{folder}: tokenizer {len(extended)}, model {rows}, config.json {size} ids: they must agree.")
    found = text_fingerprint(extended)
    if found != facts["text_tokenizer"]:
        raise ValueError(f"{folder}: its text tokenizer is {found}, config.json names {facts['text_tokenizer']}.")
    if extended.convert_tokens_to_ids(EOV) != rows - 1:
        raise ValueError(f"{folder}: {EOV} has the id {extended.convert_tokens_to_ids(EOV)}, not {rows - 1}.")
    return model, extended, facts


@torch.no_grad()
def probe(model: PreTrainedModel, rows: int = 2, length: int = 48, seed: int = 0) -> Tensor:
    """Logits `[rows, length, V]` (fp32) of random rows over the whole id space, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    size = model.get_input_embeddings().num_embeddings
    length = min(length, int(model.config.max_position_embeddings))
    ids = torch.randint(size, (rows, length), generator=generator)
    return model.eval()(input_ids=ids.to(model.device)).logits.float().cpu()


def compare_logits(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference between two `probe`s.

    Raises:
        ValueError: it is above `tolerance` of the largest logit, or a logit is not a number.
    """
    if found.shape != expected.shape:
        raise ValueError(f"the written model gives logits {list(found.shape)}, the live one {list(expected.shape)}.")
    difference, scale = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= tolerance * max(scale, 1.0):
        raise ValueError(f"logits of the written model differ by {difference:.3g} (the largest is {scale:.3g}).")
    return difference
