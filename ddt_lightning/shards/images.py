"""Images for the tokenizer: shards, or scenes rendered on the fly, to `{"image": [B,3,H,W] in [-1,1], "sample": [B]}`.

Also the plain reading that encoding and checking use: `read_images` gives every sample of some shards once, in order,
with its images as uint8 `[H,W,3]` and its texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset

from ddt_lightning.images import decode, square
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import train_scene, val_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.conversations import check_turns
from ddt_lightning.shards.members import UNREADABLE, Problems, Record
from ddt_lightning.shards.module import Loader, ShardModule
from ddt_lightning.shards.order import Order, Slot, rank_batches
from ddt_lightning.shards.read import IMAGE_TYPES, Columns, expand, image_member, members, name, read_shard, several
from ddt_lightning.shards.stream import Example, finish, one_line
from ddt_lightning.shards.texts import captions, questions, read_json

Pixels = NDArray[np.uint8]
Augment = Literal["none", "flip", "crop", "crop_flip"]

ROLES = ("image", "target", "source")
CROP_MARGIN = 1.125  # a random crop is cut out of an image this much larger


def decode_image(data: bytes, side: int | None = None) -> Pixels:
    """An encoded image as uint8 `[H, W, 3]`.

    Args:
        data: JPEG, PNG or WebP.
        side: scale the shorter side to this and cut out the centre; None leaves the image as it is.

    Raises:
        ValueError: it is no readable image, or too large.
    """
    picture = decode(data)
    return np.asarray(picture if side is None else square(picture, side))


def decode_member(record: Record, member: str, side: int | None = None) -> Pixels:
    """The image of a member, as `decode_image`; errors name the member."""
    try:
        return decode_image(record[member], side)
    except ValueError as error:
        raise ValueError(f"{member} {error}") from None


@dataclass(frozen=True)
class ImageDecoder:
    """Raw samples to uint8 images; also the test whether a sample has one.

    Args:
        side: side of the images.
        columns: layout of the shards.
        augment: random changes of training images.
        seed: of those changes.
    """

    side: int
    columns: Columns
    augment: Augment = "none"
    seed: int = 0

    def member(self, record: Record) -> str | None:
        """The member with the image: `image`, or of an edit its target."""
        return next((member for role in ROLES if (member := image_member(record, self.columns, role))), None)

    def usable(self, record: Record) -> bool:
        """Whether there is an image."""
        return self.member(record) is not None

    def __call__(self, record: Record, label: str, sample: int) -> Example:
        """The image of one sample, `[3, H, W]`."""
        member = self.member(record) or "image"
        if self.augment == "none":
            pixels = decode_member(record, member, self.side)
        else:
            draw = numpy_rng("augment", self.seed, sample).random(3)
            image = Image.fromarray(decode_member(record, member))
            if "crop" in self.augment:
                image = square(image, self.side, (draw[0], draw[1]), CROP_MARGIN)
            pixels = np.asarray(square(image, self.side))
            if "flip" in self.augment and draw[2] < 0.5:
                pixels = pixels[:, ::-1]
        return {"image": pixels.transpose(2, 0, 1)}

    def collate(self, examples: list[Example]) -> Example:
        """uint8 `[B, 3, H, W]`."""
        return {"image": torch.from_numpy(np.stack([example["image"] for example in examples]))}


class Rendered(IterableDataset):
    """Scenes of the embedded world in place of shards; scene n is drawn from the seed and n.

    Args:
        decoder: for its image side and batches.
        order: which numbers are this process'.
        start: global number of the first sample.
        limit: end after so many samples and draw validation scenes; None trains without end.
    """

    def __init__(self, decoder: ImageDecoder, order: Order, start: int = 0, limit: int | None = None) -> None:
        self.decoder, self.order, self.start, self.limit = decoder, order, start, limit

    def __iter__(self) -> Iterator[Example]:
        """Batches of this worker."""
        for samples, mine in rank_batches(self.order, self.start):
            if self.limit is not None:
                even = self.limit - self.limit % self.order.world
                samples = range(samples.start, min(samples.stop, even), samples.step)
                if not samples:
                    return
            if mine:
                yield finish(self.decoder, [{"image": self._image(n)} for n in samples], list(samples), [])

    def _image(self, n: int) -> Pixels:
        if self.limit is None:
            scene = train_scene(numpy_rng("scene", self.order.seed, n))
        else:
            scene = val_scene(numpy_rng("val scene", n))
        return render(scene, self.decoder.side).transpose(2, 0, 1)


class ImageShards(ShardModule):
    """Images in a reproducible order; without shards, scenes of the embedded world rendered on the fly.

    Args:
        shards: image shards, paths with braces, globs and `${DDT_DATA}`; null renders scenes.
        val_shards: held-out image shards; null validates on rendered scenes if `shards` is null, else not at all.
        columns: where the images lie in shards of another layout.
        image_size: side of the images; others are scaled by their shorter side and cut.
        augment: random flip and crop of training images.
        batch_size: global batch size, over all processes.
        buffer: raw samples in the shuffle buffer of each sequence of shards.
        **order: options of every data module, see `ShardModule`.
    """

    def __init__(
        self,
        shards: list[str] | None = None,
        val_shards: list[str] | None = None,
        columns: Columns | None = None,
        image_size: int = 64,
        augment: Augment = "none",
        batch_size: int = 32,
        buffer: int = 1000,
        **order: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, buffer=buffer, **order)
        if image_size < 1:
            raise ValueError(f"`data.image_size` ({image_size}) must be at least 1.")
        self.shards, self.val_shards = shards, val_shards
        self.val_decoder = ImageDecoder(image_size, columns or Columns())
        self.decoder = ImageDecoder(image_size, columns or Columns(), augment, self.seed)

    def setup(self, stage: str) -> None:
        """Find and check the shards.

        Raises:
            FileNotFoundError: a shard or a match is missing.
            ValueError: a shard without images, or sizes that do not fit the number of processes.
        """
        self.ranks()
        wanted = "an image (jpg, jpeg, png, webp)"
        usable = self.decoder.usable
        if self.shards is not None and stage == "fit":
            urls = expand(self.shards, "data.shards")
            self.train_reader = self.reader(urls, usable, "data.shards", wanted, train=True)
        if self.val_shards is not None:
            urls = expand(self.val_shards, "data.val_shards")
            self.val_reader = self.reader(urls, usable, "data.val_shards", wanted, train=False)

    def train_dataloader(self) -> Loader:
        """Endless batches of this process."""
        if self.shards is None:
            return self.loader(lambda: Rendered(self.decoder, self.order(), self.start()))
        return self.train_loader([self.train_reader], [Slot(0, 1)], self.decoder)

    def val_dataloader(self) -> Loader | list:
        """Held-out batches of this process; nothing where there are no held-out images."""
        if self.val_shards is not None:
            return self.val_loader([self.val_reader], [Slot(0, 1)], self.val_decoder)
        if self.shards is not None:
            return []
        return self.loader(lambda: Rendered(self.val_decoder, self.order(), limit=self.val_samples))

    def finish(self, batch: Example) -> Example:
        """uint8 to float32 in [-1, 1], here and not in the workers: a quarter of the bytes to pass on."""
        return {**batch, "image": batch["image"].float().mul_(2 / 255).sub_(1)}


@dataclass(frozen=True)
class ImageSample:
    """One sample of an image, edit or question shard.

    Args:
        shard: the shard it comes from.
        key: its name there.
        images: uint8 `[H, W, 3]`: one image, source and target of an edit, or the images of a chat.
        texts: captions, or the instruction of an edit, the best one first.
        questions: `{"question", "answers"}` about the image.
        data: the json member as it is, or None.
    """

    shard: str
    key: str
    images: tuple[Pixels, ...]
    texts: tuple[str, ...]
    questions: tuple[dict[str, Any], ...]
    data: Any


def read_images(
    shards: Sequence[str],
    *,
    image_size: int | None = None,
    columns: Columns | None = None,
    problems: Problems | None = None,
    option: str = "shards",
) -> Iterator[ImageSample]:
    """Every sample of image, edit and question shards once, in file order.

    Args:
        shards: paths and patterns.
        image_size: side of the images, cut and scaled as in training; None leaves them as they are.
        columns: layout of the shards.
        problems: what cannot be read is added here (sample name -> reason) and skipped.
        option: the option the shards come from, for errors.

    Raises:
        FileNotFoundError: a shard or a match is missing.
    """
    problems = {} if problems is None else problems
    for url in expand(shards, option):
        for record in read_shard(url, problems):
            try:
                sample = read_sample(record, columns or Columns(), image_size)
            except UNREADABLE as error:
                problems[name(record)] = one_line(error)
            else:
                yield sample


def numbered(record: Record) -> list[str | None]:
    """The members of a chat's images: `0.jpg`, `1.png`, ... as far as they go without a gap."""
    endings = {member.partition(".")[0]: member for member in record if member.partition(".")[2] in IMAGE_TYPES}
    return [endings[str(number)] for number in takewhile(lambda n: str(n) in endings, count())]


