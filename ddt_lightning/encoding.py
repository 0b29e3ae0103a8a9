"""Encoding and decoding of one shard, in a worker process that keeps its tokenizer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddt_lightning.atomic import whole_file
from ddt_lightning.images import square, stack, to_png, unstack
from ddt_lightning.inputs import Coding, chunks, pick_device
from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Decoding
from ddt_lightning.seeding import key_bits, numpy_rng
from ddt_lightning.shards.chat import claim, has_turns, to_turns, token_keys
from ddt_lightning.shards.finished import fault, file_hash, record_of, write_record
from ddt_lightning.shards.images import CROP_MARGIN, ImageSample, read_images
from ddt_lightning.shards.members import UNREADABLE, Problems, Record, shard_name
from ddt_lightning.shards.read import Columns, name, read_shard
from ddt_lightning.shards.remote import is_remote
from ddt_lightning.shards.rows import check_ids, read_ids
from ddt_lightning.shards.stream import one_line
from ddt_lightning.shards.texts import read_json
from ddt_lightning.shards.write import pack_ids, write_tar


@lru_cache(maxsize=1)
def loaded(folder: str, coding: Coding) -> Pipeline:
    """Tokenizer and VAE of this process.

    Raises:
        ValueError: where the tokenizer's latents are not pixels and no VAE is named.
    """
    device = pick_device(coding.device)
    tokenizer = load_tokenizer(folder).to(device)
    if coding.vae is None:
        if tokenizer.config.latent_channels != 3:
            channels = tokenizer.config.latent_channels
            raise ValueError(f"`--vae` is needed: {folder} works on latents of {channels} channels, not on pixels.")
        return Pipeline(tokenizer)
    from ddt_lightning.latents.vae import FrozenVae

    return Pipeline(tokenizer, vae=FrozenVae(coding.vae).to(device))


def facts(folder: str, coding: Coding) -> dict[str, Any]:
    """Facts about a tokenizer: fingerprint, kind, K, codebook size, order of its ids, side of its images."""
    pipeline = loaded(folder, coding)
    tokenizer, config = pipeline.tokenizer, pipeline.tokenizer.config
    sizes = {"K": config.tokens, "codebook_size": config.codebook_size, "image_size": pipeline.image_size}
    return {"fingerprint": tokenizer.fingerprint(), "kind": tokenizer.kind, "order": tokenizer.order, **sizes}


def finish_shard(
    folder: str,
    coding: Coding,
    url: str,
    target: str,
    columns: dict[str, str],
    views: int,
    margin: float,
    settings: dict[str, Any],
) -> tuple[str, bool, int, Problems]:
    """Encode one shard into the file `target` unless it is finished, and record it; see `encode_shard`.

    Args:
        folder: of the tokenizer.
        coding: how to run it.
        url: the shard; of a remote one the URL stands for its bytes.
        target: file of the token shard.
        columns: fields of `Columns`.
        views: crops of each image.
        margin: see `cropped`.
        settings: what the ids depend on beside the shard's bytes.

    Returns:
        Name of the new shard, whether it was encoded now, number of samples then, and samples left out with the reason.
    """
    shard = Path(target)
    made_from = {**settings, "source": url if is_remote(url) else file_hash(url)}
    if fault(shard, made_from, content=True) is None:
        return shard.name, False, 0, {}
    (shard.parent / "tokens.json").unlink(missing_ok=True)  # not whole until all shards are there
    record_of(shard).unlink(missing_ok=True)
    count, problems = encode_shard(folder, coding, url, target, columns, views, margin)
    if count:
        write_record(shard, made_from, count, len(problems))
    else:
        shard.unlink(missing_ok=True)
    return shard.name, True, count, problems


def encode_shard(
    folder: str,
    coding: Coding,
    url: str,
    target: str,
    columns: dict[str, str],
    views: int,
    margin: float = CROP_MARGIN,
) -> tuple[int, Problems]:
    """Encode one shard into the file `target`; arguments as `finish_shard`.

    Returns:
        Number of samples, and samples left out with the reason; no shard is written where no sample can be encoded.
    """
    pipeline = loaded(folder, coding)
    problems: Problems = {}
    taken: set[str] = set()

    def samples() -> Iterator[dict[str, Any]]:
        side = pipeline.image_size if views == 1 else None
        read = read_images([url], image_size=side, columns=Columns(**columns), problems=problems)
        for part in chunks(usable(read), coding.batch):
            images = stack([image for sample in part for image in sample.images])
            ids = pipeline.encode(images).cpu().numpy()
            packed, start = pack_ids(ids, pipeline.tokenizer.config.codebook_size), 0
            for sample in part:
                own = packed[start : start + len(sample.images)]
                start += len(sample.images)
                yield from view_samples(sample, own) if views > 1 else token_samples(sample, own)

    def usable(read: Iterable[ImageSample]) -> Iterator[ImageSample]:
        for sample in read:
            try:
                claim(token_keys(sample.key, to_turns(sample)), taken)
                one = sample if views == 1 else cropped(sample, pipeline.image_size, views, margin)
            except UNREADABLE as error:
                problems[f"{shard_name(url)}:{sample.key}"] = one_line(error)
            else:
                yield one

    return write_whole(Path(target), samples()), problems


def cropped(sample: ImageSample, side: int, views: int, margin: float = CROP_MARGIN) -> ImageSample:
    """A captioned image as its views: the centre, then random crops that its key decides.

    Args:
        sample: the image.
        side: of the views, in pixels.
        views: how many.
        margin: a random crop keeps this part of the shorter side: 1 / margin.

    Raises:
        ValueError: it is an edit, a chat, or has questions.
    """
    if len(sample.images) > 1 or to_turns(sample):
        raise ValueError(f"`--views` ({views}) is for captioned images and this is none: encode it without")
    image = Image.fromarray(sample.images[0])
    crops = [np.asarray(square(image, side))]
    for number in range(1, views):
        left, top = numpy_rng("view", sample.key, number).random(2)
        crops.append(np.asarray(square(image, side, (left, top), margin)))
    return replace(sample, images=tuple(crops))


def view_samples(sample: ImageSample, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The token sample of a captioned image's views: `ids.npy` is `[views, K]`."""
    for plain in token_samples(replace(sample, images=sample.images[:1]), ids):
        yield {**plain, "ids.npy": ids}


