r"""VQA v2 to question shards: one sample an image, with all its questions.

    python data/vqav2.py v2_OpenEnded_mscoco_train2014_questions.json v2_mscoco_train2014_annotations.json \
        --images coco/train2014 --pattern 'COCO_train2014_{:012d}.jpg' --out shards/vqav2
    ddt encode --tokenizer runs/tokenizer --shards 'shards/vqav2/*.tar' --out tokens/vqav2

`KEY.json` is `{"image_id": ..., "vqa": [{"question", "answer", "answers"}]}`: `answer` is the most frequent of ten
people's. Questions without an answer (the test split) and images that are not there are left out and counted.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.shards.conversations import image_file
from ddt_lightning.shards.write import write_shards
from ddt_lightning.texts import as_texts, read_json_file


def by_image(questions: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Image number -> its questions with their answers, in the order of the questions."""
    answers = {entry["question_id"]: entry for entry in annotations}
    found: dict[int, list[dict[str, Any]]] = {}
    for asked in questions:
        if asked["question_id"] in answers:
            given = answers[asked["question_id"]]
            people = as_texts(given["answers"], "answers", "answer")
            entry = {"question": asked["question"], "answer": given["multiple_choice_answer"], "answers": people}
            found.setdefault(int(asked["image_id"]), []).append(entry)
    return found


def samples(found: dict[int, list[dict[str, Any]]], folder: Path, pattern: str, missing: list[str]) -> Iterator[dict]:
    """Samples as `write_shards` takes them; images that are not there are added to `missing`."""
    for number, asked in found.items():
        name = pattern.format(number)
        try:
            path = image_file(folder, name)
        except FileNotFoundError:
            missing.append(name)
            continue
        data = {"image_id": number, "vqa": asked}
        yield {"__key__": f"{number:012d}", path.suffix.lower()[1:]: path.read_bytes(), "json": data}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="..._questions.json")
    parser.add_argument("annotations", type=Path, help="..._annotations.json")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--pattern", default="COCO_train2014_{:012d}.jpg", help="name of an image file by its number")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--name", default="vqav2-train", help="start of the shards' names")
    parser.add_argument("--per_shard", type=int, default=1000, help="samples per shard")
    args = parser.parse_args()
    missing: list[str] = []
    try:
        questions = read_json_file(args.questions)["questions"]
        annotations = read_json_file(args.annotations)["annotations"]
        found = by_image(questions, annotations)
        paths = write_shards(args.out, args.name, samples(found, args.images, args.pattern, missing), args.per_shard)
    except (ValueError, OSError, KeyError, TypeError) as error:
        parser.error(f"{type(error).__name__}: {error}")
    asked = sum(map(len, found.values()))
    left = f"; {len(missing)} images are not there, first {missing[0]}" if missing else ""
    print(f"{asked} questions about {len(found) - len(missing)} images in {len(paths)} shards in {args.out}{left}")


if __name__ == "__main__":
    main()
