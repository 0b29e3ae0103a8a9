"""Weights of a transformers folder read row by row, and the rows a growing vocabulary adds.

`FolderWeights` serves models whose whole weights no process holds: every process asks for its own rows of each weight.
New rows follow the text rows of the same table: their mean, plus noise or projected code vectors of their spread. They
depend on the folder alone, so every process and every way of loading makes the same.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Embedding, and head where it is a matrix of its own: the weights that grow."""


def check_rows(folder: str | Path, rows: int, text_size: int, vocab_size: int) -> None:
    """Refuse a text tokenizer that is not the model's.

    Raises:
        ValueError: more pieces than rows or far fewer, or more pieces than the vocabulary has ids.
    """
    # Models pad their tables by a few rows; a larger gap is another tokenizer.
    if not 0.9 * rows <= text_size <= rows or vocab_size < text_size:
        raise ValueError(
            f"`model.llm` ({folder}) has {rows} rows, but the text tokenizer {text_size} pieces: "
            "use the text tokenizer of that model."
        )


@torch.no_grad()
def new_rows(text: Tensor, count: int, table: int, codes: Tensor | None = None) -> Tensor:
    """Rows of the ids behind the text, float32 `[count, D]` on the CPU.

    Args:
        text: the text rows `[T, D]`.
        count: how many follow.
        table: 0 for the embedding, 1 for the head; another table, other noise.
        codes: code vectors `[C, d]` of the image ids, the first C of the new ones: they are projected at random, so
            that codes alike begin as rows alike. None starts them from noise.
    """
    generator = torch.Generator("cpu").manual_seed(table)
    mean, spread = (value.cpu() for value in (text.float().mean(0), text.float().std(0)))
    # Lightning builds a model with its device as the default one, and a generator draws on its own
    drawn = torch.randn(count, text.shape[1], generator=generator, device="cpu")
    if codes is not None:
        codes = codes.float().cpu()
        projected = codes @ torch.randn(codes.shape[1], text.shape[1], generator=generator, device="cpu")
        drawn[: len(codes)] = (projected - projected.mean(0)) / projected.std(0)
    return mean + spread * drawn


class FolderWeights:
    """Rows of the weights of a folder, its vocabulary grown to `vocab_size`.

    Args:
        folder: a transformers folder with `*.safetensors`.
        vocab_size: rows of the tables.
        text_size: ids of the text tokenizer; rows behind them are new where the folder's tables have another size.
        codes: see `new_rows`.

    Raises:
        FileNotFoundError: no safetensors there.
        ValueError: a text tokenizer that is not the model's.
    """

    def __init__(self, folder: str | Path, vocab_size: int, text_size: int, codes: Tensor | None = None) -> None:
        self.folder, self.vocab_size, self.codes = Path(folder), vocab_size, codes
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            self.files = json.loads(index.read_text())["weight_map"]
        elif (self.folder / "model.safetensors").is_file():
            with safe_open(self.folder / "model.safetensors", "pt") as file:
                self.files = dict.fromkeys(file.keys(), "model.safetensors")
        else:
            raise FileNotFoundError(f"`{folder}` holds no model.safetensors: sharded models are read from these alone.")
        rows = self._shape(TABLES[0])[0] if TABLES[0] in self.files else vocab_size
        self.old_rows = vocab_size
        if rows != vocab_size:
            check_rows(folder, rows, text_size, vocab_size)
            self.old_rows = text_size
        self._new: dict[str, Tensor] = {}

    def read(self, name: str, start: int, end: int) -> Tensor:
        """Rows `start` .. `end`-1 of a weight, on the CPU."""
        if name not in TABLES or self.old_rows == self.vocab_size:
            return self._old(name, start, end)
        if name not in self._new:
            text, count = self._old(name, 0, self.old_rows), self.vocab_size - self.old_rows
            self._new[name] = new_rows(text, count, TABLES.index(name), self.codes)
        old = self._old(name, min(start, self.old_rows), min(end, self.old_rows))
        new = self._new[name][max(start - self.old_rows, 0) : max(end - self.old_rows, 0)]
        return torch.cat([old, new.to(old.dtype)])

    def check(self, names: set[str]) -> None:
        """Compare the weights with what a model has.

        Raises:
            ValueError: one is missing or unknown.
        """
        wrong = sorted(names ^ self.files.keys())
        if wrong:
            raise ValueError(f"`{self.folder}`: its weights do not fit its config.json, first at {wrong[0]}.")

    def _old(self, name: str, start: int, end: int) -> Tensor:
        with safe_open(self.folder / self.files[name], "pt") as file:
            return file.get_slice(name)[start:end]

    def _shape(self, name: str) -> list[int]:
        with safe_open(self.folder / self.files[name], "pt") as file:
            return file.get_slice(name).get_shape()
