"""`ddt data emoji`: shards of emoji pictures with Unicode's metadata to the shards of a world of their own.

In: `KEY.png` and `KEY.json` as `data/README.md` describes them. Out: image, edit and question shards of training and of
each held-out part, `prompts.jsonl`, `prompts-train.jsonl` and `prompts-val-combination.jsonl` with the combinations of
role, gender and skin tone to practise on and to watch, and `LICENSES.md`, which credits those who drew the pictures.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddt_lightning.inputs import positive

SOURCE = "${DDT_DATA}/emoji/emoji-*.tar.gz"
BY, BY_SA = (f"https://creativecommons.org/licenses/{kind}/4.0/" for kind in ("by", "by-sa"))
CREDITS = {
    "noto": "Noto Emoji (https://github.com/googlefonts/noto-emoji), copyright Google LLC: Apache License 2.0, "
    "https://www.apache.org/licenses/LICENSE-2.0",
    "twemoji": "Twemoji (https://github.com/twitter/twemoji), copyright Twitter, Inc. and other contributors: "
    f"graphics under CC BY 4.0, {BY}",
    "openmoji": f"OpenMoji (https://openmoji.org), the open-source emoji and icon project: CC BY-SA 4.0, {BY_SA}",
}
NOTICE = """# Pictures in these shards

{credits}

Names and tags come from Unicode CLDR (Unicode License v3) by way of OpenMoji's metadata (CC BY-SA 4.0). The pictures
were scaled to 64 px on white. Credit these projects wherever the pictures, or what a model that was trained on them
draws, are shown, and wherever its weights are passed on.
"""


def emoji(
    *,
    out: str,
    shards: list[str] | None = None,
    styles: list[str] | None = None,
    edits: int = 8_000,
    questions: int = 8_000,
    val: int = 256,
    prompts: int = 64,
    per_shard: int = 1_000,
    seed: int = 0,
) -> None:
    """Make shards of emoji: images with captions and plans, edits and questions, for training and held-out parts.

    The same seed gives the same bytes. Held-out are whole concepts, combinations of role, gender and skin tone, and
    pictures of one style; the hash of a picture's code decides, not the seed.

    Args:
        out: folder of the shards; shards of the same names in it are replaced.
        shards: shards of the pictures, `emoji/emoji-*.tar.gz` below `DDT_DATA` if not given.
        styles: noto, twemoji or openmoji; noto and twemoji if not given.
        edits: pairs of images with an instruction for training.
        questions: images with a question and its answer for training.
        val: edits, and questions, of each held-out part.
        prompts: prompts of each held-out part, and of training pictures.
        per_shard: samples in a shard at most.
        seed: of everything drawn.

    Raises:
        FileNotFoundError: a shard or a match is missing.
        ValueError: a style that is unknown or not in the shards, a number that is too small, or metadata that cannot
            be used.
    """
    from ddt_lightning.atomic import staged
    from ddt_lightning.emoji.edits import choose
    from ddt_lightning.emoji.facts import STYLES, distinct, read_emoji
    from ddt_lightning.emoji.held_out import COMBINATION, TRAIN, split
    from ddt_lightning.emoji.questions import ask
    from ddt_lightning.emoji.samples import (
        combination_rows,
        edit_samples,
        image_samples,
        prompt_rows,
        question_samples,
    )
    from ddt_lightning.seeding import numpy_rng
    from ddt_lightning.shards.write import write_shards

    chosen = styles or list(STYLES[:2])
    if unknown := [style for style in chosen if style not in STYLES]:
        raise ValueError(f"`--styles` ({unknown[0]}) is unknown: choose from {', '.join(STYLES)}.")
    for option, value in {"edits": edits, "questions": questions, "val": val, "prompts": prompts}.items():
        if value < 0:
            raise ValueError(f"`--{option}` ({value}) must be at least 0.")
    positive("per_shard", per_shard)
    rows, pictures = read_pictures(shards or [SOURCE], chosen)
    kept = distinct(rows, pictures)
    world = read_emoji([rows[n] for n in kept])
    files = {(one.style, one.code): pictures[n] for one, n in zip(world, kept, strict=True)}
    parts = split(world)
    unnamed = {name for one in parts["concept"] for name in (one.head, one.noun)}
    counts: dict[str, int] = {}
    with staged(out) as folder:
        lines: list[dict[str, Any]] = []
        for part, members in parts.items():
            train = part == TRAIN
            rng = numpy_rng("emoji", seed, part)
            made = choose(parts, part, edits if train else val, rng)
            asked = ask(members, questions if train else val, rng)

            def picture(one: Any) -> bytes:  # noqa: ANN401 - an Emoji, whose module imports torch
                return files[one.style, one.code]

            name = TRAIN if train else f"val-{part}"
            for kind, samples in {
                "images": list(image_samples(members, part, picture, seed, unnamed if train else ())),
                "edits": list(edit_samples(made, part, picture)),
                "questions": list(question_samples(asked, part, picture)),
            }.items():
                counts[f"{kind}-{name}"] = len(samples)
                if samples:
                    write_shards(folder, f"{kind}-{name}", samples, per_shard)
            lines += prompt_rows(members, part, prompts, seed)
            if part in (TRAIN, COMBINATION):
                asked_for = json_lines(combination_rows(members, part))
                (folder / f"prompts-{name}.jsonl").write_text(asked_for, encoding="utf-8")
        (folder / "prompts.jsonl").write_text(json_lines(lines), encoding="utf-8")
        credits = "\n".join(f"- {CREDITS[style]}" for style in chosen)
        (folder / "LICENSES.md").write_text(NOTICE.format(credits=credits), encoding="utf-8")
        written = {path.name for path in folder.iterdir()}
    for name in counts:
        for old in Path(out).glob(f"{name}-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
            if old.name not in written:
                old.unlink()
    dropped = len(rows) - len(kept)
    print(f"{len(kept)} pictures ({', '.join(chosen)}); {dropped} left out: equal to others, wrong, or not Unicode's")
    print("\n".join(f"{count:7} {name}" for name, count in counts.items()) + f"\nin {out}")


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_pictures(shards: Sequence[str], styles: Sequence[str]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Metadata and PNG file of every picture of some styles.

    Raises:
        FileNotFoundError: a shard or a match is missing.
        ValueError: a sample that cannot be read, or a style without pictures.
    """
    from ddt_lightning.shards.read import expand, name, read_shard
    from ddt_lightning.shards.texts import read_json

    needed = ("style", "hexcode", "base", "annotation", "tags", "group", "subgroup", "skin")
    problems: dict[str, str] = {}
    rows, pictures = [], []
    for url in expand(shards, "--shards"):
        for record in read_shard(url, problems):
            row = read_json(record) if "json" in record and "png" in record else None
            if not isinstance(row, dict) or any(field not in row for field in needed):
                raise ValueError(f"{name(record)} lacks a PNG, or a json with {', '.join(needed)}.")
            if row["style"] in styles:
                rows.append(row)
                pictures.append(record["png"])
    for sample, reason in problems.items():
        raise ValueError(f"{sample} cannot be read: {reason}.")
    if missing := [style for style in styles if all(row["style"] != style for row in rows)]:
        raise ValueError(f"`--styles` ({missing[0]}): the shards ({', '.join(shards)}) hold no picture of it.")
    return rows, pictures
