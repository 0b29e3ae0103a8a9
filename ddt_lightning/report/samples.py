"""Sample records: the contract between an evaluation, which keeps images for people to look at, and the report.

In: `samples/NAME.json` of an evaluation's folder, a list of records of one of the classes below. Image files are named
by their path relative to that folder.
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from ddt_lightning.atomic import write_json


@dataclass(frozen=True)
class ReconstructionSample:
    """An image and its reconstructions (`reconstruction.json`).

    Args:
        original: file of the image.
        by_tokens: number of first tokens that were decoded, as text -> file.
        psnr: PSNR in dB with all tokens.
    """

    original: str
    by_tokens: dict[str, str]
    psnr: float


@dataclass(frozen=True)
class PromptSample:
    """A prompt and the images drawn for it (`t2i.json`).

    Args:
        tag: GenEval's tag of the prompt.
        prompt: the text.
        files: the images.
        correct: whether each image meets every demand of the prompt.
        plans: what the model wrote before each image; empty where it drew at once.
    """

    tag: str
    prompt: str
    files: list[str]
    correct: list[bool]
    plans: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EditSample:
    """An edit of a scene (`edit.json`).

    Args:
        type: kind of edit.
        instruction: the text.
        source: file of the image before the edit.
        result: file of the model's image.
        target: file of the ground truth.
        correct: whether the result shows exactly the target's scene.
        plan: what the model wrote before its image; empty where it drew at once.
    """

    type: str
    instruction: str
    source: str
    result: str
    target: str
    correct: bool
    plan: str = ""


@dataclass(frozen=True)
class QuestionSample:
    """A question about a scene (`vqa.json`).

    Args:
        type: type of question.
        question: the text.
        answer: the model's answer, with its plan where it made one.
        truth: the true answer.
        image: file of the scene.
        correct: whether the two agree.
    """

    type: str
    question: str
    answer: str
    truth: str
    image: str
    correct: bool


@dataclass(frozen=True)
class CaptionSample:
    """A caption of a scene (`caption.json`).

    Args:
        image: file of the scene.
        caption: the model's caption.
        truth: the objects of the scene in words.
        correct: whether the caption names them all and no other.
    """

    image: str
    caption: str
    truth: str
    correct: bool


@dataclass(frozen=True)
class TextSample:
    """A text about an image from shards (`vqa_shards.json`, `caption_shards.json`).

    Args:
        image: file of the image.
        said: the model's caption, or the question that it was asked.
        known: the reference text; after a question also the model's answer.
    """

    image: str
    said: str
    known: str


Sample = ReconstructionSample | PromptSample | EditSample | QuestionSample | CaptionSample | TextSample
Kind = TypeVar("Kind", bound=Sample)


def write_samples(folder: Path, name: str, samples: Sequence[Sample]) -> None:
    """Write `samples/NAME.json` of an evaluation's folder."""
    write_json(folder / "samples" / f"{name}.json", [asdict(sample) for sample in samples])


def read_samples(folder: Path, name: str, kind: type[Kind]) -> list[Kind]:
    """The records of an evaluation's `samples/NAME.json`; none where the file does not exist.

    Args:
        folder: the evaluation's folder.
        name: of the file, without `.json`.
        kind: class of the records.

    Raises:
        ValueError: a record has other fields than the class, or lacks one without a default; names the file.
    """
    path = folder / "samples" / f"{name}.json"
    if not path.is_file():
        return []
    records = json.loads(path.read_text(encoding="utf-8"))
    known = {one.name for one in fields(kind)}
    wanted = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    if any(not wanted <= set(record) <= known for record in records):
        raise ValueError(f"{path} does not hold {', '.join(sorted(wanted))}: run the evaluation again.")
    return [kind(**record) for record in records]
