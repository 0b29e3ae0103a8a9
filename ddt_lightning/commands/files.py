"""What verbs read and write: prompts, image files, model folders, result lines; with errors that name the option."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ddt_lightning.commands.options import Loading

if TYPE_CHECKING:
    from torch import Tensor

    from ddt_lightning.pipeline import Pipeline

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
Item = TypeVar("Item")


def positive(option: str, value: int) -> int:
    """`value`, if it is at least 1.

    Raises:
        ValueError: naming the option.
    """
    if value < 1:
        raise ValueError(f"`--{option}` ({value}) must be at least 1.")
    return value


def progress(items: Iterable[Item], label: str) -> Iterable[Item]:
    """A progress bar over `items` on stderr; none where that is not a terminal."""
    return tqdm(items, desc=label, disable=not sys.stderr.isatty())


def read_prompts(prompt: str) -> list[str]:
    """One prompt as it is, or those of a .txt file (a line each) or of a .jsonl file (its "prompt" fields).

    Raises:
        FileNotFoundError: where the name of a prompt file is given and there is none.
        ValueError: where there is no prompt, or a line has none.
    """
    path = Path(prompt)
    if path.suffix not in (".txt", ".jsonl") or any(space in prompt for space in " \n"):
        if not prompt.strip():
            raise ValueError("The prompt is empty.")
        return [prompt]
    if not path.is_file():
        raise FileNotFoundError(f"No file of prompts {prompt}.")
    lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{prompt} holds no prompt.")
    if path.suffix == ".txt":
        return [line.strip() for _, line in lines]
    prompts = []
    for number, line in lines:
        try:
            prompts.append(str(json.loads(line)["prompt"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{prompt}, line {number} is not a JSON object with a "prompt".') from None
    return prompts


def class_names(classes: str, prompts: list[str]) -> list[str]:
    """Prompts that are classes, by name or by number from 0, as names.

    Args:
        classes: a file with a name on each line, or a .json list of names.
        prompts: what is asked for.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming a prompt that is no class, or a .json file that is no list of names.
    """
    path = Path(classes)
    if not path.is_file():
        raise FileNotFoundError(f"`--classes` ({classes}) is not a file.")
    text = path.read_text(encoding="utf-8")
    names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`--classes` ({classes}) must be a list of names.")
    numbered = {str(number): name for number, name in enumerate(names)}
    for prompt in prompts:
        if prompt not in numbered and prompt not in names:
            raise ValueError(f"`{prompt}` is not a class: `--classes` ({classes}) has 0..{len(names) - 1} and names.")
    return [prompt if prompt in names else numbered[prompt] for prompt in prompts]


def image_files(image: str) -> list[Path]:
    """An image file, or the image files of a folder in the order of their names.

    Raises:
        FileNotFoundError: where there is no such file or folder.
        ValueError: where a folder holds no image.
    """
    path = Path(image)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"No image file or folder {image}.")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{image} holds no image ({', '.join(IMAGES)}).")
    return files


def read_images(files: list[Path], side: int) -> "Tensor":
    """Image files as uint8 `[B, 3, side, side]`: the largest centred square, resized where it is not `side` wide.

    Raises:
        ValueError: naming a file that is not an image.
    """
    import torch

    arrays = []
    for file in files:
        try:
            picture = Image.open(file).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"{file} is not a readable image: {error}") from None
        arrays.append(square(picture, side))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The largest centred square of a picture, `side` pixels wide, as shards are read: uint8 `[side, side, 3]`."""
    if picture.size != (side, side):
        short = min(picture.size)
        left, top = (picture.width - short) / 2, (picture.height - short) / 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(picture, dtype=np.uint8)


def write_image(folder: Path, lines: IO[str], number: int, image: "Tensor", record: dict[str, Any]) -> None:
    """Write `NUMBER.png` from uint8 `[3, H, W]` and its line in the results file."""
    name = f"{number:05d}.png"
    save_png(folder / name, image.permute(1, 2, 0).numpy())
    lines.write(json.dumps({"file": name, **record}, ensure_ascii=False) + "\n")


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 `[H, W, 3]` array, and its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def find_tokenizer(tokenizer: str) -> Path:
    """The tokenizer folder in a tokenizer, release, run or model folder; errors as `find_part`."""
    return find_part("tokenizer", tokenizer)


def find_part(part: str, given: str) -> Path:
    """The folder of the `tokenizer` or `renderer` in such a folder itself, a release, run or model folder.

    Raises:
        FileNotFoundError: where there is none; names the option of the part.
    """
    # the part's own place first: the release of a renderer holds both
    for place in (part, f"release/{part}", ""):
        if (Path(given) / place / "model.safetensors").is_file():
            return Path(given) / place
    raise FileNotFoundError(
        f"`--{part}` ({given}) holds no model.safetensors, {part}/ or release/{part}/: "
        f"name the run folder of `ddt-fit {part}`."
    )


def find_parts(loading: Loading, llm: bool) -> tuple[Path, Path]:
    """The model folder and the tokenizer folder; refuses what lacks a part, before anything heavy is imported.

    Raises:
        FileNotFoundError: naming the option and the part.
    """
    folder = Path(loading.model)
    folder = folder / "release" if (folder / "release").is_dir() else folder
    for part in ("lm", "vocab") if llm else ():
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"`--model` ({loading.model}) has no {part}/: name a model folder, or run `make demo`."
            )
    if loading.tokenizer is not None:
        return folder, find_tokenizer(loading.tokenizer)
    if not (folder / "tokenizer").is_dir():
        raise FileNotFoundError(
            f"`--model` ({loading.model}) has no tokenizer/: name a model folder, or its tokenizer with `--tokenizer`."
        )
    return folder, folder / "tokenizer"


def load_pipeline(loading: Loading, *, llm: bool = True) -> "Pipeline":
    """The pipeline of a model folder, with or without the language model; errors as `find_parts`, `pick_device`."""
    folder, tokenizer = find_parts(loading, llm)
    from transformers.utils.logging import disable_progress_bar

    from ddt_lightning.pipeline import Pipeline

    disable_progress_bar()  # loading takes a second; its bar is written to files and pipes too
    renderer: bool | Path = loading.renderer != "none"
    if renderer and loading.renderer is not None:
        renderer = find_part("renderer", loading.renderer)
    device = pick_device(loading.device)
    return Pipeline.from_pretrained(folder, device, tokenizer=tokenizer, llm=llm, renderer=renderer)


def pick_device(device: str) -> str:
    """The device that `--device` means.

    Raises:
        ValueError: where it does not exist.
    """
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` ({device}) is not there: {' '.join(str(error).split())[:120]}") from None
    return name
