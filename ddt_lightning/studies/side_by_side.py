"""Several models on the same images: what the studies of tokens share.

In: model folders, images. Out: arrays with a row for each image, made a batch at a time and kept in the study's folder
(`measured/NAME/part-*.npz`, `steps/NAME.json`): a killed call goes on with the next batch, and what a model gave is not
made again while its weights, the images, the options, the code and the libraries stay.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddt_lightning.evaluation.held_out import held_out
from ddt_lightning.images import stack
from ddt_lightning.inputs import Loading, find_parts, load_pipeline
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.scenes.render import Scene, render


@dataclass(frozen=True)
class Model:
    """A model beside others.

    Args:
        name: what the pictures and tables call it.
        folder: where it was loaded from.
        pipeline: its parts; whole images are decoded as parts of them are, without the renderer.
        draws: whether its language model was loaded.
    """

    name: str
    folder: str
    pipeline: Pipeline
    draws: bool = False

    @property
    def tokens(self) -> int:
        """K, its ids per image."""
        return int(self.pipeline.tokenizer.config.tokens)


def file_name(name: str) -> str:
    """A name without what a path gives a meaning to."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")


def named(models: Sequence[str]) -> dict[str, str]:
    """{name: folder} of words like `NAME=FOLDER` or FOLDER, which is called by its last two parts.

    Raises:
        ValueError: two models would have one name.
    """
    found: dict[str, str] = {}
    for word in models:
        name, _, folder = word.partition("=") if "=" in word and not Path(word).exists() else ("", "", word)
        name = name or "/".join(Path(os.path.abspath(folder)).parts[-2:])
        if file_name(name) in map(file_name, found):
            raise ValueError(f"`--models` ({word}): another is called {name} too; write NAME={folder}.")
        found[name] = folder
    return found


def open_models(models: Sequence[str], device: str, *, draws: bool = False) -> list[Model]:
    """Load models; with `draws` the first that has a language model with it.

    Raises:
        FileNotFoundError: a folder has no tokenizer, or with `draws` none has a language model.
        ValueError: names or sizes of images do not go together.
    """
    folders = {name: find_parts(Loading(folder), False)[0] for name, folder in named(models).items()}
    artist = next((name for name, folder in folders.items() if (folder / "lm").is_dir()), None)
    if draws and artist is None:
        raise FileNotFoundError(
            f"`--prompts` needs a model with an lm/, and `--models` ({', '.join(models)}) has none."
        )
    found: list[Model] = []
    for name, folder in folders.items():
        loading = Loading(str(folder), renderer="none", device=device)
        drawing = draws and name == artist
        found.append(Model(name, str(folder), load_pipeline(loading, llm=drawing), drawing))
        sizes = [one.pipeline.image_size for one in (found[0], found[-1])]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"`--models`: {name} makes images of {sizes[1]} pixels and {found[0].name} of {sizes[0]}; "
                "compare models of one size."
            )
    return found


def originals(shards: Sequence[str], number: int, side: int, seed: int) -> Tensor:
    """The first images of some shards, or held-out scenes of the seed: uint8 `[N, 3, side, side]`."""
    sources = held_out(shards, number, side, seed)
    return stack([render(one, side) if isinstance(one, Scene) else one for one in sources])


def digest(images: Tensor) -> str:
    """Sixteen hex digits of a tensor's values."""
    return hashlib.blake2b(images.cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def device_of(pipeline: Pipeline) -> torch.device:
    """Device of a pipeline's tokenizer."""
    return next(pipeline.tokenizer.parameters()).device
