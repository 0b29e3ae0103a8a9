"""Selection of the token samples of one shard by what their decoded images are worth, in a worker process.

A tokenizer does not reconstruct every image so that it still shows what its text says. A language model that learns
from all of them learns the failures too; one that learns from the selected ids draws what the decoder can show.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddt_lightning.encoding import image_seed, loaded, write_whole
from ddt_lightning.inputs import Coding, chunks
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.rl.rewards import find_rewards, worth
from ddt_lightning.sampling import Decoding
from ddt_lightning.shards.chat import drawing_turns
from ddt_lightning.shards.members import UNREADABLE, Problems, Record
from ddt_lightning.shards.read import Columns, name, read_shard
from ddt_lightning.shards.rows import check_ids, plans_of, read_ids
from ddt_lightning.shards.stream import one_line
from ddt_lightning.shards.texts import captions, read_json
from ddt_lightning.tokens.renderer import Renderer


@lru_cache(maxsize=1)
def decoder(tokenizer: str, renderer: str | None, coding: Coding) -> Pipeline:
    """Tokenizer, VAE and renderer of this process."""
    parts = loaded(tokenizer, coding)
    one_step = Renderer.from_pretrained(renderer, parts.tokenizer) if renderer else None
    return Pipeline(parts.tokenizer, vae=parts.latents, renderer=one_step)


def select_shard(
    tokenizer: str,
    renderer: str | None,
    coding: Coding,
    decoding: Decoding,
    url: str,
    target: str,
    rewards: Mapping[str, float],
    judge: str | None,
    least: float,
) -> tuple[int, int, Problems]:
    """Write the samples of a token shard whose drawn images are all worth at least `least` into the file `target`.

    Returns:
        Number of samples that were judged, number that were written, and samples left out with the reason.
    """
    pipeline = decoder(tokenizer, renderer, coding)
    functions = find_rewards(rewards, "--rewards", judge)
    problems: Problems = {}
    judged = 0

    def readable() -> Iterator[tuple[Record, NDArray[np.int64], list[dict[str, Any]]]]:
        for record in read_shard(url, problems):
            try:
                ids = read_ids(record)
                check_ids(ids, pipeline.tokenizer.config.tokens, pipeline.tokenizer.config.codebook_size)
                yield record, *asked(record, ids)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)

    def selected() -> Iterator[dict[str, Any]]:
        nonlocal judged
        for part in chunks(readable(), coding.batch):
            ids = torch.from_numpy(np.concatenate([ids for _, ids, _ in part]))
            seeds = [image_seed(0, record["__key__"], n) for record, own, _ in part for n in range(len(own))]
            images = pipeline.decode(ids, seed=seeds, steps=decoding.steps, decode_guidance=decoding.decode_guidance)
            asked_for = [prompt for _, _, prompts in part for prompt in prompts]
            values = iter(worth(functions, images.cpu(), asked_for, "--rewards"))
            for record, _, prompts in part:
                judged += 1
                if min([next(values) for _ in prompts]) >= least:
                    yield {member: value for member, value in record.items() if member[:2] != "__"} | {
                        "__key__": record["__key__"]
                    }

    written = write_whole(Path(target), selected())
    return judged, written, problems


def asked(record: Record, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """The images of a sample that a model would learn to draw, `[n, K]`, each with what it was asked for.

    Of a captioned image with several views the first, which is the whole image, is taken.

    Returns:
        ids, and for each a prompt with the sample's json, its text as `prompt`, and its plan, if any, as `plan`.

    Raises:
        ValueError: a sample without a text, or a conversation in which nothing is drawn.
    """
    data = read_json(record)
    fields = data if isinstance(data, dict) else {}
    if "turns" not in fields:
        texts = captions(record, Columns(), data)
        if not texts:
            raise ValueError("has no text that its image could be judged by")
        plans = plans_of(data, len(texts), "captions")
        return ids[:1], [{"tag": "image", **fields, "prompt": texts[0], "plan": plans[0] if plans else None}]
    turns = drawing_turns(fields["turns"])
    said: list[str | None] = [*plans_of(data, len(turns), "answers with an image")] or [None] * len(turns)
    places, prompts = [], []
    for turn, plan in zip(turns, said, strict=True):
        request = [part for part in fields["turns"][turn - 1]["content"] if isinstance(part, str)]
        for part in fields["turns"][turn]["content"]:
            if not isinstance(part, str):
                places.append(part["image"])
                prompts.append({"tag": "edit", "prompt": " ".join(request), "plan": plan})
    if not places:
        raise ValueError("draws no image that could be judged")
    return ids[places], prompts
