"""`ddt eval geneval`: GenEval's prompts drawn, or images of others, scored by a detector and CLIP of local folders.

Out: `geneval/` with the images in the official layout and `results.jsonl` with the official rows, which GenEval's own
`summary_scores.py` reads; `geneval.json` (cards) and `geneval.png` (a contact sheet). The detector is a transformers
Mask2Former and not the mmdetection file of the paper, so the result is "GenEval (HF detector)".
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.scorers import check_scorers, record_scorers
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, pick_device, positive, progress
from ddt_lightning.metrics.cards import Card, card, mean_card
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from PIL import Image

    from ddt_lightning.evaluation.geneval_folder import Drawn
    from ddt_lightning.metrics.geneval_photos import PhotoChecker

OFFICIAL = "${DDT_DATA}/geneval/evaluation_metadata.jsonl"
AGREE = 0.95  # of the self-test's decisions
COLUMNS = 4  # images of a prompt on the sheet


def geneval(
    *,
    out: str,
    detector: str,
    clip: str,
    images: str | None = None,
    prompts: str = OFFICIAL,
    samples: int = 4,
    selftest: str | None = None,
    chat: bool = True,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw GenEval's prompts and score them by a Mask2Former and CLIP: GenEval (HF detector).

    Args:
        out: folder for geneval.json, geneval.png and geneval/ with the images and results.jsonl.
        detector: folder of a transformers Mask2Former of COCO, such as facebook/mask2former-swin-small-coco-instance.
        clip: folder of a transformers CLIP; GenEval's is openai/clip-vit-large-patch14.
        images: folder of images in GenEval's layout to score; drawn by the model if not given.
        prompts: GenEval's evaluation_metadata.jsonl, or a file like it.
        samples: how many images to draw for each prompt.
        selftest: a results.jsonl in a folder of GenEval's layout whose decisions the detector must repeat.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seed: of the images and of the shuffled baseline.
        processes: worker processes that draw, each with its share of the cores.
        loading: which model; its device is also the detector's.
        drawing: how to draw.
    """
    from ddt_lightning.evaluation.geneval_folder import read_folder
    from ddt_lightning.metrics.geneval import overall_card, read_metadata

    check_scorers({"detector": detector, "clip": clip})
    session = None if images else Session(loading, drawing, processes, seed)
    asked = [] if images else read_metadata(os.path.expandvars(prompts))
    check_classes(asked or [one.metadata for one in read_folder(str(images))])
    checker = load_checker(detector, clip, loading.device)
    tested = self_test(checker, selftest)
    if session is not None:
        draw(session, Path(out), asked, positive("samples", samples), chat)
    root = Path(images or Path(out) / "geneval")
    drawn = read_folder(root)
    rows, others, numbers = evaluate_images(checker, root, drawn, seed)

    cards = {**score_cards(rows, protocol(drawn, detector, clip)), **tested}
    cards["geneval_hf/objects_per_image"] = mean_card(numbers, "self-test: objects with a score above 0.3 in an image")
    if others:
        text = "baseline: the same images against another prompt of their tag"
        cards["geneval_hf/floor_shuffled"] = overall_card(others, text)
    record_scorers(cards.values(), {"detector": checker.detector, "clip": checker.colours.clip})
    settings = {
        "images": str(images or f"{samples} drawn for each prompt"),
        "prompts": len({one.prompt for one in drawn}),
    }
    shown = ["geneval_hf/overall", "geneval_hf/correct_images", "geneval_hf/objects_per_image"]
    pictures = files_of(root, drawn, rows)
    if session is not None:
        settings["chat"] = chat
        number = len(asked) * samples
        session.write(out, Outcome("geneval", cards, shown, settings, number, len(rows), pictures=pictures))
    else:
        outcome = Outcome("geneval", cards, shown, settings, len(drawn), len(rows), pictures=pictures)
        outcome.write(out, {"seed": "of the images", "weights": {}, "settings": {}})


