"""`ddt encode` and `ddt decode`: image shards to token shards and back, a shard at a time in each process.

Captioned images become `KEY.ids.npy [K]` with their text and json, edits and questions conversations `KEY.ids.npy`
`[n, K]` with `KEY.json {"turns"}`; `tokens.json` says what made them, `encoded/` from which bytes. A shard appears
when it is whole and `tokens.json` when all are: a killed call leaves nothing half-written and a second one goes on.
Several calls, on one machine or many, encode parts of the shards into one folder.
"""

import json
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from ddt_lightning.atomic import write_json
from ddt_lightning.inputs import Coding, positive
from ddt_lightning.model_folder import find_part
from ddt_lightning.sampling import Decoding
from ddt_lightning.workers import pool, run_tasks

LISTED = 10  # bad samples named at the end


def encode(
    *,
    tokenizer: str,
    shards: list[str],
    out: str,
    order: Literal["fine_to_coarse", "coarse_to_fine", "raster"] | None = None,
    columns: dict[str, str] | str | None = None,
    views: int = 1,
    crop_margin: float = 1.125,
    task: int = 0,
    tasks: int = 1,
    check: bool = False,
    coding: Coding = Coding(),
) -> None:
    """Turn image, edit, question and chat shards into token shards.

    Args:
        tokenizer: tokenizer folder, or a run or model folder that holds one.
        shards: paths or patterns such as 'data/shards/images-*.tar'; quote them.
        out: folder of the token shards, named like the shards they come from.
        order: order in which a language model will see an image's ids; the files keep codebook order. If not given,
            fine_to_coarse for a DDT tokenizer and raster, which is codebook order, for VQGAN and VAR.
        columns: members of shards of another layout, such as '{image: original.png, text: json.instruction}', or the
            overlay file that has them under data.columns, such as data/instructpix2pix.yaml.
        views: ids of this many crops of each captioned image: the centre, then random ones; training draws one.
        crop_margin: a random crop is cut out of an image that is this much larger than it, 1 or more: 1.125 cuts off a
            ninth of each side, 1.04 leaves whole what fills an image, such as emoji.
        task: number of this call, from 0, where several share the shards; it encodes every `tasks`-th one from there.
        tasks: how many calls share the shards.
        check: encode nothing, read the token shards of all tasks, and name those that are missing or differ from their
            records.
        coding: how to run the tokenizer.
    """
    from ddt_lightning import encoding
    from ddt_lightning.shards.images import CROP_MARGIN

    layout = read_columns(columns) if isinstance(columns, str) else columns or {}
    positive("views", views)
    if crop_margin < 1:
        raise ValueError(f"`--crop_margin` ({crop_margin}) must be at least 1, which crops nothing.")
    if not 0 <= task < positive("tasks", tasks):
        raise ValueError(f"`--task` ({task}) must be at least 0 and below `--tasks` ({tasks}).")
    folder, sources, model = begin(tokenizer, shards, coding)
    world = world_of(sources)
    order = order or model["order"]
    if (model["kind"] == "ddt") == (order == "raster"):
        fit = "fine_to_coarse or coarse_to_fine" if model["kind"] == "ddt" else "raster"
        raise ValueError(f"`--order` ({order}) is not one of a {model['kind']} tokenizer: use {fit}.")
    target = Path(out)
    names = token_names(sources)
    own = {} if check else dict(list(names.items())[task::tasks])
    transform = f"{model['image_size']} px, centre" + (f" and {views - 1} random crops" if views > 1 else "")
    if views > 1 and crop_margin != CROP_MARGIN:
        transform += f" with a margin of {crop_margin:g}"
    wanted = {"tokenizer": model["fingerprint"], "transform": transform, "columns": layout}
    refuse_foreign(target, names, model["fingerprint"])
    calls = [
        (str(folder), coding, url, str(target / name), layout, views, crop_margin, wanted) for name, url in own.items()
    ]
    encoded, count, problems, failed = 0, 0, {}, {}
    for name, now, number, bad in run_tasks(encoding.finish_shard, calls, coding.processes, "encode"):
        encoded, count = encoded + now, count + number
        problems.update(bad)
        if now and not number:
            failed[name] = next(iter(bad.items()), (name, "it is empty"))
    report(problems)
    if failed:
        name, (sample, reason) = next(iter(failed.items()))
        raise ValueError(
            f"`--shards`: no sample of {names[name]} can be encoded, {sample}: {reason}. Leave out {len(failed)} such "
            "shards and call again: the others are encoded."
        )
    done = f"{count} samples in {encoded} token shards in {out}"
    if encoded < len(own):
        done += f", {len(own) - encoded} shards were there already"
    faults = unfinished(target, [name for name in names if name not in own], wanted, content=check)
    if faults and not check:
        print(f"{done}; of the other tasks' shards {len(faults)} are not there yet")
        return
    if faults:
        (target / "tokens.json").unlink(missing_ok=True)
        named = "; ".join(f"{name} {reason}" for name, reason in list(faults.items())[:LISTED])
        raise ValueError(f"{len(faults)} of {len(names)} token shards in {out} must be encoded again: {named}.")
    fields = {name: model[name] for name in ("K", "codebook_size", "kind")}
    written = {"tokenizer": model["fingerprint"], **fields, "order": order, "transform": transform}
    old = json.loads((target / "tokens.json").read_text()) if (target / "tokens.json").is_file() else {}
    known = [part for part in str(old.get("source", "")).split(", ") if part]
    written["source"] = ", ".join(dict.fromkeys([*known, *shards]))
    whole = target / f".tokens-{task}.json"  # under a name of its own: two tasks may come here at the same time
    write_json(whole, {**written, **world})
    whole.replace(target / "tokens.json")
    print(summary(target, names) if check else done)


