"""`ddt data scenes|chat|check|stats`: make the embedded world's shards, or shards of chats; look through any shards.

In: numbers of samples, JSON Lines, or shards. Out: shard files (`data/README.md` says what is in them), or lines about
them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import write_json
from ddt_lightning.inputs import positive
from ddt_lightning.scenes.world import World
from ddt_lightning.shards.check import FEWEST, LISTED, Facts, layout, listed, scan
from ddt_lightning.shards.from_scenes import SceneShards, Teaching, write_scenes
from ddt_lightning.shards.words import OTHER, read_words, windows


def scenes(
    out: str,
    *,
    images: int = 20_000,
    groups: int = 0,
    edits: int = 10_000,
    edits_in_words: int = 0,
    questions: int = 10_000,
    questions_in_words: int = 0,
    text: int = 5_000,
    val: int = 512,
    side: int = 64,
    per_shard: int = 1_000,
    seed: int = 0,
    workers: int = 2,
    teaching: Teaching = Teaching(),
    world: World = World(),
) -> None:
    """Make shards of the embedded world: images, edits, questions and lines of text, for training and validation.

    The same seed gives the same bytes, whatever the number of workers. Held-out combinations are never in training;
    `prompts.jsonl` asks for them (`prompts-novel.jsonl` for places of the novel split), and `world.json` says what the
    shards are.

    Args:
        out: folder of the shards; shards of the same kinds in it are replaced.
        images: captioned images for training.
        groups: further captioned images for training, of two things of a kind in one place relative to a third.
        edits: pairs of images with an instruction for training.
        edits_in_words: conversations for training in which an edit is planned from words, without images.
        questions: images with a question and its answer for training.
        questions_in_words: conversations for training in which a question about a layout is answered, without images.
        text: lines of text for training.
        val: samples of each kind for validation.
        side: side of the images in pixels.
        per_shard: samples in a shard at most.
        seed: of everything drawn.
        workers: processes.
        teaching: what is said about the images, and which of them stand side by side.
        world: what there is, and what training shows of it.

    Raises:
        ValueError: a number is too small.
    """
    from ddt_lightning.atomic import staged
    from ddt_lightning.scenes.suite import suite
    from ddt_lightning.shards.write import parts
    from ddt_lightning.workers import run_tasks

    counts = {"images": images, "groups": groups, "edits": edits, "edits_in_words": edits_in_words}
    counts |= {"questions": questions, "questions_in_words": questions_in_words, "text": text}
    for option, value, least in [*((k, v, 0) for k, v in counts.items()), ("val", val, 0), ("side", side, 8)]:
        if value < least:
            raise ValueError(f"`--{option}` ({value}) must be at least {least}.")
    for option, value in {"per_shard": per_shard, "workers": workers}.items():
        if value < 1:
            raise ValueError(f"`--{option}` ({value}) must be at least 1.")
    if teaching.kinds_in_words is not None and teaching.kinds_in_words < world.kinds:
        raise ValueError(
            f"`--kinds_in_words` ({teaching.kinds_in_words}) must be at least `--kinds` ({world.kinds}): edits and "
            "questions in words speak of all that images show."
        )
    if not any(counts.values()):
        raise ValueError(f"{', '.join(f'`--{kind}`' for kind in counts)} are all 0: nothing to make.")
    options = SceneShards(side, seed, world, teaching)
    asked = {"prompts": suite(world=world)}
    asked |= {"prompts-novel": suite(world=world, split="novel")} if world.holds("novel") else {}
    with staged(out) as folder:
        tasks = []
        for kind, count in counts.items():
            for split, wanted in {"train": count, "val": val if count else 0}.items():
                shards = max(-(-wanted // per_shard), min(FEWEST, wanted) if split == "train" else 0)
                for number, part in enumerate(parts(wanted, shards)):
                    path = str(folder / f"{kind}-{split}-{number:06d}.tar")
                    tasks.append((path, kind, split, part, options))
        for name, prompts in asked.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        write_json(folder / "world.json", options.facts())
        written = {Path(path).name for path in run_tasks(write_scenes, tasks, workers, "scenes")}
    kinds = {name.rpartition("-")[0] for name in written}
    for old in Path(out).glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if old.name not in written and old.name.rpartition("-")[0] in kinds:
            old.unlink()
    print(f"{len(written)} shards in {out}: {sum(counts.values())} training samples, {val} for validation of each kind")


def chat(lines: str, *, images: str, out: str, name: str = "chats", per_shard: int = 1_000) -> None:
    """Pack conversations about image files into chat shards, for `ddt encode`.

    Args:
        lines: JSON Lines file, `{"turns": [{"role": "user", "content": ["what is this?", {"image": "a.jpg"}]}, ...]}`.
        images: folder of the image files; what lies outside is never read.
        out: folder of the shards.
        name: beginning of the shards' names.
        per_shard: samples in a shard at most.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no conversation can be used.
    """
    from ddt_lightning.shards.conversations import read_chats

    for option, path in {"lines": Path(lines), "images": Path(images)}.items():
        if not (path.is_file() if option == "lines" else path.is_dir()):
            raise FileNotFoundError(f"`{option}` ({path}) does not exist.")
    problems: dict[str, str] = {}
    write_chats(read_chats(lines, problems), images, out, name, per_shard, problems)


def write_chats(
    chats: Iterable[tuple[str, list[dict[str, Any]]]],
    images: str,
    out: str,
    name: str,
    per_shard: int,
    problems: dict[str, str],
) -> None:
    """Write chat shards and say what was left out; the converters in `data/` end here, too."""
    from ddt_lightning.commands.encode import report
    from ddt_lightning.shards.conversations import chat_samples
    from ddt_lightning.shards.write import write_shards

    made = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal made
        for sample in chat_samples(chats, images, problems):
            made += 1
            yield sample

    try:
        shards = write_shards(out, name, counted(), per_shard)
    finally:
        report(problems)
    print(f"{made} conversations in {len(shards)} shards in {out}")


def check(shards: list[str], *, columns: dict[str, str] | str | None = None) -> None:
    """Read every sample of some shards as `ddt encode` and training read it. Ends with exit code 1 if one is bad.

    Args:
        shards: shards of any kind: images, edits, questions, tokens, conversations, texts; patterns are fine.
        columns: members of shards of another layout, as for `ddt encode`.

    Raises:
        FileNotFoundError: a shard or a match is missing.
        ValueError: samples that cannot be used.
    """
    from ddt_lightning.commands.encode import read_columns

    total = Facts()
    problems: dict[str, str] = {}
    for url, facts, found in scan(shards, read_columns(columns) if isinstance(columns, str) else columns):
        total.add(facts)
        problems.update(found)
        bad = f", {len(found)} bad" if found else ""
        print(f"{url}: {facts.samples} samples{bad}; {listed(facts.sizes)}{listed(facts.ids)}{layout(facts)}")
    for sample, reason in list(problems.items())[:LISTED]:
        print(f"  {sample}: {reason}")
    silent = f" ({total.silent} samples without one)" if total.silent and total.texts else ""
    images = sum(total.sizes.values())
    print(f"{total.samples} samples, {images} images, {total.texts} texts{silent}, {len(problems)} bad")
    if problems:
        sample, reason = next(iter(problems.items()))
        raise ValueError(f"{len(problems)} samples or shards cannot be used, the first is {sample}: {reason}.")


def stats(shards: list[str]) -> None:
    """Statistics of some shards: samples, image sizes, texts and their words, image ids and how evenly they are used.

    Args:
        shards: shards of any kind; patterns are fine.

    Raises:
        FileNotFoundError: a shard or a match is missing.
    """
    total = Facts()
    bad = count = size = 0
    for url, facts, found in scan(shards):
        total.add(facts)
        bad, count = bad + len(found), count + 1
        size += Path(url).stat().st_size if Path(url).exists() else 0
    print(f"shards   {count}, {size / 1e6:.1f} MB")
    print(f"samples  {total.samples}, {bad} bad")
    layouts = [f"{n} x {' '.join(names)}" for names, n in total.members.most_common(5)]
    print(f"members  {'; '.join(layouts)}")
    print(f"images   {sum(total.sizes.values())}; {listed(total.sizes)}".rstrip("; "))
    spoken = sum(total.words.values())
    frequent = ", ".join(word for word, _ in total.words.most_common(12))
    print(
        f"texts    {total.texts}, {spoken / max(total.texts, 1):.1f} words each, {len(total.words)} words: {frequent}"
    )
    if total.codes:
        import numpy as np

        share = np.array(list(total.codes.values())) / sum(total.codes.values())
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        print(f"ids      {listed(total.ids)}{len(total.codes)} codes in use, perplexity {perplexity:.1f}")


def words(
    *,
    out: str,
    shards: list[str],
    val_shards: list[str],
    length: int = 32,
    codes: int = 512,
    hop: int = 8,
    per_shard: int = 4_000,
) -> None:
    """Turn the texts of shards into token shards of words, windows of equal length.

    Args:
        out: folder of the token shards.
        shards: shards with texts (txt or json) to train on; of several captions the first counts.
        val_shards: the same, held out; their words do not enter the table.
        length: words of a window, the K of the shards.
        codes: the most words in the table, with the one for all others.
        hop: words between the starts of two training windows; held-out windows do not overlap.
        per_shard: windows in each file.
    """
    from ddt_lightning.commands.encode import report
    from ddt_lightning.shards.write import write_shards, write_tokens_json

    for option, value in {"length": length, "codes": codes - 1, "hop": hop}.items():
        positive(option, value)
    problems: dict[str, str] = {}
    train, held_out = (
        list(read_words(part, option, problems))
        for part, option in ((shards, "--shards"), (val_shards, "--val_shards"))
    )
    report(problems)
    table = [OTHER, *(word for word, _ in Counter(train).most_common(codes - 1))]
    counts = {}
    for name, found, step in (("train", train, hop), ("val", held_out, length)):
        if len(found) < length:
            raise ValueError(f"the {name} texts have {len(found)} words, fewer than `--length` ({length}).")
        samples = list(windows(found, table, length, step))
        write_shards(out, f"words-{name}", samples, per_shard)
        counts[name] = len(samples)
    mark = hashlib.blake2b(json.dumps([table, length]).encode(), digest_size=8).hexdigest()
    write_json(Path(out) / "words.json", table)
    write_tokens_json(
        out, tokenizer=mark, K=length, codebook_size=len(table), order="raster", transform=f"windows of {length} words",
        source=", ".join(shards), kind="words",
    )  # fmt: skip
    known = 100 * sum(word in set(table) for word in held_out) / len(held_out)
    print(f"{counts['train']} and {counts['val']} windows, {len(table)} codes; {known:.1f} % of held-out words known")
