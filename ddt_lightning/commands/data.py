"""`ddt data scenes|chat|check|stats`: make the embedded world's shards, or shards of chats; look through any shards.

In: numbers of samples, JSON Lines, or shards. Out: shard files (`data/README.md` says what is in them), or lines about
them.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CAPTIONS = 4  # captions of each image: one costs nothing and a language model sees more of the language
FEWEST = 8  # training shards of each kind at least, so that lanes and processes have shards of their own
LISTED = 50  # problems that `check` names


def scenes(
    out: str,
    *,
    images: int = 20_000,
    edits: int = 10_000,
    questions: int = 10_000,
    text: int = 5_000,
    val: int = 512,
    side: int = 64,
    per_shard: int = 1_000,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Make shards of the embedded world: images, edits, questions and lines of text, for training and validation.

    The same seed gives the same bytes, whatever the number of workers. Held-out combinations are never in training;
    `prompts.jsonl` asks for them.

    Args:
        out: folder of the shards; shards of the same kinds in it are replaced.
        images: captioned images for training.
        edits: pairs of images with an instruction for training.
        questions: images with a question and its answer for training.
        text: lines of text for training.
        val: samples of each kind for validation.
        side: side of the images in pixels.
        per_shard: samples in a shard at most.
        seed: of everything drawn.
        workers: processes.

    Raises:
        ValueError: a number is too small.
    """
    from ddt_lightning.commands.staging import staged
    from ddt_lightning.commands.workers import run_tasks
    from ddt_lightning.scenes.suite import suite
    from ddt_lightning.shards.write import parts

    counts = {"images": images, "edits": edits, "questions": questions, "text": text}
    for option, value, least in [*((k, v, 0) for k, v in counts.items()), ("val", val, 0), ("side", side, 8)]:
        if value < least:
            raise ValueError(f"`--{option}` ({value}) must be at least {least}.")
    for option, value in {"per_shard": per_shard, "workers": workers}.items():
        if value < 1:
            raise ValueError(f"`--{option}` ({value}) must be at least 1.")
    if not any(counts.values()):
        raise ValueError("`--images`, `--edits`, `--questions` and `--text` are all 0: nothing to make.")
    with staged(out) as folder:
        tasks = []
        for kind, count in counts.items():
            for split, wanted in {"train": count, "val": val if count else 0}.items():
                shards = max(-(-wanted // per_shard), min(FEWEST, wanted) if split == "train" else 0)
                for number, part in enumerate(parts(wanted, shards)):
                    tasks.append((str(folder / f"{kind}-{split}-{number:06d}.tar"), kind, split, part, side, seed))
        prompts = (json.dumps(prompt) + "\n" for prompt in suite())
        (folder / "prompts.jsonl").write_text("".join(prompts))
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
    from ddt_lightning.shards.conversations import read_lines

    for option, path in {"lines": Path(lines), "images": Path(images)}.items():
        if not (path.is_file() if option == "lines" else path.is_dir()):
            raise FileNotFoundError(f"`{option}` ({path}) does not exist.")
    problems: dict[str, str] = {}
    write_chats(read_lines(lines, problems), images, out, name, per_shard, problems)


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


def write_scenes(path: str, kind: str, split: str, numbers: range, side: int, seed: int) -> str:
    """Write the shard of the given sample numbers; each sample depends on kind, split, seed and its number alone."""
    from ddt_lightning.shards.write import write_tar

    write_tar(Path(path), (make_sample(kind, split, n, side, seed) for n in numbers))
    return path


def make_sample(kind: str, split: str, n: int, side: int, seed: int) -> dict[str, Any]:
    """Sample `n` of a kind of shard, as `write_tar` takes it."""
    from ddt_lightning.scenes import suite
    from ddt_lightning.scenes.language import caption
    from ddt_lightning.scenes.render import render
    from ddt_lightning.seeding import numpy_rng

    rng = numpy_rng("shard", seed, kind, split, n)
    train, key = split == "train", {"__key__": f"{n:06d}"}
    if kind == "text":
        return {**key, "txt": suite.train_text(rng)}
    if kind == "images":
        scene = suite.train_scene(rng) if train else suite.val_scene(rng)
        texts = list(dict.fromkeys(caption(scene, rng) for _ in range(CAPTIONS)))
        data = {"caption": texts[0], "captions": texts, "scene": scene.to_dict()}
        return {**key, "png": png(render(scene, side)), "txt": texts[0], "json": data}
    if kind == "edits":
        edit = suite.train_edit(rng) if train else suite.val_edit(rng)
        pair = {"source.png": png(render(edit.source, side)), "target.png": png(render(edit.target, side))}
        data = {"kind": edit.kind, "source": edit.source.to_dict(), "target": edit.target.to_dict()}
        return {**key, **pair, "txt": edit.instruction, "json": data}
    asked = suite.train_question(rng) if train else suite.val_question(rng)
    data = {"question": asked.question, "answers": [asked.answer], "kind": asked.kind, "scene": asked.scene.to_dict()}
    return {**key, "png": png(render(asked.scene, side)), "json": data}


def png(image: Any) -> bytes:  # noqa: ANN401 - numpy is not imported for --help
    """A uint8 `[H, W, 3]` array as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Facts:
    """What a scan of some shards found."""

    samples: int = 0
    members: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Facts") -> None:
        """Count what `other` counted, too."""
        self.samples += other.samples
        self.texts += other.texts
        for mine, theirs in ((self.members, other.members), (self.sizes, other.sizes), (self.ids, other.ids)):
            mine.update(theirs)  # type: ignore[arg-type]
        self.codes.update(other.codes)
        self.words.update(other.words)


def check(shards: list[str]) -> None:
    """Read every sample of some shards: pairing, decoding, sizes, counts. Ends with exit code 1 if one is bad.

    Args:
        shards: shards of any kind: images, edits, questions, tokens, conversations, texts; patterns are fine.

    Raises:
        FileNotFoundError: a shard or a match is missing.
        ValueError: samples that cannot be used.
    """
    total = Facts()
    problems: dict[str, str] = {}
    for url, facts, found in scan(shards):
        total.add(facts)
        problems.update(found)
        bad = f", {len(found)} bad" if found else ""
        print(f"{url}: {facts.samples} samples{bad}; {listed(facts.sizes)}{listed(facts.ids)}{layout(facts)}")
    for sample, reason in list(problems.items())[:LISTED]:
        print(f"  {sample}: {reason}")
    print(f"{total.samples} samples, {sum(total.sizes.values())} images, {total.texts} texts, {len(problems)} bad")
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


def scan(shards: list[str]) -> Iterator[tuple[str, Facts, dict[str, str]]]:
    """Each shard with what is in it and its problems (sample or shard name -> reason)."""
    from tqdm import tqdm

    from ddt_lightning.shards.read import UNREADABLE, expand, members, name, read_shard
    from ddt_lightning.shards.stream import one_line

    for url in tqdm(expand(shards, "shards"), desc="shards", disable=None):
        facts = Facts()
        problems: dict[str, str] = {}
        layouts: dict[str, tuple[str, ...]] = {}
        for record in read_shard(url, problems):
            facts.samples += 1
            if name(record) in layouts:
                problems[name(record)] = "its key is there twice"
            layouts[name(record)] = tuple(sorted(members(record)))
            try:
                scan_sample(record, facts)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
        facts.members.update(layouts.values())
        if not facts.samples:
            problems.setdefault(url, "no sample in it")
        usual = facts.members.most_common(1)[0][0] if facts.members else ()
        for sample, found in layouts.items():
            missing = sorted(set(usual) - set(found))
            if missing:
                problems.setdefault(sample, f"lacks {', '.join(missing)}, which most samples have")
        yield url, facts, problems


def scan_sample(record: dict[str, Any], facts: Facts) -> None:
    """Decode one sample completely and count what is in it.

    Raises:
        ValueError: it holds neither an image nor image ids nor a text, or turns that point to images it lacks.
    """
    import numpy as np

    from ddt_lightning.shards.conversations import check_turns
    from ddt_lightning.shards.images import decode_image, numbered
    from ddt_lightning.shards.read import Columns, image_member, read_json
    from ddt_lightning.shards.rows import read_ids, texts_of

    columns = Columns()
    found = [image_member(record, columns, role) for role in ("image", "source", "target")]
    shots = numbered(record)
    if shots:
        check_turns((read_json(record) or {}).get("turns"), len(shots))
    for member in filter(None, [*found, *shots]):
        height, width = decode_image(record[member]).shape[:2]
        facts.sizes[f"{width}x{height}"] += 1
    if (found[1] is None) != (found[2] is None):
        raise ValueError("has a source without a target, or a target without a source")
    texts = texts_of(record, columns)
    facts.texts += len(texts)
    for text in texts:
        facts.words.update(text.lower().split())
    if "ids.npy" in record:
        ids = read_ids(record)
        facts.ids[f"{len(ids)} x {ids.shape[1]} ids"] += 1
        codes, counts = np.unique(ids, return_counts=True)
        facts.codes.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        data = read_json(record)
        shown = [
            part["image"]
            for turn in (data.get("turns", []) if isinstance(data, dict) else [])
            for part in turn["content"]
            if not isinstance(part, str)
        ]
        if shown and max(shown) >= len(ids):
            raise ValueError(f"shows image {max(shown)} of {len(ids)}")
    elif not any(found) and not texts:
        raise ValueError("has no image, no image ids and no text")


def listed(counts: Counter[str]) -> str:
    """The most frequent kinds of something, with a separator behind; nothing where there is none."""
    return "".join(f"{count} x {kind}; " for kind, count in counts.most_common(3))


def layout(facts: Facts) -> str:
    """The usual members of a shard's samples."""
    return " ".join(facts.members.most_common(1)[0][0]) if facts.members else ""
