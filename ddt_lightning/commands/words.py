"""`ddt data words`: text as token shards, so that a language model of ids can be trained on words as on images.

Texts are cut into words, strung together with a line end behind each, and cut into windows of equally many words. A
window is a sample of `K` ids, its code the word's rank by frequency in the training texts; code 0 is every other word.
Out: `words-train-*.tar`, `words-val-*.tar`, `tokens.json` (kind `words`) and `words.json`, the words by code.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.commands.files import positive
from ddt_lightning.commands.staging import write_json

END = "\n"
OTHER = "<other>"


def words(
    *,
    out: str,
    shards: list[str] | str,
    val_shards: list[str] | str,
    length: int = 32,
    codes: int = 512,
    hop: int = 8,
    per_shard: int = 4_000,
) -> None:
    """Turn the texts of shards into token shards of words, windows of equal length.

    Args:
        out: folder of the token shards.
        shards: shards with texts (txt or json) to train on; of several captions the first counts.
        val_shards: the same, held out; their words do not enter the table.
        length: words of a window, the K of the shards.
        codes: the most words in the table, with the one for all others.
        hop: words between the starts of two training windows; held-out windows do not overlap.
        per_shard: windows in each file.
    """
    from ddt_lightning.shards.write import write_shards, write_tokens_json

    for option, value in {"length": length, "codes": codes - 1, "hop": hop}.items():
        positive(option, value)
    train, held_out = (
        list(read_words(part, option)) for part, option in ((shards, "--shards"), (val_shards, "--val_shards"))
    )
    table = [OTHER, *(word for word, _ in Counter(train).most_common(codes - 1))]
    counts = {}
    for name, found, step in (("train", train, hop), ("val", held_out, length)):
        if len(found) < length:
            raise ValueError(f"the {name} texts have {len(found)} words, fewer than `--length` ({length}).")
        samples = list(windows(found, table, length, step))
        write_shards(out, f"words-{name}", samples, per_shard)
        counts[name] = len(samples)
    patterns = [shards] if isinstance(shards, str) else shards
    mark = hashlib.blake2b(json.dumps([table, length]).encode(), digest_size=8).hexdigest()
    write_json(Path(out) / "words.json", table)
    write_tokens_json(
        out, tokenizer=mark, K=length, codebook_size=len(table), order="raster", transform=f"windows of {length} words",
        source=", ".join(patterns), kind="words",
    )  # fmt: skip
    known = 100 * sum(word in set(table) for word in held_out) / len(held_out)
    print(f"{counts['train']} and {counts['val']} windows, {len(table)} codes; {known:.1f} % of held-out words known")


def read_words(shards: list[str] | str, option: str) -> Iterator[str]:
    """The words and marks of all texts, in file order, in lower case, a line end behind each text."""
    from ddt_lightning.shards.read import Columns, captions, expand, read_shard

    for url in expand([shards] if isinstance(shards, str) else shards, option):
        for record in read_shard(url, {}):
            for text in captions(record, Columns())[:1]:
                yield from re.findall(r"\w+|[^\w\s]", text.lower())
                yield END


def windows(found: list[str], table: list[str], length: int, hop: int) -> Iterator[dict[str, Any]]:
    """Samples of `length` consecutive words as codes, the next one `hop` words on."""
    import numpy as np

    from ddt_lightning.shards.write import pack_ids

    code = {word: number for number, word in enumerate(table)}
    ids = np.array([code.get(word, 0) for word in found])
    for number, start in enumerate(range(0, len(ids) - length + 1, hop)):
        yield {"__key__": f"{number:08d}", "ids.npy": pack_ids(ids[start : start + length], len(table))}
