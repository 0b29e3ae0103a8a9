"""ImageNet, or any folder with one subfolder per class, to WebDataset shards with `KEY.jpg`, `KEY.cls` and `KEY.txt`.

    python data/imagenet.py ILSVRC/train --out shards/imagenet --name imagenet-train --classes classes.json

`classes.json` maps a subfolder's name to words, `{"n01440764": "tench"}`; without it the text is the subfolder's name.
Files are packed as they are, in an order shuffled by the seed; the class is the subfolder's place in sorted order.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from ddt_lightning.images import is_image
from ddt_lightning.shards.write import write_shards
from ddt_lightning.texts import read_json_file

SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


def images(folder: Path, seed: int) -> list[tuple[Path, int]]:
    """Every image with its class, shuffled.

    Raises:
        ValueError: the folder has no subfolders with images.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        (path, number)
        for number, place in enumerate(classes)
        for path in sorted(place.iterdir())
        if is_image(path) and path.is_file()
    ]
    if not found:
        raise ValueError(f"{folder} has no subfolders with images ({', '.join(SUFFIXES)}).")
    random.Random(seed).shuffle(found)
    return found


def samples(found: list[tuple[Path, int]], words: dict[str, str]) -> Iterator[dict]:
    """Samples as `write_shards` takes them."""
    for number, (path, label) in enumerate(found):
        yield {
            "__key__": f"{number:08d}",
            SUFFIXES[path.suffix.lower()]: path.read_bytes(),
            "cls": str(label).encode(),
            "txt": words.get(path.parent.name, path.parent.name),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with one subfolder per class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--name", default="imagenet-train", help="start of the shards' names")
    parser.add_argument("--classes", type=Path, help="json file with words for the subfolders")
    parser.add_argument("--per_shard", type=int, default=1000, help="samples per shard")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    args = parser.parse_args()
    words = read_json_file(args.classes) if args.classes else {}
    try:
        found = images(args.folder, args.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    paths = write_shards(args.out, args.name, samples(found, words), args.per_shard)
    print(f"{len(found)} images of {len({label for _, label in found})} classes in {len(paths)} shards in {args.out}")


if __name__ == "__main__":
    main()
