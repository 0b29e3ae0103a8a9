"""`ddt eval reconstruction|t2i|all`: a model folder to scores with intervals, ceilings and floors.

Everything is measured on held-out scenes (combinations that no training scene, edit or question shows) drawn from the
seed; with `--seen true` on scenes of combinations that training shows, which tells what is learned from what is made
of it. Out, in one folder that the verbs may share, edit, vqa and caption (`evaluate_edit.py`, `evaluate_text.py`) too:
`NAME.json` (cards), `NAME.png` (a contact sheet), `samples/` (images and an index for the report), and of t2i the
images and rows in GenEval's official layout. Prompts, edits, questions and captions go through the chat format of an
instruct model, all with one decode setting.
"""

import json
from dataclasses import asdict
from typing import Any

from ddt_lightning.commands.cards import Card, card, mean_card
from ddt_lightning.commands.evaluate_edit import edit
from ddt_lightning.commands.evaluate_text import caption, vqa
from ddt_lightning.commands.files import positive
from ddt_lightning.commands.options import Decoding, Drawing, Loading
from ddt_lightning.commands.scoring import Session, held_out, say, scenes_measured
from ddt_lightning.commands.staging import staged, write_json

LOADING, DRAWING, DECODING = Loading(), Drawing(), Decoding()


