"""Loader of a language model that reads and writes: our small Llama where it fits, transformers' model otherwise."""

import json
from pathlib import Path

from ddt_lightning.lm.generate import LanguageModel
from ddt_lightning.lm.llama import Llama, is_plain


def load_language_model(folder: str | Path) -> LanguageModel:
    """The model of a folder that transformers wrote, in eval mode.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: weights that do not fit it.
    """
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if is_plain(config):
        return Llama.from_pretrained(folder)
    from transformers import AutoModelForCausalLM

    model: LanguageModel = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True).eval()
    return model