def load_checker(detector: str, clip: str, device: str) -> "PhotoChecker":
    """The detector and CLIP on a device."""
    from ddt_lightning.metrics.detection import Detector
    from ddt_lightning.metrics.embeddings import Clip
    from ddt_lightning.metrics.geneval_photos import PhotoChecker

    place = pick_device(device)
    return PhotoChecker(Detector(detector, place), Clip(clip, place))


def check_classes(prompts: Sequence[dict[str, Any]]) -> None:
    """Fail if a prompt names an object that the detector has no class for, as its images would only be wrong.

    Raises:
        ValueError: naming such a class.
    """
    from ddt_lightning.metrics.detection import NAMES

    for prompt in prompts:
        for entry in (*prompt["include"], *prompt.get("exclude", [])):
            if entry["class"] not in NAMES:
                raise ValueError(f"GenEval's detector has no class {entry['class']!r} ({prompt['prompt']}).")


def draw(session: Session, out: Path, asked: Sequence[dict[str, Any]], samples: int, chat: bool) -> None:
    """Draw every prompt into `out/geneval`, whole or not at all.

    Raises:
        ValueError: it holds images already.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.evaluation.geneval_folder import write_prompt, write_sample

    if any((out / "geneval").glob("[0-9]*")):
        raise ValueError(f"`--out` ({out}) has images in geneval/: score them by `--images`, or name another folder.")
    items = [(prompt["prompt"], session.sample_seed(n * samples + k)) for n, prompt in enumerate(asked)
             for k in range(samples)]  # fmt: skip
    several = 4 * session.size * session.processes  # images in memory at a time
    with staged(out / "geneval") as folder:
        for number, metadata in enumerate(asked):
            write_prompt(folder, number, metadata)
        for start in range(0, len(items), several):
            found = session.run(predictions.draw_prompts, items[start : start + several], chat)
            for at, result in enumerate(found, start):
                write_sample(folder, at // samples, at % samples, result["image"])


def evaluate_images(
    checker: "PhotoChecker", root: Path, drawn: Sequence["Drawn"], seed: int | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[int]]:
    """Find the objects in the images of a folder and evaluate them by their prompts.

    Args:
        checker: detector and CLIP.
        root: the folder.
        drawn: its images.
        seed: of the other prompts; None for none.

    Returns:
        Their official rows; their rows as answers to other prompts, empty also where a tag has one prompt only; and
        how many objects were found in each.
    """
    from ddt_lightning.evaluation.geneval_folder import read_photo
    from ddt_lightning.metrics.geneval import demand, rows, shuffled

    prompts = [one.metadata for one in drawn]
    asked: dict[str, set[tuple[Any, ...]]] = {}
    for prompt in prompts:
        asked.setdefault(prompt["tag"], set()).add(demand(prompt))
    several = all(len(demands) > 1 for demands in asked.values())
    others = shuffled(prompts, seed=seed) if several and seed is not None else []
    objects, swapped, numbers = [], [], []
    for n, one in enumerate(progress(drawn, "detecting")):
        image = read_photo(root / one.file)
        found = checker.detect(image)
        numbers.append(len(found.labels))
        objects.append(checker.objects(image, found, one.metadata))
        if others:
            swapped.append(checker.objects(image, found, others[n]))
    files = [one.file for one in drawn]
    return rows(objects, prompts, filenames=files), rows(swapped, others, filenames=files), numbers


def self_test(checker: "PhotoChecker", selftest: str | None) -> dict[str, Card]:
    """Repeat the decisions of a results.jsonl on the images beside it, and print how many are the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: fewer than 95 % of the decisions are the same: the detector does not work as it did there.
    """
    from ddt_lightning.evaluation.geneval_folder import Drawn
    from ddt_lightning.metrics.geneval_photos import agreement

    if selftest is None:
        print("detector self-test: none; `--selftest RESULTS` repeats the decisions of a results.jsonl on its images")
        return {}
    path = Path(selftest)
    if not path.is_file():
        raise FileNotFoundError(f"`--selftest` ({selftest}) is not a file.")
    stored = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    drawn = [Drawn("/".join(Path(row["filename"]).parts[-3:]), json.loads(row["metadata"])) for row in stored]
    ours, _, _ = evaluate_images(checker, path.parent, drawn)
    same = [mine["correct"] == row["correct"] for mine, row in zip(ours, stored, strict=True)]
    cards = {"geneval_hf/selftest_decisions": mean_card(same, f"self-test: decisions as in {path.name}")}
    boxes = agreement(ours, stored)
    text = f"self-test: F1 of boxes of one class with IoU from 0.5, against {path.name}"
    cards["geneval_hf/selftest_boxes"] = card(boxes, len(same), text)
    share = cards["geneval_hf/selftest_decisions"]["value"]
    print(f"detector self-test: {sum(same)} of {len(same)} decisions as stored, F1 of boxes {boxes:.3f}")
    if share < AGREE:
        raise ValueError(
            f"`--selftest` ({selftest}): only {share:.0%} of the decisions are the same, {AGREE:.0%} are needed: "
            "check the weights of `--detector` and `--clip`."
        )
    return cards


def protocol(drawn: Sequence["Drawn"], detector: str, clip: str) -> str:
    """The protocol of the scores, in words."""
    from ddt_lightning.metrics.detection import LIMIT, LONG_SIDE, SHORT_SIDE
    from ddt_lightning.metrics.geneval_photos import COUNTING_THRESHOLD, MAX_OBJECTS, THRESHOLD

    counts = Counter(one.prompt for one in drawn)
    number = "-".join(str(count) for count in sorted({min(counts.values()), max(counts.values())}))
    return (
        f"GenEval (HF detector): GenEval's rules on {len(counts)} prompts, {number} images each; objects by the "
        f"Mask2Former {Path(detector).name} at {LONG_SIDE} x {SHORT_SIDE}, {LIMIT} (query, class) pairs, scores above "
        f"{THRESHOLD} (counting {COUNTING_THRESHOLD}), {MAX_OBJECTS} of a class, no NMS; colours by the "
        f"CLIP {Path(clip).name} in float32; the detector has other weights than GenEval's: no exact comparison"
    )


def score_cards(rows: Sequence[dict[str, Any]], rule: str) -> dict[str, Card]:
    """The official summary's figures as cards."""
    from ddt_lightning.metrics.geneval import tag_cards, totals
    from ddt_lightning.metrics.intervals import wilson

    cards, everything = tag_cards("geneval_hf", rows, rule), totals(rows)
    for name, number in (("images", len(rows)), ("prompts", int(everything["prompts"]))):
        share = everything[f"correct_{name}"]
        text = f"{rule}; share of {name}{' with a correct image' if name == 'prompts' else ' that are correct'}"
        cards[f"geneval_hf/correct_{name}"] = card(share, number, text, wilson(round(share * number), number))
    return cards


