"""`ddt study NAME`: experiments that train their own models, as tables and pictures."""

from pathlib import Path

from ddt_lightning.sampling import Decoding, Sampling
from ddt_lightning.studies.against import AgainstStudy
from ddt_lightning.studies.base import conclude, run_study
from ddt_lightning.studies.classes import ClassStudy
from ddt_lightning.studies.composition import CompositionStudy
from ddt_lightning.studies.order import OrderStudy
from ddt_lightning.studies.renderers import RendererStudy
from ddt_lightning.studies.scaling import ScalingStudy
from ddt_lightning.studies.schedule import ScheduleStudy
from ddt_lightning.studies.text import TextStudy


def schedule(study: ScheduleStudy, *, out: str = "runs/study-schedule", plan: bool = False) -> None:
    """Train short tokenizer runs over axes of settings and compare them: table, chart and pictures.

    The same call goes on where it was stopped; a run that is done with the same settings is not run again.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, study.png, pictures.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def renderers(study: RendererStudy, *, out: str = "runs/study-renderers", plan: bool = False) -> None:
    """Train short runs of a tokenizer's one-step decoder over axes of settings and losses, and compare their pictures.

    The same call goes on where it was stopped; a run that is done with the same settings is not run again.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, pictures.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        FileNotFoundError: there is no tokenizer.
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def order(study: OrderStudy, *, out: str = "runs/study-order", plan: bool = False) -> None:
    """Train one small language model on ids in several orders: what shuffling tokens costs, by tokenizer.

    Args:
        study: runs and settings.
        out: folder for README.md (the protocol), study.md, findings.json, study.png, penalty.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def scaling(study: ScalingStudy, *, out: str = "runs/study-scaling", plan: bool = False) -> None:
    """Train language models of several sizes, score them along their training, and fit a power law to the losses.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, study.png, grid.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def text(study: TextStudy, *, out: str = "runs/study-text", plan: bool = False) -> None:
    """Train the same model on text alone and on the same text with images: what images do to held-out text.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, study.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def against(study: AgainstStudy, *, out: str = "runs/study-against", plan: bool = False) -> None:
    """Train the same language model on the ids of several image tokenizers, and compare what it draws and edits.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, study.png, draw.png, edit.png, the token shards and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
        ValueError: the tokenizers spend different bits on an image.
    """
    run_study(study, out, plan)


def composition(study: CompositionStudy, *, out: str = "runs/study-composition", plan: bool = False) -> None:
    """Train language models on variants of data and loss, and compare what they draw that training never showed.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, study.png, the shards, the ids and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def classes(study: ClassStudy, *, out: str = "runs/study-classes", plan: bool = False) -> None:
    """Train the same language model on photos of classes through several tokenizers, and compare what it draws.

    Args:
        study: runs and settings.
        out: folder for study.md, findings.json, classes.png and the runs.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    run_study(study, out, plan)


def encoder(
    *,
    out: str,
    shards: list[str] | None = None,
    val_shards: list[str] | None = None,
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
        seed: of weights, pictures and corruptions.
        check: pictures that the card's figures are measured on; twice as many set the features' scale.

    Raises:
        ValueError: the photos have no classes, or the held-out ones are too few.
    """
    from ddt_lightning.atomic import staged
    from ddt_lightning.studies.picture_encoder import EncoderStudy, Task, run
    from ddt_lightning.studies.picture_encoder_photos import Photos
    from ddt_lightning.studies.picture_encoder_scenes import Scenes

    study = EncoderStudy(steps, batch, lr, seed, check)
    task: Task = Scenes()
    if shards or val_shards:
        if not shards or not val_shards:
            raise ValueError("`--shards` and `--val_shards` go together: photos to learn from, and held-out ones.")
        photos = Photos(shards, val_shards)
        if len(photos.held_out) < 2 * check:
            raise ValueError(
                f"`--check` ({check}) needs {2 * check} held-out photos, and `--val_shards` hold "
                f"{len(photos.held_out)}: check fewer."
            )
        task = photos
    with staged(out) as folder:
        name = run(study, task, folder)
    print(f"{name} is in {out}; `ddt eval distribution --encoder {out}/encoder.safetensors` uses it.")


def report(run: str, *, out: str | None = None) -> None:
    """Write one self-contained HTML page about a run.

    Args:
        run: run folder, such as runs/demo, or that of one stage.
        out: HTML file; RUN/report.html if not given.
    """
    from ddt_lightning.report.report import write_report

    print(write_report(run, out))


