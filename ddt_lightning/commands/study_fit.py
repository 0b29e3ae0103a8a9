"""`ddt study fit`: the map that scores how well drawings fit their prompts."""


def fit(
    shards: list[str],
    *,
    out: str,
    val_shards: list[str],
    image_size: int = 64,
    backbone: str = "efficientnet_lite0",
    minilm: str = "minilm",
    device: str = "auto",
) -> None:
    """Fit a score of how well images fit texts on captioned images, between EfficientNet-Lite0 and MiniLM.

    Args:
        shards: captioned image shards to fit on.
        out: folder for fit.safetensors and fit.json, its card.
        val_shards: held-out ones, for its card.
        image_size: side of the drawings that it is to score; the images are brought to it.
        backbone: weights of EfficientNet-Lite0, or `efficientnet_lite0` of `make judges`.
        minilm: folder of MiniLM, or `minilm` of `make judges`.
        device: where the networks run: auto, cpu, cuda, mps.

    Raises:
        FileNotFoundError: a shard or a network is missing.
        ValueError: the shards hold no captions.
    """
    from ddt_lightning.atomic import staged
    from ddt_lightning.evaluation.scorers import load_pair
    from ddt_lightning.inputs import positive
    from ddt_lightning.studies.image_text import read_captioned, run

    side = positive("image_size", image_size)
    pair = load_pair(backbone, minilm, device)
    data = read_captioned(shards, "shards", side)
    held_out = read_captioned(val_shards, "--val_shards", side)
    with staged(out) as folder:
        card = run(pair, data, held_out, side, folder)
    for name, one in card["scores"].items():
        print(f"{name}: {one['value']:.3f} ({one['protocol']})")
    print(f"{card['name']} is in {out}; `ddt eval prompts --fit {out}/fit.safetensors` uses it.")
