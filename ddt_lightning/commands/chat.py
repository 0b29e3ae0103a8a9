"""`ddt chat`: conversations with several images and turns."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddt_lightning.images import read_images
from ddt_lightning.inputs import Loading, load_pipeline, positive, progress
from ddt_lightning.results import check_sources, results
from ddt_lightning.sampling import Sampling
from ddt_lightning.texts import parse_json, read_lines


def chat(
    talks: str,
    *,
    out: str,
    draw: bool = False,
    max_new_tokens: int = 48,
    text_temperature: float = 0.0,
    seed: int = 0,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Answer conversations in which both sides may show images, in words or with an image.

    Args:
        talks: a .jsonl file; on each line {"turns": [...], "images": [...]} with image files beside it.
        out: folder for results.jsonl, and the PNGs where images are drawn.
        draw: answer with an image.
        max_new_tokens: longest text.
        text_temperature: of a text; 0 takes the likeliest word.
        seed: of the first answer; counted up from line to line.
        loading: which model.
        drawing: how to draw; answers in words heed `looks` alone.
    """
    asked = read_talks(talks)
    check_sources(out, [file for _, files in asked for file in files])
    size = positive("batch", loading.batch)
    pipeline = load_pipeline(loading)
    from ddt_lightning import chat as answering

    said = {"temperature": text_temperature, "looks": drawing.looks}
    shared = {"weights": pipeline.fingerprints(), **(asdict(drawing) if draw else said)}
    with results(out) as written:
        for start in progress(range(0, len(asked), size), "answering"):
            part = asked[start : start + size]
            seeds = [seed + start + n for n in range(len(part))]
            read = [
                answering.Conversation(turns, read_images(files, pipeline.image_size) if files else None)
                for turns, files in part
            ]
            records: list[dict[str, Any]] = [
                {"turns": turns, "images": [str(file) for file in files], "seed": seeds[n], **shared}
                for n, (turns, files) in enumerate(part)
            ]
            if draw:
                drawn = answering.draw(pipeline, read, drawing, seed=seeds)
                for n, record in enumerate(records):
                    written.add(record, drawn[n])
                continue
            length = positive("max_new_tokens", max_new_tokens)
            texts = answering.write(
                pipeline, read, max_new_tokens=length, temperature=text_temperature, seed=seeds, looks=drawing.looks
            )
            for text, record in zip(texts, records, strict=True):
                written.add({"text": text, **record})
    print(f"{len(asked)} answers in {out}")


def read_talks(path: str) -> list[tuple[list[dict[str, Any]], list[Path]]]:
    """The turns and image files of each line; files are looked for beside `path`.

    Raises:
        FileNotFoundError: where the file is missing.
        ValueError: naming a line that is not a conversation, or a file without one.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"No file of conversations {path}.")
    talks = []
    for number, line in read_lines(file):
        try:
            data = parse_json(line)
            turns = [{"role": turn["role"], "content": list(turn["content"])} for turn in data["turns"]]
            images = [file.parent / name for name in data.get("images", [])]
            whole = all(
                isinstance(part, str) or isinstance(part["image"], int) for turn in turns for part in turn["content"]
            )
        except (ValueError, AttributeError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(
                f'{path}, line {number} is not {{"turns": [{{"role", "content": [...]}}], "images": [...]}}.'
            )
        talks.append((turns, images))
    if not talks:
        raise ValueError(f"{path} holds no conversation.")
    return talks
