"""`ddt generate|edit|describe|reconstruct`: a trained model on prompts and image files.

In: a prompt or a file of prompts, images or folders of images. Out: a folder with `00000.png`, ... and
`results.jsonl`, one line per image with everything needed to make it again; and in a terminal the first pictures. A
failed call leaves nothing behind.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ddt_lightning import terminal
from ddt_lightning.images import IMAGES, image_files, read_images
from ddt_lightning.inputs import Loading, load_pipeline, positive, progress
from ddt_lightning.prompts import class_names, read_prompts
from ddt_lightning.results import check_sources, folder_for, results
from ddt_lightning.sampling import Decoding, Sampling
from ddt_lightning.texts import to_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddt_lightning.vocab import Vocab


class Shown:
    """The first pictures of a call, for whoever waits for it at a terminal."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[str, str, Tensor]] = []

    def add(self, name: str, plan: str, picture: "Tensor") -> None:
        """Keep a picture uint8 `[3, H, W]`, its file's name and its plan, if it is one of the first."""
        self.count += 1
        if len(self.first) < terminal.MOST:
            self.first.append((name, plan, picture))

    def tell(self, folder: str, show: bool) -> None:
        """Print plans and files, and show the pictures where `show` is true and a terminal reads the output."""
        for name, plan, _ in self.first:
            if plan:
                print(f"plan: {plan}")
            print(Path(folder) / name)
        if self.count > len(self.first):
            print(f"{self.count} images in {folder}")
        if show:
            terminal.show([picture.permute(1, 2, 0).contiguous().numpy() for _, _, picture in self.first])


def name_unknown(vocab: "Vocab", texts: Iterable[str]) -> None:
    """Say on stderr which words of texts a model never met in training, and which of them it knows in lower case."""
    words = dict.fromkeys(word for text in texts for word in vocab.unknown_words(text))
    if words:
        named = [word if vocab.unknown_words(word.lower()) else f"{word} (but {word.lower()})" for word in words]
        print(f"unknown to this model, as its training texts never hold them: {', '.join(named)}", file=sys.stderr)


