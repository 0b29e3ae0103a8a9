"""The model behind the page, and what the tabs ask of it.

In: prompts, images uint8 `[H, W, 3]` and ids. Out: drawings and images as arrays. Every call of it goes through the
queue of the page one at a time, so that people wait for each other instead of slowing all down.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from ddt_lightning.app.examples import PROMPTS, known
from ddt_lightning.images import stack, unstack
from ddt_lightning.inputs import Loading, load_pipeline
from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.model_folder import find_part
from ddt_lightning.pipeline import Drawing, Pipeline, Prompts
from ddt_lightning.sampling import Decoding, Sampling

PREVIEW = Decoding(steps=6)
"""How pictures are decoded before the whole one: fast rather than fine."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Args:
        image: uint8 `[H, W, 3]`.
        title: where it comes from.
    """

    image: np.ndarray
    title: str


@dataclass(frozen=True)
class Drawn(Picture):
    """A picture that the model drew.

    Args:
        image: uint8 `[H, W, 3]`.
        title: the prompt.
        ids: int64 `[K]` in codebook order.
        plan: what the model wrote before it; empty for none.
        seed: of its random numbers.
    """

    ids: Tensor
    plan: str
    seed: int


@dataclass(frozen=True)
class Studio:
    """A model with what it is compared with.

    Args:
        name: of the model, for people.
        pipeline: draws, edits, answers.
        others: pipelines of other tokenizers by name, to compare with.
        examples: prompts to click.
        plain: the pipeline's tokenizer without the renderer, for pictures of the first n tokens that differ in nothing
            but n.
    """

    name: str
    pipeline: Pipeline
    others: dict[str, Pipeline] = field(default_factory=dict)
    examples: Sequence[str] = ()
    plain: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", Pipeline(self.pipeline.tokenizer, vae=self.pipeline.latents))

    @property
    def side(self) -> int:
        """Side of the model's images in pixels."""
        return self.pipeline.image_size

    @property
    def tokens(self) -> int:
        """K, ids of an image."""
        return self.pipeline.tokenizer.config.tokens

    @property
    def plans(self) -> bool:
        """Whether the model writes a plan before it draws."""
        return self.pipeline.vocab.plans

    def unknown(self, text: str) -> str:
        """A sentence that names the words of a text which training never showed; empty where there are none."""
        words = self.pipeline.vocab.unknown_words(text)
        return f"Unknown to this model: {', '.join(words)}." if words else ""

    def plan(self, prompts: Prompts, sampling: Sampling, seed: int) -> tuple[Prompts, str]:
        """Prompts with the plan of the one picture that they ask for, and the plan."""
        planned, plans = self.pipeline.plan(prompts, sampling, seed=seed)
        return planned, plans[0]

    def stream(self, prompts: Prompts, sampling: Sampling, seed: int) -> Iterator[Drawing]:
        """One picture while its tokens arrive, from prompts that hold their plan; about eight steps."""
        every = max(1, self.tokens // 8)
        decided = replace(sampling, plan="none")
        yield from self.pipeline.stream(prompts, decided, seed=seed, every=every, preview=PREVIEW)

    def first_tokens(self, ids: Tensor, counts: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        """Pictures of the first n of ids `[K]`, for each n, from the same noise and by diffusion."""
        return [unstack(self.plain.decode(ids[None, :count], PREVIEW, seed=seed).cpu())[0] for count in counts]

    def ids(self, image: np.ndarray) -> Tensor:
        """Ids `[K]` of a picture."""
        return self.pipeline.encode(stack([image]))[0].cpu()

    def describe(self, image: np.ndarray, question: str | None = None) -> str:
        """A caption, or the answer to a question."""
        return self.pipeline.describe_image(stack([image]), question)[0]


def whole(drawing: Drawing) -> np.ndarray:
    """The first image of a drawing as uint8 `[H, W, 3]`."""
    return unstack(drawing.images[:1].cpu())[0]


def open_studio(loading: Loading, against: Sequence[str], examples: Sequence[str] | None) -> Studio:
    """Load a model, and the tokenizers to compare it with.

    Args:
        loading: which model.
        against: folders of other tokenizers: models, runs, or the tokenizers themselves.
        examples: prompts to click; None for those of the embedded worlds whose words the model has learned.

    Raises:
        FileNotFoundError: naming the option whose folder lacks a part.
        ValueError: a tokenizer of other latents than the model's.
    """
    folders = {folder: find_part("tokenizer", folder, "--against") for folder in against}
    pipeline = load_pipeline(loading)
    others: dict[str, Pipeline] = {}
    for given, folder in folders.items():
        tokenizer = load_tokenizer(folder).to(next(pipeline.tokenizer.parameters()).device)
        ours, theirs = pipeline.tokenizer.latent_shape[0], tokenizer.latent_shape[0]
        if ours != theirs:
            raise ValueError(f"`--against` ({given}) has latents of {theirs} channels, the model of {ours}: name a "
                             "tokenizer of the same latents.")  # fmt: skip
        others[f"{tokenizer.kind.upper()} ({given})"] = Pipeline(tokenizer, vae=pipeline.latents)
    shown = known(PROMPTS, pipeline.vocab) if examples is None else examples
    return Studio(loading.model, pipeline, others, shown)
