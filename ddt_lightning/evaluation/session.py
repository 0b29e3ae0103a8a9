"""What the evaluation verbs share: running jobs on a model, seeds, and writing cards with what they have in common."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ddt_lightning.inputs import Loading, Setup, find_parts, positive
from ddt_lightning.metrics.cards import Card, card, file_hashes, write_cards
from ddt_lightning.sampling import Sampling
from ddt_lightning.workers import pool, run_tasks


class Session:
    """A model under evaluation, and the processes that run it.

    They begin to load when a session is made, so that what is asked can be drawn up meanwhile.

    Args:
        loading: which model.
        drawing: how to draw.
        processes: worker processes; 1 runs in this one.
        seed: of everything drawn.
        llm: whether the language model is needed.
        files: weights that measure, by option; None where they are not used.

    Raises:
        FileNotFoundError: where the model folder lacks a part, or one of the files is missing.
        ValueError: where a number is below 1.
    """

    def __init__(
        self,
        loading: Loading,
        drawing: Sampling,
        processes: int,
        seed: int,
        llm: bool = True,
        files: dict[str, str | None] | None = None,
    ) -> None:
        find_parts(loading, llm)
        from ddt_lightning.evaluation import predictions

        self.measured_by = file_hashes(files or {})
        self.setup, self.seed, self.llm = Setup(loading, drawing), seed, llm
        self.size = positive("batch", loading.batch)
        self.processes = positive("processes", processes)
        self.described: Future[Any] | None = None
        if self.processes > 1:
            self.described = pool(self.processes, predictions.facts).submit(predictions.facts, self.setup, llm)

    @property
    def facts(self) -> dict[str, Any]:
        """Hashes and sizes of the model."""
        from ddt_lightning.evaluation import predictions

        if self.described is None:
            return predictions.facts(self.setup, self.llm)
        return self.described.result()

    def run(
        self,
        predict: Callable[..., list[dict[str, Any]]],
        items: Sequence[Any],
        *extra: Any,
    ) -> list[dict[str, Any]]:
        """The results of a function of `predictions` for all items, a batch at a time; it gets `extra` behind them."""
        starts = range(0, len(items), self.size)
        tasks = [(self.setup, items[start : start + self.size], *extra) for start in starts]
        parts = run_tasks(predict, tasks, self.processes, predict.__name__.replace("_", " "))
        return [result for part in parts for result in part]

    def finish(self, folder: Path, name: str, cards: dict[str, Card], sizes: dict[str, Any]) -> None:
        """Write the cards of one verb with what they share, the decode setting among them."""
        from ddt_lightning.scenes.check import VERSION

        facts, drawing = self.facts, self.setup.drawing
        whole = "; whole images took one step of the renderer" if "decoder" in facts["model"] else ""
        cards["decode/steps"] = card(drawing.steps, 1, f"Euler steps of the diffusion decoder{whole}")
        cards["decode/guidance"] = card(drawing.decode_guidance, 1, f"guidance of the diffusion decoder{whole}")
        shared = {
            "seed": f"{self.seed}: scene n from (what, {self.seed}, n), image n from {self.sample_seed(0)} + n",
            "weights": {**facts["weights"], **self.measured_by},
            "settings": {**asdict(drawing), **facts["model"], **sizes, "batch": self.size, "checker": VERSION},
        }
        write_cards(folder / f"{name}.json", cards, shared)

    def sample_seed(self, number: int) -> int:
        """The seed of image `number`."""
        return 1_000_000 * self.seed + number


def read_pictures(shards: Sequence[str], number: int, side: int) -> list[Any]:
    """The first images of some shards, uint8 `[side, side, 3]`; of an edit the source.

    Raises:
        ValueError: where there are none.
    """
    from ddt_lightning.shards.images import read_images

    samples = read_images(list(shards), image_size=side, option="--shards")
    pictures = [sample.images[0] for sample in islice(samples, number)]
    if not pictures:
        raise ValueError(f"`--shards` ({', '.join(shards)}) hold no readable image.")
    return pictures


def held_out(shards: Sequence[str], number: int, side: int, seed: int, seen: bool = False) -> list[Any]:
    """The images that a tokenizer is measured on: the first of some shards, or held-out scenes of the seed.

    Args:
        shards: as in `read_pictures`; none for scenes.
        number: how many.
        side: of images from shards, in pixels.
        seed: of the scenes.
        seen: scenes of combinations that training shows.
    """
    from ddt_lightning.scenes.suite import val_scene
    from ddt_lightning.seeding import numpy_rng

    if shards:
        return read_pictures(shards, number, side)
    return [val_scene(numpy_rng("eval image", seed, n), unseen=not seen) for n in range(number)]


def scenes_measured(seen: bool) -> str:
    """What scenes are measured on, in words."""
    return "scenes of combinations that training shows" if seen else "held-out scenes"


def say(out: str, cards: dict[str, Card], *keys: str) -> None:
    """The main scores, and where all of them are."""
    scores = ", ".join(f"{key} {cards[key]['value']:.3f}" for key in keys)
    print(f"{scores}; everything in {out}")
