"""The README.md of an exported language model: what it is, and how to draw with plain transformers."""

from typing import Any

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [ddt, text-to-image]
---
# A language model of text and image tokens

A {family} with {parameters:,} parameters that reads and writes text and images as one language (DDT-LLaMA,
arXiv 2504.14666; trained with ddt_lightning). An image is {K} ids out of {codebook_size:,}.

| | |
|---|---|
| ids | text 0..{last_text}, image codes {image_start}..{last_image} (`<|image:0|>` ...), `[BOV]` {bov}, `[EOV]` {eov} |
| K, order of an image's ids | {K}, {order} |
| hash of the image tokenizer | {tokenizer} |
| hash of the text tokenizer | {text_tokenizer} |
| longest sequence | {max_length} |

`config.json` holds the same under `ddt`. `coarse_to_fine` means that an image's ids stand reversed.

## Formats

    text to image   BOS text [BOV] id_1 .. id_K [EOV] EOS
    image to text   BOS [BOV] id_1 .. id_K [EOV] text EOS
    image, text     BOS [BOV] id_1 .. id_K [EOV] EOS          BOS text EOS
    chat            BOS USER: parts ASSISTANT: parts EOS USER: ...     parts: any mix of texts and images

A text has one space in front. The tokenizer puts BOS in front of what it is given, and splits special strings: a text
that says `[BOV]` or `<|image:7|>` is a text. So ids of images and marks are joined as ids:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tok = AutoTokenizer.from_pretrained(folder)
ddt = model.config.ddt
start, end = ddt["text_size"], ddt["text_size"] + ddt["codebook_size"]
bov, eov = end, end + 1
IMAGE_ONLY = {{"suppress_tokens": [*range(start), bov, eov], "min_new_tokens": ddt["K"], "max_new_tokens": ddt["K"]}}
TEXT_ONLY = {{"suppress_tokens": [*range(start, end), bov, eov]}}


def image(codes):  # K codes in the image tokenizer's order -> their part of a sequence
    codes = codes if ddt["order"] != "coarse_to_fine" else codes[::-1]
    return [bov, *(start + code for code in codes), eov]


def text(words):
    return tok(" " + words, add_special_tokens=False).input_ids if words else []


def draw(prompt, unconditional, guidance=2.0, **sampling):  # ids that end with [BOV] -> K codes
    if guidance != 1:
        sampling |= {{"guidance_scale": guidance, "negative_prompt_ids": torch.tensor([unconditional])}}
    ids = model.generate(torch.tensor([prompt]), **IMAGE_ONLY, **sampling)[0, len(prompt):] - start
    return (ids if ddt["order"] != "coarse_to_fine" else ids.flip(0)).tolist()


def draw_caption(caption, **options):
    return draw([tok.bos_token_id, *text(caption), bov], [tok.bos_token_id, bov], **options)


def said(part):  # a turn is not forged by what it says
    if not isinstance(part, str):
        return image(part)
    return text(part.replace("USER:", "USER :").replace("ASSISTANT:", "ASSISTANT :"))


def chat(exchanges, drop_text=False):  # [[request parts, answer parts], ..., [request parts]]; a part: str or codes
    ids = [tok.bos_token_id]
    for request, *answer in exchanges:
        ids += tok("USER:", add_special_tokens=False).input_ids
        ids += [i for part in request if not (drop_text and isinstance(part, str)) for i in said(part)]
        ids += tok(" ASSISTANT:", add_special_tokens=False).input_ids
        parts = answer[0] if answer else []
        last_image = max((n for n, part in enumerate(parts) if not isinstance(part, str)), default=-1)
        dropped = [drop_text and isinstance(part, str) and n < last_image for n, part in enumerate(parts)]  # plans
        ids += [i for part, drop in zip(parts, dropped) if not drop for i in said(part)]
        ids += [tok.eos_token_id] if answer else []
    return ids


def answer(exchanges, **sampling):
    prompt = chat(exchanges)
    ids = model.generate(torch.tensor([prompt]), **TEXT_ONLY, **sampling)[0, len(prompt):]
    return tok.decode(ids, skip_special_tokens=True).removeprefix(" ")


def draw_in_chat(exchanges, **options):
    return draw([*chat(exchanges), bov], [*chat(exchanges, drop_text=True), bov], **options)
```

For one exchange of texts the chat template does it:
`tok(tok.apply_chat_template([{{"role": "user", "content": "..."}}], tokenize=False, add_generation_prompt=True))`.
With `tokenize=True` BOS is missing: put it in front.

## Images

{images}
"""

WITH_TOKENIZER = """\
`tokenizer/` is the image tokenizer. With ddt_lightning installed, ids become pixels in [-1, 1] (or latents of its VAE):

    from ddt_lightning.load_tokenizer import load_tokenizer
    pixels = load_tokenizer("tokenizer").decode(torch.tensor([codes]), steps=16)

and `ddt import FOLDER OUT` makes a model folder that `ddt generate`, `edit` and `describe` read."""

WITHOUT_TOKENIZER = """\
The image tokenizer is not in this folder: codes become images with the one whose hash stands above."""


def model_card(
    facts: dict[str, Any], *, family: str, parameters: int, max_length: int, folder: str, images: bool
) -> str:
    """The card's text.

    Args:
        facts: fields of `ddt` in config.json.
        family: model type, e.g. `llama`.
        parameters: number of weights.
        max_length: longest sequence in ids.
        folder: what the examples load.
        images: whether the image tokenizer lies in `tokenizer/`.
    """
    start = facts["text_size"]
    end = start + facts["codebook_size"]
    return CARD.format(
        **facts,
        family=family,
        parameters=parameters,
        max_length=max_length,
        folder=folder,
        last_text=start - 1,
        image_start=start,
        last_image=end - 1,
        bov=end,
        eov=end + 1,
        images=WITH_TOKENIZER if images else WITHOUT_TOKENIZER,
    )
