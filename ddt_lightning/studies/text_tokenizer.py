"""The text tokenizer that all runs of `ddt study text` share."""

from itertools import islice
from pathlib import Path

from ddt_lightning.atomic import staged


def make_text_tokenizer(patterns: list[str], size: int, out: Path) -> None:
    """Train a text tokenizer on the texts of shards.

    Args:
        patterns: shards of lines of text, or of images with captions.
        size: the most pieces.
        out: folder of the tokenizer.
    """
    from ddt_lightning.shards.read import Columns, expand
    from ddt_lightning.shards.rows import every_text
    from ddt_lightning.shards.tokens import MOST_TEXTS
    from ddt_lightning.vocab import train_text_tokenizer

    urls = expand(patterns, "text_shards")
    texts = every_text(urls, Columns(), {})
    with staged(out) as folder:
        train_text_tokenizer(islice(texts, MOST_TEXTS), size).save_pretrained(str(folder))