def files_of(root: Path, drawn: Sequence["Drawn"], rows: Sequence[dict[str, Any]]) -> Callable[[Path], None]:
    """A function that writes the contact sheet and the official rows into a folder."""

    def write(folder: Path) -> None:
        sheet_of(root, drawn, rows).save(folder / "geneval.png")
        (folder / "geneval").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "geneval" / "results.jsonl").write_text(lines, encoding="utf-8")

    return write


def sheet_of(root: Path, drawn: Sequence["Drawn"], rows: Sequence[dict[str, Any]]) -> "Image.Image":
    """The contact sheet: some prompts of every tag with their first images, chosen without a look at the scores."""
    from ddt_lightning.evaluation.galleries import SHOWN, spread
    from ddt_lightning.evaluation.geneval_folder import read_photo
    from ddt_lightning.report.contact_sheet import Row, sheet

    asked: dict[str, list[int]] = {}
    for n, one in enumerate(drawn):
        asked.setdefault(one.prompt, []).append(n)
    chosen = spread([{"tag": rows[at[0]]["tag"], "at": at} for at in asked.values()], "tag", SHOWN)
    lines = []
    for at in (item["at"] for item in chosen):
        note = f"{rows[at[0]]['tag']}: {sum(rows[n]['correct'] for n in at)} of {len(at)} right"
        lines.append(Row(rows[at[0]]["prompt"], [read_photo(root / drawn[n].file) for n in at[:COLUMNS]], note))
    return sheet(lines)
