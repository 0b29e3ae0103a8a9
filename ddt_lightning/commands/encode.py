"""`ddt encode` and `ddt decode`: image shards to token shards and back, one task per shard.

Captioned images become `KEY.ids.npy [K]` with their text and json, edits and questions conversations `KEY.ids.npy`
`[n, K]` with `KEY.json {"turns"}`; `tokens.json` says what made them, `encoded.json` from which bytes. A shard appears
when it is whole and `tokens.json` when all are: a killed call leaves nothing half-written and a second one goes on.
"""

import hashlib
import json
import sys
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
        coding: how to run the tokenizer.
    """
    from ddt_lightning import encoding

    layout = read_columns(columns) if isinstance(columns, str) else columns or {}
    positive("views", views)
    folder, sources, model = begin(tokenizer, shards, coding)
    world = world_of(sources)
    order = order or model["order"]
    if (model["kind"] == "ddt") == (order == "raster"):
        fit = "fine_to_coarse or coarse_to_fine" if model["kind"] == "ddt" else "raster"
        raise ValueError(f"`--order` ({order}) is not one of a {model['kind']} tokenizer: use {fit}.")
    target = Path(out)
    names = token_names(sources)
    record = target / "encoded.json"
    done: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    done = {name: facts for name, facts in done.items() if (target / name).is_file()}
    transform = f"{model['image_size']} px, centre" + (f" and {views - 1} random crops" if views > 1 else "")
    wanted = {"tokenizer": model["fingerprint"], "transform": transform, "columns": layout}
    foreign = [name for name, facts in done.items() if facts["tokenizer"] != wanted["tokenizer"] and name not in names]
    if foreign:
        raise ValueError(
            f"`--out` ({out}) holds {foreign[0]} of tokenizer {done[foreign[0]]['tokenizer']}, this one is "
            f"{wanted['tokenizer']}: encode all its shards again in one call, or name another folder."
        )
    target.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name, url in names.items():
        facts = {**wanted, "source": source_hash(url)}
        if done.get(name) != facts:
            done.pop(name, None)
            tasks.append((str(folder), coding, url, str(target / name), layout, views, facts))
    fields = {name: model[name] for name in ("K", "codebook_size", "kind")}
    written = {"tokenizer": model["fingerprint"], **fields, "order": order, "transform": transform}
    if tasks:
        (target / "tokens.json").unlink(missing_ok=True)  # not whole until all shards are there
    count, problems, failed = 0, {}, {}
    for name, facts, number, bad in run_tasks(encoding.encode_shard, tasks, coding.processes, "encode"):
        count += number
        problems.update(bad)
        if number:
            done[name] = facts
        else:
            failed[name] = next(iter(bad.items()), (name, "it is empty"))
            (target / name).unlink(missing_ok=True)
        write_json(record, done)
    if failed:
        report(problems)
        name, (sample, reason) = next(iter(failed.items()))
        raise ValueError(
            f"`--shards`: no sample of {names[name]} can be encoded, {sample}: {reason}. Leave out {len(failed)} such "
            "shards and call again: the others are encoded."
        )
    old = json.loads((target / "tokens.json").read_text()) if (target / "tokens.json").is_file() else {}
    known = [part for part in str(old.get("source", "")).split(", ") if part]
    written["source"] = ", ".join(dict.fromkeys([*known, *shards]))
    write_json(target / "tokens.json", {**written, **world})
    report(problems)
    skipped = f", {len(names) - len(tasks)} shards were there already" if len(tasks) < len(names) else ""
    print(f"{count} samples in {len(tasks)} token shards in {out}{skipped}")


def world_of(sources: list[str]) -> dict[str, Any]:
    """The `world.json` beside the shards that are encoded, as an entry of `tokens.json`; empty where they have none.

    Raises:
        ValueError: the shards are of different worlds: what one holds out another may show.
    """
    files = [Path(url).parent / "world.json" for url in sources]
    worlds = {str(file): json.loads(file.read_text()) for file in dict.fromkeys(files) if file.is_file()}
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
    from ddt_lightning.shards.write import read_tokens_json

    folder, sources, model = begin(tokenizer, shards, coding)
    for parent in dict.fromkeys(Path(url).parent for url in sources):
        fields = read_tokens_json(parent)
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


def source_hash(url: str) -> str:
    """Sixteen hex digits of a shard's bytes; a remote shard stands for itself."""
    if not Path(url).is_file():
        return url
    digest = hashlib.blake2b(digest_size=8)
    with open(url, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def report(problems: dict[str, str]) -> None:
    """Name samples that were left out, on stderr."""
    if problems:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(problems.items())[:LISTED])
        sys.stderr.write(f"{len(problems)} samples were left out: {named}\n")