def read_sample(record: Record, columns: Columns, image_size: int | None = None) -> ImageSample:
    """Decode one raw sample; what is refused here is what `ddt encode` leaves out and `ddt data check` names.

    Raises:
        ValueError: it has no image, half an edit, texts of a wrong shape, or turns that are no conversation about its
            images.
    """
    data = read_json(record)
    chat = isinstance(data, dict) and "turns" in data
    pair = [image_member(record, columns, role) for role in ("source", "target")]
    if any(pair) and not all(pair):
        raise ValueError("has a source without a target, or a target without a source")
    found = (numbered(record) if chat else []) or (pair if all(pair) else [image_member(record, columns)])
    images = tuple(decode_member(record, member, image_size) for member in found if member)
    if not images:
        raise ValueError(f"has no image; its members are {several(members(record))}")
    if chat:
        check_turns(data["turns"], len(images))
    texts = captions(record, columns, data)
    if all(pair) and not chat and not texts:
        raise ValueError("is an edit without an instruction")
    asked = questions(data, columns)
    # The `txt` of a question sample repeats its first question and answer.
    texts = [text for text in texts if not any(text.startswith(entry["question"]) for entry in asked)]
    return ImageSample(record["__url__"], record["__key__"], images, tuple(texts), tuple(asked), data)