def token_samples(sample: ImageSample, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The token samples of one sample: conversations for an edit or for questions, otherwise one with its text."""
    turns = to_turns(sample)
    for key, spoken in zip(token_keys(sample.key, turns), turns, strict=False):
        plan = {"plan": sample.data["plan"]} if isinstance(sample.data, dict) and "plan" in sample.data else {}
        yield {"__key__": key, "ids.npy": ids, "json": {"turns": spoken, **plan}}
    if turns or len(sample.images) > 1:
        return
    plain: dict[str, Any] = {"__key__": sample.key, "ids.npy": ids[0]}
    if sample.texts:
        plain["txt"] = sample.texts[0]
    data = sample.data if isinstance(sample.data, dict) else {}
    if len(sample.texts) > 1 and "captions" not in data:
        data = {**data, "captions": list(sample.texts)}
    yield {**plain, "json": data} if data else plain


def decode_shard(
    folder: str, coding: Coding, url: str, target: str, tokens: int | None, seed: int, decoding: Decoding
) -> tuple[int, Problems]:
    """Decode one token shard into the file `target`; number of samples, and samples left out with the reason."""
    pipeline = loaded(folder, coding)
    length = pipeline.length(tokens)
    problems: Problems = {}

    def readable() -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        for record in read_shard(url, problems):
            try:
                ids = read_ids(record)
                check_ids(ids, pipeline.tokenizer.config.tokens, pipeline.tokenizer.config.codebook_size)
                texts = texts_of_tokens(record)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
            else:  # of several views the first is the whole image
                yield record["__key__"], ids if has_turns(record) else ids[:1], texts

    def samples() -> Iterator[dict[str, Any]]:
        for part in chunks(readable(), coding.batch):
            ids = torch.from_numpy(np.concatenate([ids for _, ids, _ in part]))[:, :length]
            seeds = [image_seed(seed, key, n) for key, own, _ in part for n in range(len(own))]
            images = pipeline.decode(ids, decoding, seed=seeds)
            encoded = iter([to_png(image) for image in unstack(images)])
            for key, own, texts in part:
                roles = {1: ["png"], 2: ["source.png", "target.png"]}.get(
                    len(own), [f"{n}.png" for n in range(len(own))]
                )
                images_by_role = {role: next(encoded) for role in roles}
                yield {"__key__": key, **images_by_role, **texts}

    return write_whole(Path(target), samples()), problems


def texts_of_tokens(record: Record) -> dict[str, Any]:
    """The text members of an image sample: of a conversation the instruction or the question, otherwise as they are."""
    data = read_json(record)
    turns = data.get("turns", []) if isinstance(data, dict) else []
    if len(turns) == 2:
        asked, said = ([part for part in turn["content"] if isinstance(part, str)] for turn in turns)
        if asked and said:
            return {"json": {"question": asked[0], "answers": said[:1]}}
        if asked:
            return {"txt": asked[0]}
    return {member: record[member] for member in ("txt", "json") if member in record}


def image_seed(seed: int, key: str, number: int) -> int:
    """The seed of one image's noise: another for each key and image, whatever the shard and the batch."""
    return key_bits("decode", seed, key, number) & 0x7FFF_FFFF_FFFF_FFFF


def write_whole(target: Path, samples: Iterable[Mapping[str, Any]]) -> int:
    """Write a shard through a temporary name; nothing is left where there are no samples or an error comes up."""
    with whole_file(target) as partial:
        count = write_tar(partial, samples)
        if not count:
            partial.unlink()
    return count
