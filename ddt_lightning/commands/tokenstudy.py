"""`ddt study progressive|interpolate`: what the tokens of trained tokenizers carry, side by side, as pictures."""

from pathlib import Path

from ddt_lightning.commands.options import Decoding, Drawing

DRAWING, DECODING = Drawing(), Decoding()


def progressive(
    *,
    models: list[str],
    out: str,
    shards: list[str] | str | None = None,
    prompts: str | None = None,
    chat: bool = True,
    images: int = 64,
    points: int = 32,
    shown: int = 4,
    lpips: str | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int = 32,
    drawing: Drawing = DRAWING,
) -> None:
    """Decode images from their first t tokens, for growing t: pictures, animation, scores against t.

    Where the decoder is a flow, also what the visible tokens are worth in one step from the true x_t, at every t. The
    same call goes on where it was stopped.

    Args:
        models: model folders, or runs of a tokenizer, each as FOLDER or NAME=FOLDER.
        out: folder for progressive.json, progressive*.png and progressive.gif.
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
    from ddt_lightning.commands.files import positive, read_prompts
    from ddt_lightning.studies import progressive as study
    from ddt_lightning.studies import progressive_figures
    from ddt_lightning.studies.side_by_side import open_models, originals

    plan = study.Plan(points, shown, seed, batch, lpips, drawing)
    asked = [] if prompts is None else read_prompts(prompts)
    patterns = [shards] if isinstance(shards, str) else shards or []
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
    study.write_progress(outcomes, plan, source, len(truth), drawings, folder)
    for one in outcomes:
        if one.falls is not None:
            ends = [f"{one.psnr[at]['value']:.2f} dB from the first {one.counts[at]}" for at in (0, -1)]
            falls = f"the error falls in {100 * one.falls['value']:.0f} % of the steps"
            print(f"{one.name}: {', '.join(ends)} of {one.tokens} tokens; {falls}")
    print(f"Everything is in {out}; `ddt report {out}` makes a page of it.")


def interpolate(
    *,
    models: list[str],
    out: str,
    shards: list[str] | str | None = None,
    pairs: int = 64,
    shares: list[float] | None = None,
    shown: int = 4,
    seed: int = 0,
    device: str = "auto",
    batch: int = 32,
    decoding: Decoding = DECODING,
) -> None:
    """Replace the first tokens of images by those of others: pictures, and whether regions or everything changes.

    The same call goes on where it was stopped.

    Args:
        models: model folders, or runs of a tokenizer, each as FOLDER or NAME=FOLDER.
        out: folder for interpolation.json and interpolation*.png.
        shards: image shards to take images from; held-out scenes if not given.
        pairs: how many pairs of images, each image in one pair.
        shares: of the tokens to replace; eighths and quarters if not given.
        shown: how many pairs the pictures show.
        seed: of the scenes and of the decoder's noise.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: pairs at a time.
        decoding: how to decode.
    """
    from ddt_lightning.commands.files import positive
    from ddt_lightning.studies import interpolation as study
    from ddt_lightning.studies import interpolation_figures
    from ddt_lightning.studies.side_by_side import open_models, originals

    plan = study.Plan(shares or [0.125, 0.25, 0.5, 0.75, 0.875], shown, seed, batch, decoding)
    patterns = [shards] if isinstance(shards, str) else shards or []
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
    study.write_mixing(outcomes, plan, source, len(images), drawings, folder)
    for one in outcomes:
        told = ", ".join("-" if score is None else f"{score['value']:.2f}" for score in one.spread)
        print(f"{one.name}: spread of the change {told} at shares {', '.join(map(str, plan.shares))}")
    print(f"Everything is in {out}; `ddt report {out}` makes a page of it.")
