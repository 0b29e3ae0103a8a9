"""Loader of any tokenizer's folder: DDT, VQGAN or VAR."""

from pathlib import Path

from ddt_lightning.tokens.base import ImageTokenizer, read_config
from ddt_lightning.tokens.tokenizer import Tokenizer


def load_tokenizer(folder: str | Path) -> ImageTokenizer:
    """The tokenizer of a folder written by `save_pretrained`, whichever kind, in eval mode.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a kind that is not known, or weights that do not fit the config.
    """
    kind = read_config(folder).get("kind")
    if kind == Tokenizer.kind:
        return Tokenizer.from_pretrained(folder)
    from ddt_lightning.spatial.var import Var
    from ddt_lightning.spatial.vqgan import Vqgan

    for other in (Vqgan, Var):
        if kind == other.kind:
            return other.from_pretrained(folder)
    raise ValueError(f"{folder}/config.json describes a {kind!r} tokenizer: 'ddt', 'vqgan' and 'var' are known.")
