"""Sizes of a training run out of the settings of its stage: which stage, how many items a process, of how many ids.

What the data would say (sizes of the vocabulary, ids of an image) is read from them where they are there, else from
the configuration of the tokenizer that will make them.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ddt_lightning.lm.llm import LlmConfig
from ddt_lightning.settings import merge, read_yaml
from ddt_lightning.shards.rows import ROUND

CAPTION = 40
"""Ids of a text beside an image, where nothing else is said."""
MARKS = 4
"""Ids around an image and a text."""
SHARDED = "FullyShardedStrategy"
TOKENIZERS = ("tokenizer", "vqgan", "var")
"""Options of the tokenizer stage that hold a tokenizer."""


@dataclass(frozen=True)
class Ids:
    """Numbers of a vocabulary.

    Args:
        text: ids of text, special ones among them.
        image: codes of the image tokenizer.
        tokens: ids of an image.
    """

    text: int
    image: int
    tokens: int

    @property
    def size(self) -> int:
        """All ids, with the two marks of an image."""
        return self.text + self.image + 2


@dataclass(frozen=True)
class Settings:
    """A training run, as far as its cost depends on it.

    Args:
        kind: language (pretrain and instruct), rl, renderer or tokenizer.
        model: settings of the module.
        tokenizer: the image tokenizer, its name among `TOKENIZERS` and its sizes.
        ids: the vocabulary; of stages without one the numbers of the image tokenizer.
        batch: samples of a batch of all processes.
        accumulate: batches of an optimiser step.
        length: ids of a row.
        document: ids of a document.
        packed: rows hold several documents.
        steps: optimiser steps of the run; 0 where it has no end by steps.
        processes: of all nodes.
        sharded: the processes share the weights.
        replicas: copies of the weights, each shared by as many processes.
        tensor_parallel: processes in a row that divide the layers of a language model.
        precision: Lightning's name of it.
        averaged: a copy of the weights follows them.
        images: images of a sample, on average.
        depth: blocks of the language model; 0 where there is none.
        layers: how many of them are measured; None for all.
    """

    kind: str
    model: dict[str, Any]
    tokenizer: dict[str, Any]
    ids: Ids
    batch: int
    accumulate: int
    length: int
    document: int
    packed: bool
    steps: int
    processes: int
    sharded: bool
    replicas: int
    tensor_parallel: int
    precision: str
    averaged: bool
    images: float
    depth: int
    layers: int | None = None

    @property
    def items(self) -> int:
        """Rows, prompts or images of a process and a batch, rounded up."""
        samples = -(-self.batch // self.processes)
        return -(-samples * self.document // self.length) if self.packed else samples

    @property
    def neighbours(self) -> int:
        """Processes in a row that send much to one another: of a group that divides layers, or of a copy of weights."""
        return self.tensor_parallel if self.tensor_parallel > 1 else self.processes // self.replicas

    def with_checkpointing(self, wanted: bool) -> "Settings":
        """The same with the activations of blocks recomputed or kept."""
        model = {**self.model, "parallel": {**(self.model.get("parallel") or {}), "activation_checkpointing": wanted}}
        return replace(self, model=model)


def stage_of(model: Mapping[str, Any]) -> str:
    """The kind of stage that settings of a module belong to.

    Raises:
        ValueError: they name none of what a stage trains.
    """
    if "rewards" in model:
        return "rl"
    if any(isinstance(model.get(name), dict) for name in TOKENIZERS):
        return "tokenizer"
    if "renderer" in model or "tokenizer" in model:
        return "renderer"
    if model.get("network") or model.get("llm"):
        return "language"
    raise ValueError(
        "`--config` names nothing to train: `model.network` or `model.llm` (`--set model.llm=FOLDER`) for a language "
        "model, `model.tokenizer`, `model.vqgan`, `model.var` or `model.renderer` for images."
    )


def assembled(config: list[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """YAML files merged in order, with single values changed by dotted names."""
    settings = read_yaml(config)
    for name, value in changes.items():
        nested: Any = yaml.safe_load(value) if isinstance(value, str) else value
        for key in reversed(name.split(".")):
            nested = {key: nested}
        merge(settings, nested)
    return settings


def read_settings(
    values: dict[str, Any], processes: int, tokenizer: str | None = None, document: int | None = None
) -> Settings:
    """The sizes of a run.

    Args:
        values: merged settings of the stage.
        processes: of all nodes.
        tokenizer: YAML of the tokenizer stage whose ids are learned or rendered; None for `stages/tok.yaml`.
        document: ids of a document; None for an image and a caption.

    Raises:
        ValueError: nothing to train is named, or the batch cannot be divided among the processes.
    """
    model, data, trainer = (values.get(name) or {} for name in ("model", "data", "trainer"))
    kind = stage_of(model)
    batch = data.get("batch_size", default_of_data("batch_size"))
    if batch % processes:
        raise ValueError(f"`data.batch_size` ({batch}) must be a multiple of the {processes} processes.")
    images = model if kind == "tokenizer" else read_yaml([tokenizer or "stages/tok.yaml"]).get("model", {})
    found = {name: images[name] for name in TOKENIZERS if isinstance(images.get(name), dict)}
    if not found or (kind == "renderer" and "tokenizer" not in found):
        raise ValueError(f"`--tokenizer` ({tokenizer}) has no `model.tokenizer`: name the YAML of a tokenizer stage.")
    ids = Ids(text_ids(model, data), *image_ids(next(iter(found.values()))))
    most = data.get("max_length", default_of_data("max_length"))
    if kind == "rl":
        most = (model.get("network") or {}).get("max_length", most)
    length = document = min(document or ids.tokens + MARKS + CAPTION, most)
    packed = kind == "language" and bool(data.get("packing"))
    if packed:
        length = level(document * batch // processes, data.get("row_length", default_of_data("row_length")))
    strategy = trainer.get("strategy")
    named = strategy.get("class_path", "") if isinstance(strategy, dict) else str(strategy)
    options = (strategy.get("init_args") or {}) if isinstance(strategy, dict) else {}
    parts = {name: options.get(name, 1) for name in ("replicas", "tensor_parallel")}
    for name, number in parts.items():
        if number < 1 or processes % number:
            raise ValueError(
                f"`trainer.strategy.init_args.{name}` ({number}) must divide the {processes} processes: name as many "
                "with `--nodes` and `--gpus`."
            )
    if parts["tensor_parallel"] > 1 and (kind != "language" or parts["replicas"] > 1):
        raise ValueError(
            f"`trainer.strategy.init_args.tensor_parallel` ({parts['tensor_parallel']}) is for pretraining and "
            "instruction tuning, with `replicas` of 1: set it to 1."
        )
    if named.endswith(SHARDED) and (kind == "renderer" or (kind == "tokenizer" and "tokenizer" not in found)):
        raise ValueError(f"`trainer.strategy` ({SHARDED}) shards language models and DDT tokenizers: plan with `ddp`.")
    return Settings(
        kind=kind,
        model=model,
        tokenizer=found,
        ids=ids,
        batch=batch,
        accumulate=trainer.get("accumulate_grad_batches", 1),
        length=length,
        document=document,
        packed=packed,
        steps=max(0, trainer.get("max_steps", 0)),
        processes=processes,
        sharded=named.endswith(SHARDED),
        **parts,
        precision=str(trainer.get("precision") or "32-true"),
        averaged=any("WeightAveraging" in callback["class_path"] for callback in callbacks(trainer)),
        images=images_of_a_sample(kind, model, data),
        depth=depth_of(model) if kind in ("language", "rl") else 0,
    )


def level(ids: int, longest: int) -> int:
    """Length of the fewest rows that hold a batch, as level as `packing` makes them.

    Args:
        ids: of the batch of a process.
        longest: `data.row_length`.
    """
    rows = -(-ids // longest)
    return min(-(-ids // rows // ROUND) * ROUND, longest)


def callbacks(trainer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The callbacks of a configuration."""
    found = trainer.get("callbacks") or []
    return found if isinstance(found, list) else [found]


