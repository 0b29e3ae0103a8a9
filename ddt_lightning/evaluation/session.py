"""A model under evaluation: the processes that run it, the seeds of its images, and what its cards have in common."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.inputs import Loading, find_parts, positive
from ddt_lightning.metrics.cards import card, file_hashes
from ddt_lightning.sampling import Sampling
from ddt_lightning.workers import run_tasks


@dataclass(frozen=True)
class Setup:
    """The part of a call that every batch of its work needs.

    Args:
        loading: which model.
        drawing: how to draw.
    """

    loading: Loading
    drawing: Sampling


class Session:
    """A model under evaluation.

    Args:
        loading: which model.
        drawing: how to draw.
        processes: worker processes; 1 runs in this one.
        seed: of everything drawn.
        llm: whether the language model is needed.
        files: weights of scoring networks, by option; None where they are not used.

    Raises:
        FileNotFoundError: the model folder lacks a part, or one of the files is missing.
        ValueError: a number is below 1.
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
        self.scorers = file_hashes(files or {})
        self.setup, self.seed, self.llm = Setup(loading, drawing), seed, llm
        self.size = positive("batch", loading.batch)
        self.processes = positive("processes", processes)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Hashes and sizes of the model, which a worker loads for it."""
        from ddt_lightning.evaluation import predictions

        [found] = run_tasks(predictions.facts, [(self.setup, self.llm)], self.processes, "loading")
        return found

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels."""
        return int(self.facts["model"]["image_size"])

    def sample_seed(self, number: int) -> int:
        """The seed of image `number`."""
        return 1_000_000 * self.seed + number

    def run(
        self,
        predict: Callable[..., list[dict[str, Any]]],
        items: Sequence[Any],
        *extra: Any,
    ) -> list[dict[str, Any]]:
        """The results of `predict(setup, batch, *extra)`, a function of `predictions`, for all items in their order."""
        starts = range(0, len(items), self.size)
        tasks = [(self.setup, items[start : start + self.size], *extra) for start in starts]
        parts = run_tasks(predict, tasks, self.processes, predict.__name__.replace("_", " "))
        return [result for part in parts for result in part]

    def write(self, out: str, outcome: Outcome) -> None:
        """Write an outcome with the model's hashes and sizes, and the decode setting as two cards of its own."""
        from ddt_lightning.scenes.check import VERSION

        facts, drawing = self.facts, self.setup.drawing
        whole = "; whole images took one step of the renderer" if "decoder" in facts["model"] else ""
        steps = card(drawing.steps, 1, f"steps of the diffusion decoder by {drawing.solver}{whole}")
        guidance = card(drawing.decode_guidance, 1, f"guidance of the diffusion decoder{whole}")
        outcome.cards.update({"decode/steps": steps, "decode/guidance": guidance})
        planned = {"plan": facts["plan"] if outcome.settings.get("chat", True) else "none"} if self.llm else {}
        shared = {
            "seed": f"{self.seed}: scene n from (what, {self.seed}, n), image n from {self.sample_seed(0)} + n",
            "weights": {**facts["weights"], **self.scorers},
            "settings": {
                **asdict(drawing.settled(planned.get("plan", "none") != "none")),
                **planned,
                **facts["model"],
                "batch": self.size,
                "checker": VERSION,
            },
        }
        outcome.write(out, shared)
