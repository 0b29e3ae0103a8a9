"""Similarity of captions by meaning: sentence vectors of MiniLM, of a local folder.

Source: all-MiniLM-L6-v2 of sentence-transformers: the mean of the last layer over the words, at unit length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ddt_lightning.metrics.frozen import check_folder, load_frozen

LENGTH = 256  # of a text in tokens, as the network was trained


class Sentences:
    """A BERT whose mean vectors stand for sentences.

    Args:
        folder: transformers folder, such as the `minilm` of `make judges`.
        device: where it runs.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is another network, or lacks weights.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        check_folder(folder, "minilm")
        from transformers import AutoTokenizer, BertModel  # seconds to import

        self.model = load_frozen(BertModel, folder, "minilm", device, unused="pooler")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.device = device

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Unit vectors `[N, d]` of texts, on the CPU."""
        parts = []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            encoded = self.tokenizer(part, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            mask = encoded["attention_mask"].to(self.device)
            seen = self.model(input_ids=encoded["input_ids"].to(self.device), attention_mask=mask).last_hidden_state
            summed = (seen * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            parts.append(normalize(summed.float(), dim=-1).cpu())
        return torch.cat(parts)

    def similarity(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Mean cosine of each text with its references, -1 to 1."""
        flat = [text for some in references for text in some]
        vectors, known = self(texts), self(flat).split([len(some) for some in references])
        return [float((own @ others.T).mean()) for own, others in zip(vectors, known, strict=True)]