def default_of_data(name: str) -> Any:  # noqa: ANN401 - of any option
    """Default of an option of every data module, or of those with documents."""
    from ddt_lightning.shards.documents import DocumentShards
    from ddt_lightning.shards.module import ShardModule

    found = {**inspect.signature(ShardModule).parameters, **inspect.signature(DocumentShards).parameters}
    return found[name].default


def image_ids(sizes: Mapping[str, Any]) -> tuple[int, int]:
    """Codes of an image tokenizer, and ids of an image."""
    if "tokens" in sizes:
        tokens = sizes["tokens"]
    elif "grid" in sizes:
        tokens = sizes["grid"][0] * sizes["grid"][1]
    else:
        tokens = sum(side**2 for side in sizes["scales"])
    return sizes["codebook_size"], tokens


def text_ids(model: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    """Ids of text: of the language model that is started from, of a saved vocabulary, or of one to be trained."""
    folder = data.get("text_tokenizer") or model.get("llm")
    if folder and (Path(folder) / "config.json").is_file():
        return int(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])
    saved = Path(data.get("vocab") or "") / "vocab.json"
    if data.get("vocab") and saved.is_file():
        from ddt_lightning.vocab import Vocab

        return Vocab.load(data["vocab"]).text_size
    from ddt_lightning.shards.tokens import TokenShards

    return int(data.get("text_vocab_size", inspect.signature(TokenShards).parameters["text_vocab_size"].default))


def depth_of(model: Mapping[str, Any]) -> int:
    """Blocks of a language model.

    Raises:
        FileNotFoundError: `model.llm` is no folder of a model.
    """
    if not model.get("llm"):
        return int((model.get("network") or {}).get("depth", LlmConfig.depth))
    file = Path(model["llm"]) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"`model.llm` ({model['llm']}) holds no config.json: name a transformers model folder.")
    return int(json.loads(file.read_text())["num_hidden_layers"])


def images_of_a_sample(kind: str, model: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    """Images of a sample on average: of pretraining by the shares of its formats."""
    if kind == "rl":
        return float((model.get("practice") or {}).get("group", 12))
    if "text_only" not in data:
        return 1.0
    shares = {name: data.get(name, 0.0) for name in ("t2i", "i2t", "image_only", "text_only")}
    return 1 - shares["text_only"] / sum(shares.values())
