"""`ddt eval tokens`: the cross-entropy of image ids under a language model, in nats per image and by position.

In: a run or model folder with a language model, and held-out token shards. Rows are the image alone (BOS [BOV] ids), so
that no caption carries a part of what the ids say. Out: `tokens.cards.json`, and `positions.json` with the mean loss
and the mean entropy of the prediction at each place `[K]`, in the order that the model sees.
"""

from itertools import islice
from typing import TYPE_CHECKING

from ddt_lightning.atomic import write_json
from ddt_lightning.evaluation.outcome import Outcome, because
from ddt_lightning.inputs import pick_device, positive
from ddt_lightning.metrics.cards import card, mean_card

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ddt_lightning.vocab import Vocab


def tokens(
    *,
    out: str,
    shards: list[str],
    model: str,
    permute: str = "natural",
    samples: int = 512,
    batch: int = 64,
    device: str = "auto",
) -> None:
    """Measure a language model on held-out image ids without captions: nats per image, per id, and by position.

    Args:
        out: folder for tokens.cards.json and positions.json.
        shards: held-out token shards, paths or patterns.
        model: run of `ddt-fit pretrain`, its release, or a model folder.
        permute: order in which the model was trained to see the ids (`data.permute`).
        samples: at most so many images.
        batch: images at a time.
        device: auto, cpu, cuda, cuda:1 or mps.
    """
    import math

    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from ddt_lightning.model_folder import find_part
    from ddt_lightning.shards.documents import has_ids, in_order, load_vocab
    from ddt_lightning.shards.read import Reader, expand
    from ddt_lightning.shards.rows import read_ids

    disable_progress_bar()
    urls = expand(shards, "--shards")
    vocab_folder, lm = (find_part(part, model, "--model") for part in ("vocab", "lm"))
    vocab = load_vocab(vocab_folder, urls, "--shards", permute)
    place = pick_device(device)
    llm = AutoModelForCausalLM.from_pretrained(str(lm), local_files_only=True).eval().to(place)
    reader = Reader(urls, has_ids)
    records = islice(reader.all(), positive("samples", samples))
    rows = [vocab.image_only(in_order(read_ids(record)[0], permute, vocab))[0] for record in records]
    if not rows:
        raise ValueError(f"`--shards` ({', '.join(urls)}) hold no image ids{because(reader.problems)}.")
    size = positive("batch", batch)
    parts = [place_losses(llm, vocab, torch.tensor(rows[n : n + size], device=place))
             for n in range(0, len(rows), size)]  # fmt: skip
    losses, entropies = (torch.cat(one) for one in zip(*parts, strict=True))
    capacity = vocab.image_tokens * math.log(vocab.codebook_size)
    rule = f"cross-entropy of the {vocab.image_tokens} ids of a held-out image without a caption, order {permute}"
    cards = {
        "tokens/nats_per_image": mean_card(losses.sum(1).tolist(), f"{rule}, summed; mean over images"),
        "tokens/nats_per_id": mean_card(losses.mean(1).tolist(), f"{rule}, per id; mean over images"),
        "tokens/capacity": card(capacity, 1, "K ln(codes): nats of ids that are all equally likely"),
    }
    by_place = {"loss": losses.mean(0).tolist(), "entropy": entropies.mean(0).tolist(), "permute": permute}
    outcome = Outcome(
        "tokens.cards",
        cards,
        list(cards),
        {"model": model, "permute": permute, "K": vocab.image_tokens},
        samples,
        len(rows),
        problems=reader.problems,
        pictures=lambda folder: write_json(folder / "positions.json", by_place),
    )
    outcome.write(out, {"seed": "none", "weights": {}, "settings": {}})


def place_losses(llm: "PreTrainedModel", vocab: "Vocab", rows: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Cross-entropy and entropy of the prediction in nats at each of the K places, float64 `[B, K]` both.

    Args:
        llm: the language model.
        vocab: its ids.
        rows: `image_only` rows `[B, K + 4]`.
    """
    import torch

    count = vocab.image_tokens
    with torch.no_grad():
        logs = llm(input_ids=rows, use_cache=False).logits[:, 1 : count + 1].double().log_softmax(-1)
    losses = -logs.gather(-1, rows[:, 2 : count + 2, None]).squeeze(-1)
    return losses.cpu(), -(logs.exp() * logs).sum(-1).cpu()