def reconstruction(
    *,
    out: str,
    images: int = 256,
    shards: list[str] | str | None = None,
    tokens: list[int] | None = None,
    prefix_images: int = 64,
    lpips: str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = LOADING,
    decoding: Decoding = DECODING,
) -> None:
    """Measure the tokenizer: PSNR and SSIM, PSNR by number of first tokens, error by noise level, codebook usage.

    Args:
        out: folder for reconstruction.json, reconstruction.png and samples.
        images: how many held-out images.
        shards: image shards to take them from; held-out scenes if not given.
        tokens: numbers of first tokens; quarters of all tokens if not given.
        prefix_images: how many images to decode from fewer tokens.
        lpips: torchvision's weights of AlexNet or VGG-16, for LPIPS; without them it is left out.
        seen: scenes of combinations that training shows.
        seed: of the scenes and of the decoder's noise.
        processes: worker processes, each with its share of the cores.
        loading: which model; one with a tokenizer only will do.
        decoding: how to decode.
    """
    session = Session(loading, Drawing(**asdict(decoding)), processes, seed, llm=False, files={"lpips": lpips})
    from ddt_lightning.commands import gallery, likeness

    patterns = [shards] if isinstance(shards, str) else shards or []
    side = session.facts["model"]["image_size"] if patterns else 0
    sources = held_out(patterns, positive("images", images), side, seed, seen)
    total, codes = (session.facts["model"][name] for name in ("tokens", "codebook_size"))
    counts = tokens if tokens is not None else sorted({max(1, total * part // 4) for part in (1, 2, 3)})
    if any(not 0 <= count <= total for count in counts):
        raise ValueError(f"`--tokens` ({counts}) must lie between 0 and the tokenizer's {total}.")
    items = [(source, session.sample_seed(n)) for n, source in enumerate(sources)]
    first = positive("prefix_images", prefix_images)
    found = session.run("reconstruct_images", items[:first], (counts, lpips))
    found += session.run("reconstruct_images", items[first:], ([], lpips))

    where = scenes_measured(seen) if not patterns else f"images of {', '.join(patterns)}"
    rendered = "decoder" in session.facts["model"]
    how = ", drawn in one step by the renderer" if rendered else ""
    protocol = f"mean over {where} of the PSNR of each uint8 image against the raw original, in dB{how}"
    cards = {"tokenizer/psnr": mean_card([r["psnr"][total] for r in found], protocol)}
    for n in sorted({*counts, total}):
        values = [r["psnr"][n] for r in found[:first]]  # the same images for every N
        text = f"decoded from the first {n} tokens{' by diffusion' if rendered and n < total else ''}"
        cards[f"tokenizer/psnr@{n}"] = mean_card(values, f"as tokenizer/psnr, {text}")
    cards |= likeness.likeness_cards("tokenizer/", found, ("psnr_vae_ref", "ssim", "lpips"))
    for band in found[0]["errors"]:
        text = f"squared error of the x0 seen in one step from held-out x_t at {band} noise, in units of the latents"
        cards[f"tokenizer/x0_error_{band}_noise"] = mean_card([r["errors"][band] for r in found], text)
    usage = gallery.codebook([r["ids"] for r in found], codes)
    cards["tokenizer/codebook_usage"] = card(usage["usage"], len(found), "share of the codes that the images' ids use")
    text = f"exp(entropy) of the code frequencies, of {codes} codes"
    cards["tokenizer/codebook_perplexity"] = card(usage["perplexity"], len(found), text)
    with staged(out) as folder:
        gallery.reconstructions(folder, found[:8])
        write_json(folder / "samples" / "codebook.json", usage)
        session.finish(folder, "reconstruction", cards, {"images": len(found), "source": where})
    say(out, cards, "tokenizer/psnr", "tokenizer/codebook_usage")


def t2i(
    *,
    out: str,
    images: int = 4,
    prompts: int = 0,
    chat: bool = True,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = LOADING,
    drawing: Drawing = DRAWING,
) -> None:
    """Draw the suite's prompts and score them by GenEval's rules with the shapes checker (shapes-GenEval).

    Args:
        out: folder for t2i.json, t2i.png, results.jsonl and the images.
        images: how many for each prompt.
        prompts: how many prompts of each tag, evenly spaced over the tag; 0 for all.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seen: prompts of combinations that training shows, of all six tags.
        seed: of the images and of the ground-truth scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.
    """
    session = Session(loading, drawing, processes, seed)
    from ddt_lightning.commands import gallery
    from ddt_lightning.metrics import geneval
    from ddt_lightning.scenes.suite import suite, truth
    from ddt_lightning.seeding import numpy_rng

    chosen = gallery.spread(suite(seen), "tag", prompts) if prompts else suite(seen)
    asked = [(prompt, sample) for prompt in chosen for sample in range(positive("images", images))]
    items = [
        (
            prompt["prompt"],
            truth(prompt, numpy_rng("eval truth", seed, prompt["prompt"], n), seen),
            session.sample_seed(i),
        )
        for i, (prompt, n) in enumerate(asked)
    ]
    found = session.run("draw_prompts", items, (chat,))

    metadata = [prompt for prompt, _ in asked]
    names = [f"t2i/{i // images:05d}/samples/{i % images:04d}.png" for i in range(len(asked))]
    rows = geneval.rows([r["drawn"] for r in found], metadata, filenames=names)
    layout = geneval.rows([r["drawn"] for r in found], metadata, ignore_kind=True)
    rule = (
        "shapes-GenEval: GenEval's rules on a classical shapes checker, prompts of combinations "
        f"{'that training shows' if seen else 'held out'}, {images} images a prompt, mean over images"
    )
    cards: dict[str, Card] = {}
    for tag, value in geneval.summary(rows).items():
        spread = geneval.intervals(rows)[tag]
        number = len(rows) if tag == "overall" else sum(row["tag"] == tag for row in rows)
        text = f"{rule}; mean of the tags" if tag == "overall" else rule
        cards[f"t2i/shapes_geneval/{tag}"] = card(value, number, text, spread)

    def overall(key: str, results: list[dict], protocol: str) -> None:
        spread = geneval.intervals(results)["overall"]
        cards[key] = card(geneval.summary(results)["overall"], len(results), protocol, spread)
        cards[key]["by_tag"] = geneval.summary(results)

    other = geneval.shuffled(metadata, seed=seed)
    no_circle = [i for i, prompt in enumerate(metadata) if all(e["class"] != "circle" for e in prompt["include"])]
    overall("t2i/ceiling_render", geneval.rows([r["render"] for r in found], metadata), "renders of the ground truth")
    overall(
        "t2i/ceiling_tokenizer",
        geneval.rows([r["reconstruction"] for r in found], metadata),
        "the tokenizer's reconstructions of the ground truth's renders: the bound of everything drawn through it",
    )
    overall(
        "t2i/floor_shuffled",
        geneval.rows([r["drawn"] for r in found], other),
        "the drawn images scored against another prompt of their tag",
    )
    overall(
        "t2i/floor_circles",
        geneval.rows([found[i]["circles"] for i in no_circle], [metadata[i] for i in no_circle]),
        "ground truth with every shape drawn as a circle, prompts that name no circle",
    )
    overall("t2i/colour_layout/overall", layout, f"{rule}, the kind of the shapes ignored; mean of the tags")
    overall(
        "t2i/colour_layout/floor_shuffled",
        geneval.rows([r["drawn"] for r in found], other, ignore_kind=True),
        "colour_layout of the drawn images against another prompt of their tag",
    )
    with staged(out) as folder:
        gallery.prompts(folder, rows, [r["image"] for r in found], images)
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        session.finish(
            folder, "t2i", cards, {"images_per_prompt": images, "prompts": len(chosen), "chat": chat, "seen": seen}
        )
    say(out, cards, "t2i/shapes_geneval/overall", "t2i/colour_layout/overall", "t2i/ceiling_tokenizer")


def everything(
    *,
    out: str,
    images: int = 256,
    shards: list[str] | str | None = None,
    prompt_images: int = 4,
    edits: int = 126,
    questions: int = 250,
    captions: int = 128,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = LOADING,
    drawing: Drawing = DRAWING,
) -> None:
    """All five evaluations with one set of workers, which load the model once.

    Args:
        out: folder for everything.
        images: as in `ddt eval reconstruction`.
        shards: as there.
        prompt_images: images for each prompt of `ddt eval t2i`.
        edits: as in `ddt eval edit`.
        questions: as in `ddt eval vqa`.
        captions: as in `ddt eval caption`.
        seen: combinations that training shows, in place of held-out ones, everywhere.
        seed: of everything.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.
    """
    shared: dict[str, Any] = {"out": out, "seen": seen, "seed": seed, "processes": processes, "loading": loading}
    t2i(**shared, images=prompt_images, drawing=drawing)
    decoding = Decoding(drawing.steps, drawing.decode_guidance)
    reconstruction(**shared, images=images, shards=shards, decoding=decoding)
    edit(**shared, edits=edits, drawing=drawing)
    vqa(**shared, questions=questions, drawing=drawing)
    caption(**shared, captions=captions, drawing=drawing)
