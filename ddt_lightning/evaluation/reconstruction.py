"""`ddt eval reconstruction`: images through the tokenizer and back."""

from dataclasses import asdict

from ddt_lightning.atomic import staged, write_json
from ddt_lightning.evaluation.session import Session, held_out, say, scenes_measured
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import card, mean_card
from ddt_lightning.sampling import Decoding, Sampling


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
    loading: Loading = Loading(),
    decoding: Decoding = Decoding(),
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
    from ddt_lightning.evaluation import predictions

    session = Session(loading, Sampling(**asdict(decoding)), processes, seed, llm=False, files={"lpips": lpips})
    from ddt_lightning.evaluation import galleries, similarity

    patterns = [shards] if isinstance(shards, str) else shards or []
    side = session.facts["model"]["image_size"] if patterns else 0
    sources = held_out(patterns, positive("images", images), side, seed, seen)
    total, codes = (session.facts["model"][name] for name in ("tokens", "codebook_size"))
    counts = tokens if tokens is not None else sorted({max(1, total * part // 4) for part in (1, 2, 3)})
    if any(not 0 <= count <= total for count in counts):
        raise ValueError(f"`--tokens` ({counts}) must lie between 0 and the tokenizer's {total}.")
    items = [(source, session.sample_seed(n)) for n, source in enumerate(sources)]
    first = positive("prefix_images", prefix_images)
    found = session.run(predictions.reconstruct_images, items[:first], counts, lpips)
    found += session.run(predictions.reconstruct_images, items[first:], [], lpips)

    where = scenes_measured(seen) if not patterns else f"images of {', '.join(patterns)}"
    rendered = "decoder" in session.facts["model"]
    how = ", drawn in one step by the renderer" if rendered else ""
    protocol = f"mean over {where} of the PSNR of each uint8 image against the raw original, in dB{how}"
    cards = {"tokenizer/psnr": mean_card([r["psnr"][total] for r in found], protocol)}
    for n in sorted({*counts, total}):
        values = [r["psnr"][n] for r in found[:first]]  # the same images for every N
        text = f"decoded from the first {n} tokens{' by diffusion' if rendered and n < total else ''}"
        cards[f"tokenizer/psnr@{n}"] = mean_card(values, f"as tokenizer/psnr, {text}")
    cards |= similarity.likeness_cards("tokenizer/", found, ("psnr_vae_ref", "ssim", "lpips"))
    for band in found[0]["errors"]:
        text = f"squared error of the x0 seen in one step from held-out x_t at {band} noise, in units of the latents"
        cards[f"tokenizer/x0_error_{band}_noise"] = mean_card([r["errors"][band] for r in found], text)
    usage = galleries.codebook([r["ids"] for r in found], codes)
    cards["tokenizer/codebook_usage"] = card(usage["usage"], len(found), "share of the codes that the images' ids use")
    text = f"exp(entropy) of the code frequencies, of {codes} codes"
    cards["tokenizer/codebook_perplexity"] = card(usage["perplexity"], len(found), text)
    with staged(out) as folder:
        galleries.reconstructions(folder, found[:8])
        write_json(folder / "samples" / "codebook.json", usage)
        session.finish(folder, "reconstruction", cards, {"images": len(found), "source": where})
    say(out, cards, "tokenizer/psnr", "tokenizer/codebook_usage")