def generate(
    prompt: str,
    *,
    out: str | None = None,
    images: int = 1,
    seed: int = 0,
    tokens: int | None = None,
    chat: bool = True,
    classes: str | None = None,
    show: bool = True,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw images from a prompt, or from a file of prompts.

    Args:
        prompt: what to draw; or a text file with a prompt on each line; or a .jsonl file with a "prompt" on each.
        out: folder for the PNGs and results.jsonl; a new one in pictures/ if not given.
        images: how many for each prompt.
        seed: of the first image; counted up from image to image.
        tokens: decode the first ones only.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        classes: file with the name of each class on a line, or a .json list of names, in the order of their numbers,
            for a model of classes: a prompt is then a class, by name or number, and drawn by its name as its shards
            caption it.
        show: show the first pictures in a terminal.
        loading: which model.
        drawing: how to draw.
    """
    asked = read_prompts(prompt) if classes is None else class_names(classes, read_prompts(prompt))
    prompts = [text for text in asked for _ in range(positive("images", images))]
    size = positive("batch", loading.batch)
    pipeline = load_pipeline(loading)
    name_unknown(pipeline.vocab, asked)

    shared = {**asdict(drawing), "tokens": tokens, "weights": pipeline.fingerprints()}
    made = Shown()
    with folder_for(out, asked[0]) as folder, results(folder) as written:
        for start in progress(range(0, len(prompts), size), "drawing"):
            part = prompts[start : start + size]
            seeds = [seed + start + n for n in range(len(part))]
            drawn = pipeline.draw(pipeline.draw_prompts(part, chat=chat), drawing, seed=seeds, tokens=tokens)
            for n, text in enumerate(part):
                record = {"prompt": text, "seed": seeds[n], **shared, "plan": drawn.plans[n] or "none"}
                record["unknown_words"] = pipeline.vocab.unknown_words(text)
                record["ids"] = drawn.ids[n].tolist()
                made.add(written.add(record, drawn.images[n]), drawn.plans[n], drawn.images[n])
    made.tell(folder, show)


def edit(
    image: str,
    instructions: list[str],
    *,
    out: str | None = None,
    seed: int = 0,
    show: bool = True,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Change an image, or every image of a folder, as an instruction says; several change the last result each.

    Args:
        image: image file, or a folder of images.
        instructions: what to change; each further one goes on in the same conversation. One picture for each.
        out: folder for the PNGs and results.jsonl; a new one in pictures/ if not given.
        seed: of the first image; counted up from image to image.
        show: show the first pictures in a terminal.
        loading: which model.
        drawing: how to draw.
    """
    files = image_files(image)
    check_sources(out, files)
    for text in instructions:
        if text.lower().endswith(IMAGES) and Path(text).is_file():
            raise ValueError(f"`{text}` is an image, not an instruction: name one image or one folder of images.")
    size = positive("batch", loading.batch)
    pipeline = load_pipeline(loading)
    name_unknown(pipeline.vocab, instructions)
    from ddt_lightning.chat import edit_in_turns

    shared = {**asdict(drawing), "weights": pipeline.fingerprints()}
    made = Shown()
    with folder_for(out, instructions[0]) as folder, results(folder) as written:
        for start in progress(range(0, len(files), size), "editing"):
            part = files[start : start + size]
            seeds = [seed + start + n for n in range(len(part))]
            sources = read_images(part, pipeline.image_size)
            rounds = list(edit_in_turns(pipeline, sources, instructions, drawing, seed=seeds))
            for n, file in enumerate(part):
                for turn, (instruction, edited) in enumerate(zip(instructions, rounds, strict=True)):
                    record = {"source": str(file), "instruction": instruction, "turn": turn, "seed": seeds[n], **shared}
                    record["plan"] = edited.plans[n] or "none"
                    record["unknown_words"] = pipeline.vocab.unknown_words(instruction)
                    made.add(written.add(record, edited.images[n]), edited.plans[n], edited.images[n])
    made.tell(folder, show)


def describe(
    images: list[str],
    *,
    out: str | None = None,
    question: str | None = None,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    looks: int = Sampling.looks,
    seed: int = 0,
    chat: bool = True,
    loading: Loading = Loading(),
) -> None:
    """Caption images, or answer a question about each.

    Args:
        images: image files, or folders of images.
        out: folder for results.jsonl; without it the lines go to the terminal.
        question: what to answer; without it a caption is written.
        max_new_tokens: longest text.
        temperature: 0 takes the likeliest word.
        looks: where the model says what it sees before it answers: how often at most those words are tried against
            others that draw the image better; 0 takes what is read at first.
        seed: of the first text; counted up from image to image.
        chat: ask in the chat format of an instruct model; false for captions of a pretrained one.
        loading: which model.
    """
    files = [file for given in images for file in image_files(given)]
    check_sources(out, files)
    size, length = positive("batch", loading.batch), positive("max_new_tokens", max_new_tokens)
    reading = Sampling(temperature=temperature, looks=looks)  # refuses numbers out of range
    pipeline = load_pipeline(loading)
    name_unknown(pipeline.vocab, [] if question is None else [question])
    asked = {} if question is None else {"question": question}
    shared = {**asked, "temperature": temperature, "looks": reading.looks, "weights": pipeline.fingerprints()}
    records = []
    for start in progress(range(0, len(files), size), "describing"):
        part = files[start : start + size]
        said = pipeline.write_planned(
            pipeline.describe_prompts(read_images(part, pipeline.image_size), question, chat=chat),
            max_new_tokens=length,
            temperature=temperature,
            seed=seed + start,
            looks=reading.looks,
        )
        for file, (plan, text) in zip(part, said, strict=True):
            planned = {"plan": plan} if plan else {}
            records.append({"image": str(file), "text": text, **planned, **shared})
    if out is None:
        print("\n".join(to_json(record) for record in records))
        return
    with results(out) as written:
        for record in records:
            written.add(record)
    print(f"{len(records)} texts in {out}")


def reconstruct(
    images: list[str],
    *,
    out: str,
    tokens: list[int] | None = None,
    seed: int = 0,
    loading: Loading = Loading(),
    decoding: Decoding = Decoding(),
) -> None:
    """Send images through the tokenizer and back.

    Args:
        images: image files, or folders of images.
        out: folder for the PNGs and results.jsonl.
        tokens: numbers of first tokens to decode, such as 8 16 32; all tokens if not given.
        seed: of the first image's noise; counted up from image to image.
        loading: which model; one with a tokenizer only will do.
        decoding: how to decode.
    """
    from ddt_lightning.metrics.reconstruction import psnr

    files = [file for given in images for file in image_files(given)]
    check_sources(out, files)
    size = positive("batch", loading.batch)
    pipeline = load_pipeline(loading, llm=False)
    shared = {**asdict(decoding), "weights": pipeline.fingerprints()}
    counts = [pipeline.length(count) for count in tokens or [pipeline.tokenizer.config.tokens]]
    with results(out) as written:
        for start in progress(range(0, len(files), size), "reconstructing"):
            part = files[start : start + size]
            seeds = [seed + start + n for n in range(len(part))]
            originals = read_images(part, pipeline.image_size)
            made = {n: pipeline.reconstruct(originals, n, decoding, seed=seeds) for n in counts}
            for n, file in enumerate(part):
                for count, decoded in made.items():
                    distance = float(psnr(decoded[n : n + 1], originals[n : n + 1]))
                    record = {"source": str(file), "tokens": count, "psnr": distance, "seed": seeds[n], **shared}
                    written.add(record, decoded[n])
    print(f"{len(files) * len(made)} images in {out}")