def unfinished(folder: Path, names: Iterable[str], made_from: dict[str, Any], content: bool) -> dict[str, str]:
    """Shards that are not finished, each with the reason; see `fault`."""
    from ddt_lightning.shards.finished import fault

    reasons = {name: fault(folder / name, made_from, content) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def summary(folder: Path, names: Collection[str]) -> str:
    """The samples of finished shards, counted by their records."""
    from ddt_lightning.shards.finished import read_record

    records = [read_record(folder / name) for name in names]
    samples, left_out = (sum(record[count] for record in records) for count in ("samples", "left_out"))
    return f"{samples} samples in {len(names)} token shards in {folder}, {left_out} were left out: all as recorded"


def refuse_foreign(folder: Path, names: Collection[str], fingerprint: str) -> None:
    """Refuse to encode into a folder with finished shards of another tokenizer that this call would leave there.

    Raises:
        ValueError: naming one of them.
    """
    from ddt_lightning.shards.finished import FOLDER, read_record

    for file in sorted((folder / FOLDER).glob("*.json")):
        shard = folder / f"{file.stem}.tar"
        if shard.name in names or not shard.is_file() or not (record := read_record(shard)):
            continue
        if (other := record["made_from"].get("tokenizer")) != fingerprint:
            raise ValueError(
                f"`--out` ({folder}) holds {shard.name} of tokenizer {other}, this one is "
                f"{fingerprint}: encode all its shards again in one call, or name another folder."
            )


def world_of(sources: list[str]) -> dict[str, Any]:
    """The `world.json` beside the shards that are encoded, as an entry of `tokens.json`; empty where they have none.

    Raises:
        ValueError: the shards are of different worlds: what one holds out another may show.
    """
    from ddt_lightning.shards.remote import fetch_if_there, is_remote
    from ddt_lightning.shards.write import folder_of

    folders = dict.fromkeys(folder_of(url) for url in sources if not url.startswith("pipe:"))
    worlds = {}
    for file in (f"{folder}/world.json" for folder in folders):
        if is_remote(file):
            data = fetch_if_there(file)
        else:
            data = Path(file).read_bytes() if Path(file).is_file() else None
        if data is not None:
            worlds[file] = json.loads(data)
    for file, facts in worlds.items():
        first, expected = next(iter(worlds.items()))
        for field in ("kinds", "held_out", "pairs_shown"):
            if facts[field] != expected[field]:
                raise ValueError(
                    f"`--shards`: {first} has {field}={expected[field]}, {file} {field}={facts[field]}: encode scenes "
                    "of one world into a folder."
                )
    return {"world": next(iter(worlds.values()))} if worlds else {}


def decode(
    *,
    tokenizer: str,
    shards: list[str],
    out: str,
    tokens: int | None = None,
    seed: int = 0,
    coding: Coding = Coding(),
    decoding: Decoding = Decoding(),
) -> None:
    """Turn token shards back into image shards; texts and json are kept.

    Args:
        tokenizer: tokenizer folder, or a run or model folder that holds one; the one that made the shards.
        shards: paths or patterns of token shards; quote them.
        out: folder of the image shards, named like the token shards.
        tokens: decode the first ones only.
        seed: of the decoder's noise; each image has its own from this and its key.
        coding: how to run the tokenizer.
        decoding: how to decode.
    """
    from ddt_lightning import encoding
    from ddt_lightning.shards.write import common_fields

    folder, sources, model = begin(tokenizer, shards, coding)
    fields, parent = common_fields(sources, "--shards")
    if fields["tokenizer"] != model["fingerprint"]:
        raise ValueError(
            f"{parent}/tokens.json names tokenizer {fields['tokenizer']}, `--tokenizer` is {model['fingerprint']}: "
            "decode with the tokenizer that made the shards."
        )
    if tokens is not None and not 0 <= tokens <= model["K"]:
        raise ValueError(f"`--tokens` ({tokens}) must be between 0 and the tokenizer's {model['K']}.")
    names = token_names(sources)
    Path(out).mkdir(parents=True, exist_ok=True)
    tasks = [(str(folder), coding, url, str(Path(out) / name), tokens, seed, decoding) for name, url in names.items()]
    count, problems = 0, {}
    for number, bad in run_tasks(encoding.decode_shard, tasks, coding.processes, "decode"):
        count += number
        problems.update(bad)
    report(problems)
    print(f"{count} samples in {len(tasks)} image shards in {out}")


def begin(tokenizer: str, shards: list[str], coding: Coding) -> tuple[Path, list[str], dict[str, Any]]:
    """Tokenizer folder, shards, and what the tokenizer is; the workers start to load it."""
    from ddt_lightning import encoding
    from ddt_lightning.shards.read import expand

    folder = find_part("tokenizer", tokenizer)
    positive("batch", coding.batch)
    described = None
    if positive("processes", coding.processes) > 1:
        described = pool(coding.processes, encoding.facts).submit(encoding.facts, str(folder), coding)
    sources = expand(shards, "--shards")
    return folder, sources, described.result() if described else encoding.facts(str(folder), coding)


def read_columns(path: str) -> dict[str, str]:
    """`data.columns` of an overlay.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or has no `data.columns`.
    """
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"`--columns` ({path}) is neither a mapping nor a file.")
    try:
        found = yaml.safe_load(Path(path).read_text())["data"]["columns"]
        return {str(part): str(member) for part, member in found.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`--columns` ({path}) has no mapping `data: columns:`: {error}") from None


def token_names(sources: list[str]) -> dict[str, str]:
    """File name of each shard's result -> the shard.

    Raises:
        ValueError: where two shards have the same name.
    """
    names: dict[str, str] = {}
    for url in sources:
        name = url.rstrip("/").rpartition("/")[2].removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar") + ".tar"
        if name in names:
            raise ValueError(f"`--shards`: {names[name]} and {url} have the same name; encode them into two folders.")
        names[name] = url
    return names


def report(problems: dict[str, str]) -> None:
    """Name samples that were left out, on stderr."""
    if problems:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(problems.items())[:LISTED])
        sys.stderr.write(f"{len(problems)} samples were left out: {named}\n")