def progressive(
    *,
    models: list[str],
    out: str,
    shards: list[str] | None = None,
    prompts: str | None = None,
    chat: bool = True,
    images: int = 64,
    points: int = 32,
    shown: int = 4,
    lpips: str | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int = 32,
    drawing: Sampling = Sampling(),
) -> None:
    """Decode images from their first t tokens, for growing t: pictures, animation, scores against t.

    Where the decoder is a flow, also what the visible tokens are worth in one step from the true x_t, at every t. The
    same call goes on where it was stopped.

    Args:
        models: model folders, or runs of a tokenizer, each as FOLDER or NAME=FOLDER.
        out: folder for study.md, findings.json, progressive*.png and progressive.gif.
        shards: image shards to take images from; held-out scenes if not given.
        prompts: a prompt, or a .txt or .jsonl file of them: follow what the first model with a language model draws for
            them instead of images; the other models encode these drawings. Pictures only.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        images: how many to measure on.
        points: numbers of first tokens, evenly spaced up to all.
        shown: how many images the pictures show.
        lpips: torchvision's AlexNet or VGG-16 weights, for LPIPS beside PSNR and SSIM.
        seed: of the scenes and of the decoder's noise.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: images at a time.
        drawing: how the language model draws, and how to decode.
    """
    from ddt_lightning.inputs import positive
    from ddt_lightning.prompts import read_prompts
    from ddt_lightning.studies import progressive as study
    from ddt_lightning.studies import progressive_figures
    from ddt_lightning.studies.side_by_side import open_models, originals

    plan = study.Plan(points, shown, seed, batch, lpips, drawing)
    asked = [] if prompts is None else read_prompts(prompts)
    patterns = shards or []
    number = positive("images", images)
    if asked and patterns:
        raise ValueError("`--prompts` and `--shards` exclude each other: what is drawn, or what is there.")
    opened = open_models(models, device, draws=bool(asked))
    folder = Path(out)
    drawn = None
    if asked:
        artist = next(one for one in opened if one.draws)
        drawn, truth = study.draw(artist, asked, chat, plan, folder)
        source = f"What {artist.name} draws for: {', '.join(asked[:shown])}{', ...' if len(asked) > shown else ''}"
    else:
        truth = originals(patterns, number, opened[0].pipeline.image_size, seed)
        source = f"{len(truth)} {'images of ' + ', '.join(patterns) if patterns else 'held-out scenes'}"
    results = [study.follow(one, truth, drawn if one.draws else None, not asked, plan, folder) for one in opened]
    outcomes, arrays = [one for one, _ in results], [found for _, found in results]
    drawings = progressive_figures.figures(outcomes, arrays, truth, folder)
    conclude(study.findings(outcomes, plan, source, len(truth), drawings), folder)


def interpolate(
    *,
    models: list[str],
    out: str,
    shards: list[str] | None = None,
    pairs: int = 64,
    shares: list[float] | None = None,
    shown: int = 4,
    seed: int = 0,
    device: str = "auto",
    batch: int = 32,
    decoding: Decoding = Decoding(),
) -> None:
    """Replace the first tokens of images by those of others: pictures, and whether regions or everything changes.

    The same call goes on where it was stopped.

    Args:
        models: model folders, or runs of a tokenizer, each as FOLDER or NAME=FOLDER.
        out: folder for study.md, findings.json and interpolation*.png.
        shards: image shards to take images from; held-out scenes if not given.
        pairs: how many pairs of images, each image in one pair.
        shares: of the tokens to replace; eighths and quarters if not given.
        shown: how many pairs the pictures show.
        seed: of the scenes and of the decoder's noise.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: pairs at a time.
        decoding: how to decode.
    """
    from ddt_lightning.inputs import positive
    from ddt_lightning.studies import interpolation as study
    from ddt_lightning.studies import interpolation_figures
    from ddt_lightning.studies.side_by_side import open_models, originals

    plan = study.Plan(shares or [0.125, 0.25, 0.5, 0.75, 0.875], shown, seed, batch, decoding)
    patterns = shards or []
    number = positive("pairs", pairs)
    opened = open_models(models, device)
    images = originals(patterns, 2 * number, opened[0].pipeline.image_size, seed)
    if len(images) < 2:
        raise ValueError(f"`--shards` ({', '.join(patterns)}) hold {len(images)} image; a pair needs two.")
    images = images[: len(images) // 2 * 2].unflatten(0, (-1, 2))  # [pairs, 2, 3, H, W]
    folder = Path(out)
    results = [study.mix(one, images, plan, folder) for one in opened] + study.pixels(images, plan)
    outcomes, arrays = [one for one, _ in results], [found for _, found in results]
    drawings = interpolation_figures.figures(outcomes, arrays, plan.shares, folder)
    source = f"images of {', '.join(patterns)}" if patterns else "held-out scenes"
    conclude(study.findings(outcomes, plan, source, len(images), drawings), folder)
