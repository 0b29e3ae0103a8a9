"""TODO ddt_lightning.commands.study_language."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from ddt_lightning.studies.base import check_all, conclude, listed, run_checked


def order(
    *,
    out: str = "runs/study-order",
    config: str = "stages/study-order.yaml",
    sets: list[str] | str | None = None,
    orders: list[str] | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    text: bool = True,
    plan: bool = False,
) -> None:
    """Train one small language model on ids in several orders: what shuffling tokens costs, by tokenizer.

    Args:
        out: folder for README.md (the protocol), study.md, findings.json, study.png, penalty.png and the runs.
        config: the study, a YAML file.
        sets: pairs name=FOLDER of token shards (train/ and val/, or images-train-*.tar and images-val-*.tar), not the
            file's.
        orders: natural, reversed, stride-N, random; instead of the file's.
        steps: optimizer steps of each run.
        seeds: of each run.
        jobs: runs at a time, instead of the file's.
        text: whether words are studied beside the sets.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from ddt_lightning.studies import order as study_of

    pairs = [sets] if isinstance(sets, str) else sets
    named = study_of.from_pairs(pairs) if pairs else None
    changed = {"sets": named, "orders": orders, "steps": steps, "seeds": seeds, "jobs": jobs}
    study = study_of.OrderStudy.read(config, {**changed, "words": None if text else {}})
    folder = Path(out)
    runs = study_of.plan(study, folder)
    if listed(runs, plan):
        return
    study_of.write_protocol(study, folder)
    failed = run_checked(runs, folder, study.jobs)
    scores = study_of.collect(study, folder)
    if scores:
        study_of.draw(study, scores, folder)
    conclude(study_of.findings(study, scores, failed), folder)


def scaling(
    *,
    out: str = "runs/study-scaling",
    config: str = "stages/study-scaling.yaml",
    shards: str | None = None,
    tokenizer: str | None = None,
    renderer: str | None = None,
    score: bool | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    plan: bool = False,
) -> None:
    """Train language models of several sizes, score them along their training, and fit a power law to the losses.

    Args:
        out: folder for study.md, findings.json, study.png, grid.png and the runs.
        config: the study, a YAML file.
        shards: folder of token shards (images-train-*.tar, images-val-*.tar), instead of the file's.
        tokenizer: run or folder of the image tokenizer that made the ids, instead of the file's; `none` draws nothing.
        renderer: run or folder of its renderer, instead of the file's, which is for the file's tokenizer; `none` draws
            by diffusion.
        score: draw and score all prompts of the suite at every checkpoint, not only a few to look at.
        steps: optimizer steps of each run.
        seeds: of each size.
        jobs: runs at a time, instead of the file's.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from dataclasses import replace

    from ddt_lightning.plans.recipes import overlaid
    from ddt_lightning.studies import scaling as study_of
    from ddt_lightning.studies import scaling_figures

    changed = {"tokenizer": tokenizer, "renderer": renderer, "score": score, "steps": steps, "seeds": seeds}
    study = study_of.ScalingStudy.read(config, {**changed, "jobs": jobs})
    if tokenizer == "none":
        study = replace(study, tokenizer=None)
    if renderer == "none" or (tokenizer is not None and renderer is None):
        study = replace(study, renderer=None)
    if shards is not None:
        named = {"shards": [f"{shards}/images-train-*.tar"], "val_shards": [f"{shards}/images-val-*.tar"]}
        study = replace(study, settings=overlaid(study.settings, {"data": named}))
    folder = Path(out)
    runs = study_of.plan(study, folder)
    if listed(runs, plan):
        return
    failed = run_checked(runs, folder, study.jobs)
    points = study_of.collect(study, folder)
    if points:
        scaling_figures.draw(study, points, folder)
    conclude(study_of.findings(study, points, failed), folder)


def text(
    *,
    out: str = "runs/study-text",
    config: str = "stages/study-text.yaml",
    sets: list[str] | str | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    plan: bool = False,
) -> None:
    """Train the same model on text alone and on the same text with images: what images do to held-out text.

    Args:
        out: folder for study.md, findings.json, study.png and the runs.
        config: the study, a YAML file.
        sets: pairs name=FOLDER of token shards (train/, or images-train-*.tar) of the same images, not the file's.
        steps: optimizer steps of each run.
        seeds: of each run.
        jobs: runs at a time, instead of the file's.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from ddt_lightning.studies import text as study_of
    from ddt_lightning.studies.order import from_pairs

    pairs = [sets] if isinstance(sets, str) else sets
    named = {name: shards["shards"] for name, shards in from_pairs(pairs).items()} if pairs else None
    study = study_of.MixtureStudy.read(config, {"sets": named, "steps": steps, "seeds": seeds, "jobs": jobs})
    folder = Path(out)
    runs = study_of.plan(study, folder)
    if listed(runs, plan):
        return
    study_of.make_text_tokenizer(study, folder)
    failed = run_checked(runs, folder, study.jobs)
    final, curves = study_of.collect(study, folder)
    if final:
        study_of.draw(study, final, curves, folder)
    conclude(study_of.findings(study, final, failed), folder)


