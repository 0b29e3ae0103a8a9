"""Prompts to practise on, in a reproducible order: `{"prompt": [dict, ...], "sample": [n, ...]}`.

Prompt n of a run depends on the seed and n alone. They come from the embedded world, all tags alike often, or from a
JSON Lines file; there are no images, so a world of combinations that no shard shows is one setting away. What edits and
questions show is a scene, to be rendered.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, IterableDataset

from ddt_lightning.scenes.world import World
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.texts import parse_json, read_lines
from ddt_lightning.vocab import Vocab

Prompt = dict[str, Any]

SHOWN = ("groups", "edits", "questions")
WORLD = ("seen", "held_out", "all", *SHOWN, *(f"held_out_{kind}" for kind in SHOWN))
EDITS_OF_A_KIND = 200
QUESTIONS_OF_A_KIND = 200
NO_TAG = "prompt"  # tag of prompts that have none


def read_prompts(source: str | list[str], option: str) -> list[Prompt]:
    """Prompts of the embedded world, or of a JSON Lines file with `prompt`, perhaps `tag`, and what rewards need.

    Args:
        source: `seen` (combinations that training shows), `held_out`, `all` (both); `groups`, `edits` and `questions`
            of scenes that training may show, and `held_out_groups` and so on; or a file; or several of these.
        option: the option that it comes from, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line without a prompt, no line at all, or questions beside prompts that ask for an image.
    """
    if isinstance(source, list):
        found = [prompt for one in source for prompt in read_prompts(one, option)]
        if not found:
            raise ValueError(f"`{option}` ({source}) names no prompts.")
        return of_one_sort(found, option, ", ".join(source))
    if source in ("questions", "held_out_questions"):
        return world_questions(unseen=source == "held_out_questions")
    if source in ("edits", "held_out_edits"):
        return world_edits(unseen=source == "held_out_edits")
    if source in ("groups", "held_out_groups"):
        from ddt_lightning.scenes.groups import group_suite

        return group_suite(seen=source == "groups", world=World())
    if source in WORLD:
        from ddt_lightning.scenes.suite import suite

        return [*(suite(seen=True) if source != "held_out" else []), *(suite() if source != "seen" else [])]
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"`{option}` ({source}) must be one of {', '.join(WORLD)}, or a JSON Lines file.")
    found = []
    for number, line in read_lines(path):
        try:
            entry = parse_json(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
            raise ValueError(f'`{option}` ({source}): line {number} is no json with a "prompt".')
        found.append({"tag": NO_TAG, **entry})
    if not found:
        raise ValueError(f"`{option}` ({source}) holds no prompt.")
    return of_one_sort(found, option, source)


def of_one_sort(prompts: list[Prompt], option: str, source: str) -> list[Prompt]:
    """The prompts, all questions or none; a ValueError where they are mixed."""
    if len({"scene" in prompt for prompt in prompts}) > 1:
        raise ValueError(f'`{option}` ({source}) has a "scene" for some prompts alone: split questions and drawings.')
    return prompts


@lru_cache
def world_edits(*, unseen: bool) -> list[Prompt]:
    """Edits of the embedded world, every kind alike often, with `source` and `target` as plain data; always the same.

    Args:
        unseen: edits of which both scenes show a held-out combination, in place of those that training may show,
            whose sources have one, two and three shapes alike often.
    """
    from ddt_lightning.scenes.suite import train_edit, val_edit
    from ddt_lightning.scenes.tasks import EDITS

    numbered = [(kind, numpy_rng("rl edit", unseen, n)) for kind in EDITS for n in range(EDITS_OF_A_KIND)]
    asked = [val_edit(rng, kind) if unseen else train_edit(rng, kind, even=True) for kind, rng in numbered]
    return [
        {"tag": one.kind, "prompt": one.instruction, "source": one.source.to_dict(), "target": one.target.to_dict()}
        for one in asked
    ]


@lru_cache
def world_questions(*, unseen: bool) -> list[Prompt]:
    """Questions of the embedded world, every kind alike often, with `answer` and `scene`, plain data; always the same.

    Args:
        unseen: questions about scenes with a held-out combination, in place of those that training may show.
    """
    from ddt_lightning.scenes.suite import val_question
    from ddt_lightning.scenes.tasks import QUESTIONS

    numbers = range(QUESTIONS_OF_A_KIND)
    asked = [val_question(numpy_rng("rl question", unseen, n), kind, unseen) for kind in QUESTIONS for n in numbers]
    return [
        {"tag": one.kind, "prompt": one.question, "answer": one.answer, "scene": one.scene.to_dict()} for one in asked
    ]


def by_tag(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts of each tag."""
    found: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(prompt["tag"], []).append(prompt)
    return found


