"""`ddt eval reconstruction`: images through the tokenizer and back."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddt_lightning.atomic import write_json
from ddt_lightning.evaluation.held_out import held_out, scenes_measured
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.judges import find_judge
from ddt_lightning.metrics.cards import Card, card, mean_card
from ddt_lightning.sampling import Decoding, Sampling


def reconstruction(
    *,
    out: str,
    images: int = 256,
    shards: list[str] | None = None,
    tokens: list[int] | None = None,
    prefix_images: int = 64,
    lpips: str | None = None,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    decoding: Decoding = Decoding(),
) -> None:
    """Measure the tokenizer: PSNR, SSIM, seams, PSNR by number of first tokens, error by noise level, codebook usage.

    Args:
        out: folder for reconstruction.json, reconstruction.png and samples.
        images: how many held-out images.
        shards: image shards to take them from; held-out scenes if not given.
        tokens: numbers of first tokens; quarters of all tokens if not given.
        prefix_images: how many images to decode from fewer tokens.
        lpips: torchvision's weights of AlexNet or VGG-16, or `alexnet` or `vgg16` of `make judges`, for LPIPS; without
            them it is left out.
        seen: scenes of combinations that training shows.
        seed: of the scenes and of the decoder's noise.
        processes: worker processes, each with its share of the cores.
        loading: which model; one with a tokenizer only will do.
        decoding: how to decode.
    """
    from ddt_lightning.evaluation import galleries, predictions

    number, first = positive("images", images), positive("prefix_images", prefix_images)
    lpips = find_judge(lpips, "--lpips")
    session = Session(loading, Sampling(**asdict(decoding)), processes, seed, llm=False, files={"lpips": lpips})
    model = session.facts["model"]
    total = model["tokens"]
    counts = tokens if tokens is not None else sorted({max(1, total * part // 4) for part in (1, 2, 3)})
    if any(not 0 <= count <= total for count in counts):
        raise ValueError(f"`--tokens` ({counts}) must lie between 0 and the tokenizer's {total}.")
    problems: dict[str, str] = {}
    sources = held_out(shards, number, session.image_size, seed, seen, problems)
    items = [(source, session.sample_seed(n)) for n, source in enumerate(sources)]
    found = session.run(predictions.reconstruct_images, items[:first], counts, lpips)
    found += session.run(predictions.reconstruct_images, items[first:], [], lpips)

    usage = galleries.codebook([r["ids"] for r in found], model["codebook_size"])
    where = f"images of {', '.join(shards)}" if shards else scenes_measured(seen)
    cards = quality_cards(found, found[:first], sorted({*counts, total}), where, "decoder" in model)
    cards |= codebook_cards(usage, len(found), model["codebook_size"])

    def pictures(folder: Path) -> None:
        galleries.reconstructions(folder, found[:8])
        write_json(folder / "samples" / "codebook.json", usage)

    settings = {"images": len(found), "source": where}
    shown = ["tokenizer/psnr", "tokenizer/codebook_usage"]
    measured = len(found)
    outcome = Outcome("reconstruction", cards, shown, settings, number, measured, "images", problems, pictures)
    session.write(out, outcome)


def quality_cards(
    found: Sequence[dict[str, Any]], partly: Sequence[dict[str, Any]], counts: Sequence[int], where: str, rendered: bool
) -> dict[str, Card]:
    """Scores of reconstructions.

    Args:
        found: results of `reconstruct_images` for all images.
        partly: those that were also decoded from fewer tokens.
        counts: numbers of first tokens, ending with all.
        where: the images in words.
        rendered: whether whole images were drawn in one step by a renderer.
    """
    from ddt_lightning.evaluation.similarity import similarity_cards

    total = counts[-1]
    how = ", drawn in one step by the renderer" if rendered else ""
    protocol = f"mean over {where} of the PSNR of each uint8 image against the raw original, in dB{how}"
    cards = {"tokenizer/psnr": mean_card([r["psnr"][total] for r in found], protocol)}
    for n in counts:
        values = [r["psnr"][n] for r in partly]  # the same images for every N
        text = f"decoded from the first {n} tokens{' by diffusion' if rendered and n < total else ''}"
        cards[f"tokenizer/psnr@{n}"] = mean_card(values, f"as tokenizer/psnr, {text}")
    cards |= similarity_cards("tokenizer/", found, ("psnr_vae_ref", "ssim", "lpips", "seams"))
    for band in found[0]["errors"]:
        text = f"squared error of the x0 seen in one step from held-out x_t at {band} noise, in units of the latents"
        cards[f"tokenizer/x0_error_{band}_noise"] = mean_card([r["errors"][band] for r in found], text)
    return cards


def codebook_cards(usage: dict[str, Any], images: int, codes: int) -> dict[str, Card]:
    """Usage and perplexity of the codes over some images."""
    text = f"exp(entropy) of the code frequencies, of {codes} codes"
    return {
        "tokenizer/codebook_usage": card(usage["usage"], images, "share of the codes that the images' ids use"),
        "tokenizer/codebook_perplexity": card(usage["perplexity"], images, text),
    }
