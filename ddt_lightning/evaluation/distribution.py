"""`ddt eval distribution`: how far a set of pictures lies from a reference, as cards.

What is measured: reconstructions of the reference (of Inception's features rFID, key `tokenizer/rfid`), a model's
drawings for the reference's prompts (`t2i/gfid`), or a folder of pictures (`pictures/gfid`). Beside Inception, or
without its weights, the scene encoder gives `FD-<hash>`, a distance of its own that is never called FID. Everything is
rounded to uint8 first, as a PNG would hold it.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, Networks, positive
from ddt_lightning.metrics.cards import Card, card, file_hashes, write_cards
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 2048
"""Images without which Inception's 2,048 features have no covariance of full rank."""


def distribution(
    *,
    out: str,
    made: Literal["reconstructions", "drawings"] = "reconstructions",
    generated: str | None = None,
    reference: list[str] | str | None = None,
    images: int = 1000,
    side: int = 0,
    chat: bool = True,
    few: bool = False,
    subsets: int = 100,
    subset_size: int = 1000,
    neighbours: int = 3,
    strict: bool = False,
    seed: int = 0,
    processes: int = 2,
    networks: Networks = Networks(),
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Measure how far reconstructions, drawings or a folder of pictures are from a reference: FID, KID, FD-<hash>.

    Args:
        out: folder for distribution-NAME.json.
        made: what the model makes: reconstructions of the reference, or drawings for its prompts.
        generated: folder of pictures to measure instead of a model.
        reference: image shards, or a folder of pictures; held-out scenes if not given.
        images: how many of the reference, and of the pictures, at most.
        side: of all pictures in pixels; the model's, or that of the first generated picture, if 0.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        few: report FID of fewer than 2,048 pictures too; such a number means little.
        subsets: random subsets for the kernel distance.
        subset_size: pictures in each; half of them where there are fewer than twice as many.
        neighbours: k of precision and recall.
        strict: end with an error where the file of `--inception` is missing, instead of leaving its scores out.
        seed: of scenes, prompts and drawings.
        processes: worker processes, each with its share of the cores.
        networks: what looks at the pictures.
        loading: which model.
        drawing: how to draw, and to decode.
    """
    where = [reference] if isinstance(reference, str) else reference or []
    for option, value in (("images", images), ("subsets", subsets), ("neighbours", neighbours)):
        positive(option, value)
    if side < 0 or (side and generated is None):
        raise ValueError(f"`--side` ({side}) is for a folder of pictures; a model has a side of its own.")
    from ddt_lightning.metrics.picture_encoder import SHIPPED

    encoder, inception = networks.encoder or str(SHIPPED), find_inception(networks.inception, strict)
    networks = replace(networks, encoder=encoder, inception=inception)
    measure = {"subsets": subsets, "subset_size": subset_size, "neighbours": neighbours}
    sizes: dict[str, Any] = {"reference": ", ".join(where) or "held-out scenes", **measure}
    if generated is not None:
        pictures(Path(out), generated, where, images, side, few, seed, networks, loading, sizes)
        return
    session = Session(loading, drawing, processes, seed, llm=made == "drawings", files=asdict(networks))
    from ddt_lightning.evaluation import picture_features
    from ddt_lightning.evaluation.similarity import likeness_cards

    drawn = made == "drawings"
    found: list[dict[str, Any]] = []
    asked = picture_features.references(where, images, int(session.facts["model"]["image_size"]), seed)
    for part in picture_features.chunks(asked, picture_features.CHUNK):
        if drawn and any(picture.prompt is None for picture in part):
            raise ValueError(f"`--reference` ({sizes['reference']}) has pictures without a caption to draw from.")
        items = [(picture, session.sample_seed(len(found) + n)) for n, picture in enumerate(part)]
        if drawn:
            found += session.run(picture_features.draw, items, networks, chat)
        else:
            found += session.run(picture_features.reconstruct, items, networks)
    if not found:
        raise ValueError(f"`--reference` ({sizes['reference']}) holds no readable picture.")
    first, second = (picture_features.joined([row[side] for row in found]) for side in ("generated", "reference"))
    prefix, letter = ("t2i/", "g") if drawn else ("tokenizer/", "r")
    what = "drawings for the prompts of the reference" if drawn else "reconstructions of the same pictures"
    cards = distance_cards(prefix, letter, what, first, second, few, sizes)
    if not drawn:
        cards |= {key.replace("/", "/paired_"): one for key, one in likeness_cards(prefix, found).items()}
    sizes = {**sizes, "images": len(found), "chat": chat} if drawn else {**sizes, "images": len(found)}
    with staged(out) as folder:
        session.finish(folder, f"distribution-{made}", cards, sizes)
    say_all(out, prefix, cards)


def pictures(
    out: Path,
    generated: str,
    where: list[str],
    images: int,
    side: int,
    few: bool,
    seed: int,
    networks: Networks,
    loading: Loading,
    sizes: dict[str, Any],
) -> None:
    """The same for a folder of pictures; arguments as in `distribution`."""
    from ddt_lightning.evaluation import picture_features
    from ddt_lightning.inputs import pick_device

    weights = file_hashes(asdict(networks))
    paths = picture_features.picture_files(generated)[:images]
    side = side or picture_features.side_of(paths[0])
    device, batch = pick_device(loading.device), positive("batch", loading.batch)
    first = picture_features.folder_features(networks, device, paths, side, batch)
    asked = picture_features.references(where, images, side, seed)
    second = picture_features.picture_features(networks, device, asked, side, batch)
    sizes = {
        **sizes,
        "generated": generated,
        "images": len(paths),
        "image_size": side,
        "device": device,
        "batch": batch,
    }
    what = f"the pictures of {generated} at {side} pixels"
    cards = distance_cards("pictures/", "g", what, first, second, few, sizes)
    seeds = f"{seed}: scene n from (what, {seed}, n); the pictures' own are not known here"
    with staged(out) as folder:
        shared = {"seed": seeds, "weights": weights, "settings": sizes}
        write_cards(folder / "distribution-pictures.json", cards, shared)
    say_all(str(out), "pictures/", cards)


def find_inception(path: str | None, strict: bool) -> str | None:
    """The path if there is such a file; otherwise one line about what is left out.

    Raises:
        FileNotFoundError: the file is missing and `strict`.
    """
    if path is not None and Path(path).is_file():
        return path
    reason = "`--inception` names no weights" if path is None else f"`--inception` ({path}) does not exist"
    if strict:
        raise FileNotFoundError(f"{reason}: name torch-fidelity's Inception weights.")
    print(f"no FID and KID: {reason}")
    return None


def distance_cards(
    prefix: str,
    letter: str,
    what: str,
    generated: "dict[str, Tensor]",
    reference: "dict[str, Tensor]",
    few: bool,
    sizes: dict[str, Any],
) -> dict[str, Card]:
    """The cards of every network: Frechet and kernel distance, precision and recall, and the distance of two halves.

    Args:
        prefix: of the keys.
        letter: `r` of reconstructions, `g` of other pictures, before `fid` and `kid`.
        what: the generated pictures, in words.
        generated: features by network.
        reference: features by network.
        few: report FID of fewer than 2,048 pictures.
        sizes: settings: `subsets`, `subset_size`, `neighbours`, `reference`.
    """
    from ddt_lightning.metrics import distribution as measure

    cards: dict[str, Card] = {}
    against = f"{what}; reference {sizes['reference']}"
    against += "; pictures that are read are cut to the centred square and brought to the side by Lanczos, in uint8"
    for network, first in generated.items():
        second = reference[network]
        number = min(len(first), len(second))
        inception = network == "inception"
        seen = "Inception 2048, torch-fidelity's weights and resizing" if inception else f"encoder {network}"
        frechet, kernel = (f"{letter}fid", f"{letter}kid") if inception else (network, network.replace("FD", "KD"))
        of = "" if inception else network.removeprefix("FD")
        least = FEWEST if inception and not few else first.shape[1] + 1 if not inception else 2
        text = f"Frechet distance of {seen}: {against}; 95 % by a jackknife over ten groups"
        if number >= least:
            found = measure.frechet_estimate(first, second)
            cards[prefix + measure.label(frechet, number)] = card(found.value, number, text, found.interval)
        else:
            print(f"no {prefix}{frechet}: {number} pictures are fewer than {least}{', see `--few`' * inception}")
        if len(second) // 2 >= least:
            one, other = second[::2], second[1::2]
            text = f"Frechet distance of {seen} between two halves of the reference: what small sets alone make of it"
            key = f"{prefix}halves/{measure.label(frechet, len(other))}"
            cards[key] = card(measure.frechet(one, other), len(other), text)
        if number < max(4, sizes["neighbours"] + 1):
            print(f"no {prefix}{kernel}, precision and recall: {number} pictures are too few")
            continue
        taken = measure.subset_size(number, sizes["subset_size"])
        found = measure.kernel_estimate(first, second, subsets=sizes["subsets"], size=sizes["subset_size"])
        text = f"kernel distance (cubic polynomial MMD^2, not x 1000) of {seen}: {against}; mean of {sizes['subsets']} "
        cards[prefix + kernel] = card(found.value, number, f"{text}subsets of {taken}", found.interval)
        shares = measure.precision_recall(first, second, neighbours=sizes["neighbours"])
        for name, share, count in zip(("precision", "recall"), shares, (len(first), len(second)), strict=True):
            text = f"{name} by {sizes['neighbours']} nearest neighbours in features of {seen}: {against}"
            cards[f"{prefix}{name}{of}"] = card(
                share.value, count, f"{text}; 95 % over its pictures only", share.interval
            )
    return cards


def say_all(out: str, prefix: str, cards: dict[str, Card]) -> None:
    """Every distance, and where the cards are."""
    shown = [
        f"{key} {one['value']:.4g}" for key, one in cards.items() if key.startswith(prefix) and "halves" not in key
    ]
    print(f"{', '.join(shown)}; everything in {out}")
