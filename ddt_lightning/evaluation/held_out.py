"""Held-out samples that evaluations measure: scenes drawn from the seed, or the first usable samples of some shards."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ddt_lightning.evaluation.outcome import because
from ddt_lightning.scenes.world import Asked, World

if TYPE_CHECKING:
    from ddt_lightning.shards.images import ImageSample


def take_samples(
    shards: Sequence[str],
    side: int,
    number: int | None,
    problems: dict[str, str],
    usable: Callable[["ImageSample"], bool] = lambda sample: True,
    lacking: str = "hold no readable image",
    least: int = 1,
) -> list["ImageSample"]:
    """The first usable samples of some shards.

    Args:
        shards: paths and patterns of `--shards`.
        side: of the images, in pixels.
        number: at most so many; None for all.
        problems: samples that cannot be read are added here.
        usable: whether a sample has the texts or images that are measured; others are passed over.
        lacking: the end of the error about shards with fewer than `least` of them.
        least: fewest samples that can be measured.

    Raises:
        ValueError: fewer than `least` samples can be used.
    """
    from ddt_lightning.shards.images import read_images

    read = read_images(shards, image_size=side, problems=problems, option="--shards")
    samples = list(islice(filter(usable, read), number))
    if len(samples) < least:
        raise ValueError(f"`--shards` ({', '.join(shards)}) {lacking}{because(problems)}.")
    return samples


def held_out(
    shards: Sequence[str] | None,
    number: int,
    side: int,
    seed: int,
    seen: bool = False,
    problems: dict[str, str] | None = None,
) -> list[Any]:
    """The images that a tokenizer is measured on: the first of some shards, or held-out scenes of the seed.

    Args:
        shards: paths and patterns; of an edit the source is taken. None for scenes.
        number: at most so many.
        side: of images from shards, in pixels.
        seed: of the scenes.
        seen: scenes of combinations that training shows.
        problems: samples that cannot be read are added here.

    Returns:
        uint8 `[side, side, 3]` each, or scenes.

    Raises:
        ValueError: the shards hold no readable image.
    """
    from ddt_lightning.scenes.suite import val_scene
    from ddt_lightning.seeding import numpy_rng

    if shards:
        samples = take_samples(shards, side, number, {} if problems is None else problems)
        return [sample.images[0] for sample in samples]
    return [val_scene(numpy_rng("eval image", seed, n), unseen=not seen) for n in range(number)]


def ask(seen: bool, split: Asked, world: World, number: int) -> list[dict[str, Any]]:
    """The suite's prompts that are measured.

    Args:
        seen: of combinations that training shows.
        split: places held out, see `suite`, or groups.
        world: whose combinations.
        number: how many of each tag, evenly spaced over the tag; 0 for all.

    Raises:
        ValueError: the world shows what the split is to hold out.
    """
    from ddt_lightning.evaluation.galleries import spread
    from ddt_lightning.scenes.groups import group_suite
    from ddt_lightning.scenes.suite import suite

    chosen = group_suite(seen, world) if split == "groups" else suite(seen, world, split)
    return spread(chosen, "tag", number) if number else chosen


def prompts_measured(seen: bool, split: Asked) -> str:
    """The prompts that are measured, in words."""
    shown = "that training shows" if seen else "held out"
    if split == "novel":
        return "prompts for kinds side by side along an axis on which training never shows the two"
    if split == "groups":
        return f"prompts for two of a kind in one place relative to a third, places {shown}"
    return f"prompts of combinations {shown}"


def apart(split: Asked) -> tuple[str, str]:
    """What the keys of scores and the names of files have behind their first word, for a split that is scored apart."""
    return ("", "") if split == "mirror" else (f"/{split}", f"-{split}")


def scenes_measured(seen: bool) -> str:
    """The kind of scenes that is measured, in words."""
    return "scenes of combinations that training shows" if seen else "held-out scenes"