def spread(prompts: list[Prompt], number: int) -> list[Prompt]:
    """At most `number` prompts, of every tag alike many where it has them, evenly spaced over the tag."""
    groups = sorted(by_tag(prompts).values(), key=len)
    chosen: list[Prompt] = []
    for place, group in enumerate(groups):  # what small tags leave over goes to larger ones
        count = min(len(group), (number - len(chosen)) // (len(groups) - place))
        chosen += [group[n * len(group) // count] for n in range(count)]
    return chosen


class Stream(IterableDataset):
    """Batches of prompts by their numbers.

    Args:
        numbers: makes the numbers of each batch.
        prompt: the prompt with a number.
    """

    def __init__(self, numbers: Callable[[], Iterator[list[int]]], prompt: Callable[[int], Prompt]) -> None:
        self.numbers, self.prompt = numbers, prompt

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One batch after the other."""
        for numbers in self.numbers():
            yield {"prompt": [self.prompt(n) for n in numbers], "sample": numbers}


class PromptStream(pl.LightningDataModule):
    """Prompts for practice with a reward, and others to watch.

    Args:
        vocab: folder of the vocabulary that the language model was trained with.
        prompts: `seen` (combinations of the embedded world that training shows), `held_out`, `all`; `groups`, `edits`
            and `questions` of scenes that training may show, and `held_out_groups`, `held_out_edits` and
            `held_out_questions`; or a JSON Lines file with a `prompt`, perhaps a `tag`, and what the rewards need on
            each line. One with a `scene` is a question about its render, one with a `source`, a scene, too, an edit of
            it. Several sources are practised together, all tags alike often.
        val_prompts: prompts to watch, from the same sources; null for no validation.
        val_samples: at most so many of them, of every tag alike many.
        batch_size: prompts of a step, over all processes.
        seed: of their order and of everything that is sampled for them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a number below 1, or a file that holds no prompts.
    """

    waited = 0.0  # prompts are there at once

    def __init__(
        self,
        vocab: str,
        prompts: str | list[str] = "seen",
        val_prompts: str | list[str] | None = "held_out",
        val_samples: int = 150,
        batch_size: int = 24,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for option, value in {"batch_size": batch_size, "val_samples": val_samples}.items():
            if value < 1:
                raise ValueError(f"`data.{option}` ({value}) must be at least 1.")
        self.vocab_folder, self.batch_size, self.seed = vocab, batch_size, seed
        self.by_tag = by_tag(read_prompts(prompts, "data.prompts"))
        self.watched = spread(read_prompts(val_prompts, "data.val_prompts"), val_samples) if val_prompts else []

    def setup(self, stage: str) -> None:
        """Load the vocabulary.

        Raises:
            ValueError: the prompts of a step cannot be split over the processes.
        """
        self.vocab = Vocab.load(self.vocab_folder)
        self.ranks()

    def ranks(self) -> tuple[int, int]:
        """This process among those that read different prompts: `(rank, world)`."""
        trainer = self.trainer
        split = getattr(trainer.strategy, "distributed_sampler_kwargs", None) if trainer is not None else None
        rank, world = (split["rank"], split["num_replicas"]) if split else (0, 1)
        if self.batch_size % world:
            raise ValueError(f"`data.batch_size` ({self.batch_size}) must be a multiple of the {world} processes.")
        return rank, world

    def prompt(self, number: int) -> Prompt:
        """The prompt with a number: every tag alike often, every prompt of a tag too."""
        rng = numpy_rng("rl prompt", self.seed, number)
        tags = list(self.by_tag)
        of_tag = self.by_tag[tags[int(rng.integers(len(tags)))]]
        return of_tag[int(rng.integers(len(of_tag)))]

    def train_numbers(self) -> Iterator[list[int]]:
        """The numbers of this process's prompts, from the step on where training stands."""
        rank, world = self.ranks()
        trainer = self.trainer
        step = trainer.global_step * trainer.accumulate_grad_batches if trainer is not None else 0
        while True:
            yield list(range(step * self.batch_size + rank, (step + 1) * self.batch_size, world))
            step += 1

    def val_numbers(self) -> Iterator[list[int]]:
        """The numbers of this process's prompts to watch, as many batches as every other process has."""
        rank, world = self.ranks()
        for start in range(0, len(self.watched) // world * world, self.batch_size):
            yield list(range(start + rank, min(start + self.batch_size, len(self.watched) // world * world), world))

    def train_dataloader(self) -> DataLoader:
        """Endless batches of prompts."""
        return DataLoader(Stream(self.train_numbers, self.prompt), batch_size=None)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The prompts to watch, once."""
        if not self.watched:
            return []
        return DataLoader(Stream(self.val_numbers, self.watched.__getitem__), batch_size=None)
