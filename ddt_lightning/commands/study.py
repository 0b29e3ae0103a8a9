"""`ddt study NAME`: experiments that train their own models, as tables and pictures."""

from pathlib import Path
from typing import Literal


def schedule(
    *,
    out: str = "runs/study-schedule",
    config: str = "stages/study-schedule.yaml",
    configs: list[str] | None = None,
    axes: list[str] | str | None = None,
    grid: Literal["one", "full"] | None = None,
    only: list[str] | str | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    images: int | None = None,
    plan: bool = False,
) -> None:
    """Train short tokenizer runs over axes of settings and compare them: table, chart and pictures.

    The same call goes on where it was stopped; a run that is done with the same settings is not run again.

    Args:
        out: folder for study.md, study.json, study.png, pictures.png and the runs.
        config: the study, a YAML file; any settings of `ddt-fit tokenizer` can be its axes.
        configs: `ddt-fit` YAML files that every run starts from, instead of the study's.
        axes: which axes to use; the others stay as the configs have them.
        grid: one axis at a time from the reference, or the full product of the axes.
        only: names of variants to run now; the table shows all that are done.
        steps: optimizer steps of each run.
        seeds: of each variant; the measured images stay the same.
        images: how many held-out images to measure on.
        plan: list the variants and their settings, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from ddt_lightning.studies import ablation, ablation_figures, ablation_table

    def listed(words: list[str] | str | None) -> list[str] | None:
        return [words] if isinstance(words, str) else words

    changed = {"configs": configs, "grid": grid, "steps": steps, "seeds": seeds}
    study = ablation.Study.read(config, changed, listed(axes), images)
    variants = ablation.chosen(ablation.plan(study), listed(only))
    if plan:
        for variant in variants:
            print(f"{variant.name}: {', '.join(f'{axis} {name}' for axis, name in variant.choices.items())}")
        return
    folder = Path(out)
    failed = ablation.run_all(study, variants, folder)
    outcomes = ablation_table.collect(study, folder)
    ablation_table.write_outcomes(study, outcomes, failed, folder)
    text = ablation_table.markdown(study, outcomes, failed)
    (folder / "study.md").write_text(text, encoding="utf-8")
    if outcomes:
        ablation_figures.chart(study, outcomes, folder / "study.png")
        ablation_figures.pictures(study, outcomes, folder)
    print(f"\n{text}\nEverything is in {out}; `ddt report {out}` makes a page of it.")
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed ({', '.join(failed)}); their output is in {out}/logs.")


def encoder(
    *,
    out: str,
    shards: list[str] | str | None = None,
    val_shards: list[str] | str | None = None,
    steps: int = 800,
    batch: int = 48,
    lr: float = 2e-3,
    seed: int = 0,
    check: int = 1000,
) -> None:
    """Train the small network for distances between sets of pictures, scenes or labelled photos.

    Args:
        out: folder for encoder.safetensors and encoder.json, its card.
        shards: photos whose captions are classes, to learn from; rendered scenes if not given.
        val_shards: such photos held out.
        steps: optimizer steps.
        batch: pictures in a step.
        lr: largest learning rate.
        seed: of weights, pictures and damage.
        check: pictures that the card's figures are measured on; twice as many set the features' scale.

    Raises:
        ValueError: the photos have no classes, or the held-out ones are too few.
    """
    from ddt_lightning.commands.staging import staged
    from ddt_lightning.studies.encoder import EncoderStudy, Lesson, run
    from ddt_lightning.studies.encoder_photos import Photos
    from ddt_lightning.studies.encoder_scenes import Scenes

    study = EncoderStudy(steps, batch, lr, seed, check)
    lesson: Lesson = Scenes()
    if shards or val_shards:
        named = [[part] if isinstance(part, str) else part or [] for part in (shards, val_shards)]
        if not all(named):
            raise ValueError("`--shards` and `--val_shards` go together: photos to learn from, and held-out ones.")
        lesson = Photos(*named)
        if len(lesson.held_out) < 2 * check:
            raise ValueError(
                f"`--check` ({check}) needs {2 * check} held-out photos, and `--val_shards` hold "
                f"{len(lesson.held_out)}: check fewer."
            )
    with staged(out) as folder:
        name = run(study, lesson, folder)
    print(f"{name} is in {out}; `ddt eval distribution --encoder {out}/encoder.safetensors` uses it.")
