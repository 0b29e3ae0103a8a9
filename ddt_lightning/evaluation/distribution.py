"""`ddt eval distribution`: the distance between a set of pictures and a reference set, as cards.

Three kinds of sets are measured: reconstructions of the reference (with Inception's features rFID, key
`tokenizer/rfid`), a model's drawings for the reference's captions (`t2i/gfid`), or a folder of pictures
(`pictures/gfid`). Beside Inception, or without its weights, the scene encoder gives `FD-<hash>`, a distance of its own
that is never called FID. Everything is rounded to uint8 first, as a PNG would hold it.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddt_lightning.evaluation.distance_cards import Estimation, distance_cards
from ddt_lightning.evaluation.outcome import Outcome, because
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, Networks, chunks, positive
from ddt_lightning.metrics.cards import Card, file_hashes
from ddt_lightning.sampling import Sampling

if TYPE_CHECKING:
    from ddt_lightning.evaluation.picture_features import Features


@dataclass(frozen=True)
class Pictures:
    """The two sets of pictures to compare.

    Args:
        made: what the model makes: reconstructions of the reference, or drawings for its captions.
        generated: folder of pictures to measure instead of a model.
        reference: image shards, or a folder of pictures; held-out scenes if not given.
        images: how many of the reference, and of the pictures, at most.
        side: of all pictures in pixels; the model's, or that of the first generated picture, if 0.
        chat: ask in the chat format of an instruct model; false for a pretrained one.

    Raises:
        ValueError: a number is out of range.
    """

    made: Literal["reconstructions", "drawings"] = "reconstructions"
    generated: str | None = None
    reference: list[str] | None = None
    images: int = 1000
    side: int = 0
    chat: bool = True

    def __post_init__(self) -> None:
        positive("images", self.images)
        if self.side < 0 or (self.side and self.generated is None):
            raise ValueError(f"`--side` ({self.side}) is for a folder of pictures; a model has a side of its own.")

    @property
    def source(self) -> str:
        """The reference in words."""
        return ", ".join(self.reference or []) or "held-out scenes"


@dataclass(frozen=True)
class Measured:
    """Features of a set of pictures and of its reference.

    Args:
        prefix: of the keys of their cards.
        letter: `r` for reconstructions, `g` for other pictures, before `fid` and `kid`.
        what: the pictures in words.
        features: of the pictures, by network.
        reference: of the reference, by network.
        number: of the pictures.
        settings: sizes and options for the cards.
        cards: scores of pairs of pictures.
        problems: reference pictures that could not be read.
    """

    prefix: str
    letter: str
    what: str
    features: "Features"
    reference: "Features"
    number: int
    settings: dict[str, Any]
    cards: dict[str, Card] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def distribution(
    *,
    out: str,
    strict: bool = False,
    seed: int = 0,
    processes: int = 2,
    pictures: Pictures = Pictures(),
    estimation: Estimation = Estimation(),
    networks: Networks = Networks(),
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Measure how far reconstructions, drawings or a folder of pictures are from a reference: FID, KID, FD-<hash>.

    Args:
        out: folder for distribution-NAME.json.
        strict: end with an error where the file of `--inception` is missing, instead of leaving its scores out.
        seed: of scenes, captions and drawings.
        processes: worker processes, each with its share of the cores.
        pictures: what is compared.
        estimation: how the distances are estimated.
        networks: networks that give the features.
        loading: which model.
        drawing: how to draw, and to decode.
    """
    from ddt_lightning.metrics.picture_encoder import SHIPPED

    encoder, inception = networks.encoder or str(SHIPPED), find_inception(networks.inception, strict)
    networks = replace(networks, encoder=encoder, inception=inception)
    session = None
    if pictures.generated is None:
        llm = pictures.made == "drawings"
        session = Session(loading, drawing, processes, seed, llm=llm, files=asdict(networks))
        found = measure_model(session, pictures, networks)
    else:
        weights = file_hashes(asdict(networks))
        found = measure_folder(pictures.generated, pictures, networks, loading, seed)

    against = f"{found.what}; reference {pictures.source}"
    cards = distance_cards(found.prefix, found.letter, against, found.features, found.reference, estimation)
    cards |= found.cards
    settings = {"reference": pictures.source, **asdict(estimation), **found.settings, "images": found.number}
    shown = [key for key in cards if "halves" not in key]
    name = f"distribution-{pictures.made if session else 'pictures'}"
    outcome = Outcome(name, cards, shown, settings, pictures.images, found.number, "pictures", found.problems)
    if session is not None:
        session.write(out, outcome)
    else:
        seeds = f"{seed}: scene n from (what, {seed}, n); the pictures' own are not known here"
        outcome.write(out, {"seed": seeds, "weights": weights, "settings": {}})


def measure_model(session: Session, pictures: Pictures, networks: Networks) -> Measured:
    """Features of a model's reconstructions or drawings, and of the reference.

    Raises:
        ValueError: the reference holds no readable picture, or one without a caption to draw from.
    """
    from ddt_lightning.evaluation import picture_features
    from ddt_lightning.evaluation.similarity import similarity_cards

    drawn = pictures.made == "drawings"
    problems: dict[str, str] = {}
    where = pictures.reference or []
    asked = picture_features.references(where, pictures.images, session.image_size, session.seed, problems)
    rows: list[dict[str, Any]] = []
    for part in chunks(asked, picture_features.CHUNK):
        if drawn and any(picture.prompt is None for picture in part):
            raise ValueError(f"`--reference` ({pictures.source}) has pictures without a caption to draw from.")
        items = [(picture, session.sample_seed(len(rows) + n)) for n, picture in enumerate(part)]
        if drawn:
            rows += session.run(picture_features.draw, items, networks, pictures.chat)
        else:
            rows += session.run(picture_features.reconstruct, items, networks)
    if not rows:
        raise ValueError(f"`--reference` ({pictures.source}) holds no readable picture{because(problems)}.")
    features, reference = (picture_features.joined([row[side] for row in rows]) for side in ("generated", "reference"))
    if drawn:
        what, settings = "drawings for the captions of the reference", {"chat": pictures.chat}
        return Measured("t2i/", "g", what, features, reference, len(rows), settings, problems=problems)
    pairs = {key.replace("/", "/paired_"): one for key, one in similarity_cards("tokenizer/", rows).items()}
    what = "reconstructions of the same pictures"
    return Measured("tokenizer/", "r", what, features, reference, len(rows), {}, pairs, problems)


def measure_folder(generated: str, pictures: Pictures, networks: Networks, loading: Loading, seed: int) -> Measured:
    """Features of the pictures of a folder, and of the reference."""
    from ddt_lightning.evaluation import picture_features
    from ddt_lightning.inputs import pick_device

    paths = picture_features.picture_files(generated)[: pictures.images]
    side = pictures.side or picture_features.side_of(paths[0])
    device, batch = pick_device(loading.device), positive("batch", loading.batch)
    features = picture_features.folder_features(networks, device, paths, side, batch)
    problems: dict[str, str] = {}
    asked = picture_features.references(pictures.reference or [], pictures.images, side, seed, problems)
    reference = picture_features.picture_features(networks, device, asked, side, batch)
    if not reference:
        raise ValueError(f"`--reference` ({pictures.source}) holds no readable picture{because(problems)}.")
    settings = {"generated": generated, "image_size": side, "device": device, "batch": batch}
    what = f"the pictures of {generated} at {side} pixels"
    return Measured("pictures/", "g", what, features, reference, len(paths), settings, problems=problems)


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