def against(
    *,
    out: str = "runs/study-against",
    config: str = "stages/study-against.yaml",
    tokenizers: list[str] | str | None = None,
    renderers: list[str] | str | None = None,
    shards: str | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    plan: bool = False,
) -> None:
    """Train the same language model on the ids of several image tokenizers, and compare what it draws and edits.

    Args:
        out: folder for study.md, findings.json, study.png, draw.png, edit.png, the token shards and the runs.
        config: the study, a YAML file.
        tokenizers: pairs name=FOLDER of tokenizer runs, instead of the file's; the first one is the reference.
        renderers: pairs name=FOLDER of the renderer runs of those that have one, instead of the file's.
        shards: folder of `ddt data scenes`, instead of the file's.
        steps: optimizer steps of each pretraining.
        seeds: of each tokenizer's language model.
        jobs: runs at a time, instead of the file's.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
        ValueError: the tokenizers spend different bits on an image.
    """
    from ddt_lightning.studies import against as study_of
    from ddt_lightning.studies.order import split_pair

    def named(pairs: list[str] | str | None, option: str) -> dict[str, str]:
        return dict(split_pair(pair, option) for pair in ([pairs] if isinstance(pairs, str) else pairs or []))

    changed: dict[str, Any] = {"shards": shards, "steps": steps, "seeds": seeds, "jobs": jobs}
    if tokenizers:  # the file's renderers are of the file's tokenizers
        changed |= {"tokenizers": named(tokenizers, "--tokenizers"), "renderers": {}}
    if renderers:
        changed["renderers"] = named(renderers, "--renderers")
    study = study_of.AgainstStudy.read(config, changed)
    folder = Path(out)
    encodings, runs = study_of.encodings(study, folder), study_of.plan(study, folder)
    if listed([*encodings, *runs], plan):
        return
    check_all([*encodings, *runs], folder)
    if failed := run_checked(encodings, folder):
        raise RuntimeError(f"encoding failed ({'; '.join(failed.values())}); see {out}/logs.")
    bits = study_of.check_bits(study, folder)
    failed = run_checked(runs, folder, study.jobs)
    scores = study_of.collect(study, folder)
    if scores:
        study_of.draw(study, scores, folder)
    conclude(study_of.findings(study, scores, bits, failed), folder)


def classes(
    *,
    out: str = "runs/study-classes",
    config: str = "stages/study-classes.yaml",
    steps: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    plan: bool = False,
) -> None:
    """Train the same language model on photos of classes through several tokenizers, and compare what it draws.

    Args:
        out: folder for study.md, findings.json, classes.png and the runs.
        config: the study, a YAML file.
        steps: optimizer steps of each pretraining.
        seeds: of each tokenizer's language model.
        jobs: runs at a time, instead of the file's.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from ddt_lightning.studies import classes as study_of

    study = study_of.ClassStudy.read(config, {"steps": steps, "seeds": seeds, "jobs": jobs})
    folder = Path(out)
    runs = study_of.plan(study, folder)
    if listed(runs, plan):
        return
    failed = run_checked(runs, folder, study.jobs)
    study_of.draw(study, folder)
    conclude(study_of.findings(study, study_of.collect(study, folder), failed), folder)
