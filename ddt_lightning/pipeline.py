"""Everything composed: prompt -> ids -> image, image -> ids -> image, image (and question) -> text.

In and out: images uint8 `[B, 3, H, W]`, texts, ids int64 `[B, K]` in codebook order (token 0 the finest). A `Pipeline`
is built from a model folder (`tokenizer/`, `lm/`, `vocab/`, optional `vae/`, `renderer/`) or from live modules during
training. A renderer draws whole images in one step; the first n < K ids are decoded by the tokenizer itself. A sample
does not depend on what else is in the batch: `seed` is one number for each sample, or one that is counted up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ddt_lightning.latents.pixels import PixelLatents, to_float, to_uint8
from ddt_lightning.lm.generate import LanguageModel, stream_image_ids, text_ids
from ddt_lightning.lm.load import load_language_model
from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.pretrained import find_model
from ddt_lightning.sampling import Decoding, Sampling, split_plan
from ddt_lightning.second_look import look_again, write_plans
from ddt_lightning.seeding import Seed, each_seed, key_bits
from ddt_lightning.tokens.base import ImageTokenizer, weights_hash
from ddt_lightning.tokens.renderer import Renderer
from ddt_lightning.tokens.solvers import SOLVERS
from ddt_lightning.vocab import ROLES, Images, Turn, Vocab

if TYPE_CHECKING:
    from ddt_lightning.latents.vae import FrozenVae

DRAW = "{}"
DESCRIBE = "Describe this image."
EncodedConversation = tuple[Sequence[Turn], Images]  # a conversation, and the ids [n, K] of its images
Prompts = tuple[list[list[int]], list[list[int]]]  # LM ids, and their counterparts without a text for guidance


@dataclass(frozen=True)
class Drawing:
    """Images with what the language model wrote for them.

    Args:
        images: uint8 `[B, 3, H, W]`.
        plans: the text before each image; empty where there was none.
        ids: int64 `[B, K]` in codebook order; of `stream` the first n that have arrived.
    """

    images: Tensor
    plans: list[str]
    ids: Tensor


class Pipeline:
    """A tokenizer, a language model and their vocabulary, composed; a ValueError where they do not belong together.

    Args:
        tokenizer: ids <-> latents.
        llm: language model over `vocab`'s ids; None (with `vocab`) where only images are reconstructed.
        vocab: the id space.
        vae: latents <-> image; None where the latents are pixels.
        renderer: decodes all K ids in one step in place of the tokenizer's diffusion decoder.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        llm: LanguageModel | None = None,
        vocab: Vocab | None = None,
        vae: "PixelLatents | FrozenVae | None" = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.tokenizer, self.renderer = tokenizer, renderer
        self.latents: PixelLatents | FrozenVae = PixelLatents() if vae is None else vae
        self._llm, self._vocab = llm, vocab
        if vocab is not None:
            facts = {"K": tokenizer.config.tokens, "codebook_size": tokenizer.config.codebook_size}
            vocab.check(facts if vocab.tokenizer is None else {**facts, "tokenizer": tokenizer.fingerprint()}, "model")
            rows = vocab.size if llm is None else llm.get_input_embeddings().num_embeddings
            if rows < vocab.size:
                raise ValueError(f"The language model has {rows} rows, the vocabulary {vocab.size} ids.")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "cpu",
        *,
        tokenizer: str | Path | None = None,
        llm: bool = True,
        renderer: bool | str | Path = True,
    ) -> Self:
        """Load a model folder: `tokenizer/` (or one named), and if there `lm/` with `vocab/`, `vae/`, `renderer/`.

        A shipped model may be given by its name. `llm` and `renderer` leave these parts out when false; `renderer` may
        also name a folder. A FileNotFoundError where there is no tokenizer, or a language model without its vocabulary.
        """
        folder = find_model(folder, "folder")
        images = load_tokenizer(tokenizer or folder / "tokenizer").to(device)
        model, vocab, vae = None, None, None
        if llm and (folder / "lm").is_dir():
            model = load_language_model(folder / "lm").to(device)
            vocab = Vocab.load(folder / "vocab")
        if (folder / "vae").is_dir():
            from ddt_lightning.latents.vae import FrozenVae

            vae = FrozenVae(folder / "vae").to(device)
        if renderer is True:
            renderer = (folder / "renderer").is_dir() and folder / "renderer"
        one_step = Renderer.from_pretrained(renderer, images) if renderer else None
        return cls(images, model, vocab, vae, one_step)

    @property
    def llm(self) -> LanguageModel:
        """The language model; a ValueError where there is none."""
        if self._llm is None:
            raise ValueError("This needs a language model, and the model folder has no lm/: run pretrain and instruct.")
        return self._llm

    @property
    def vocab(self) -> Vocab:
        """The language model's id space; a ValueError where there is none."""
        if self._vocab is None:
            raise ValueError("This needs a vocabulary, and the model folder has no vocab/: run pretrain and instruct.")
        return self._vocab

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.tokenizer.config.latent_size * self.latents.scale

    def fingerprints(self) -> dict[str, str]:
        """Short hashes of the weights, for evaluation cards and samples."""
        found = {"tokenizer": self.tokenizer.fingerprint()}
        if self.renderer is not None:
            found["renderer"] = weights_hash(self.renderer)
        return found if self._llm is None else {**found, "lm": weights_hash(self._llm)}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 `[B, 3, H, W]` of the model's size to ids `[B, K]`."""
        side = self.image_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
            raise ValueError(
                f"Images must be uint8 [B, 3, {side}, {side}], not {images.dtype} {list(images.shape)}; resize them."
            )
        device = next(self.tokenizer.parameters()).device
        return self.tokenizer.encode(self.latents.encode(to_float(images.to(device))))

    @torch.no_grad()
    def decode(self, ids: Tensor, decoding: Decoding = Decoding(), *, seed: Seed = 0, **changes: Any) -> Tensor:
        """The first n ids `[B, n]` of images to images uint8 `[B, 3, H, W]`; n < K shows what the first n carry.

        Fields of `decoding` may be given by name. With a renderer, they and the seed matter to n < K only.
        """
        decoding = replace(decoding, **changes)
        ids = ids.to(next(self.tokenizer.parameters()).device)
        if self.renderer is not None and ids.shape[1] == self.tokenizer.config.tokens:
            return to_uint8(self.latents.decode(self.renderer.decode(ids)))
        shape = self.tokenizer.latent_shape
        draws = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in each_seed(seed, len(ids))]
        noise = torch.stack(draws)  # [B, c, h, w]
        latents = self.tokenizer.decode(ids, steps=decoding.steps, decode_guidance=decoding.decode_guidance,
                                        solver=SOLVERS[decoding.solver], shift=decoding.shift, noise=noise)  # fmt: skip
        return to_uint8(self.latents.decode(latents))

    def reconstruct(
        self, images: Tensor, tokens: int | None = None, decoding: Decoding = Decoding(), *, seed: Seed = 0,
        **changes: Any,
    ) -> Tensor:  # fmt: skip
        """Images to ids and back, with the first `tokens` of K ids; options, sizes and errors as `encode`, `decode`."""
        return self.decode(self.encode(images)[:, : self.length(tokens)], decoding, seed=seed, **changes)

    def text_to_image(
        self,
        prompts: Sequence[str],
        sampling: Sampling = Sampling(),
        *,
        seed: Seed = 0,
        tokens: int | None = None,
        chat: bool = True,
        **changes: Any,
    ) -> Tensor:
        """One image for each prompt, uint8 `[B, 3, H, W]`.

        Args:
            prompts: what to draw.
            sampling: how to draw it.
            seed: one number for each prompt, or the first one's.
            tokens: decode only so many first ids; None decodes all.
            chat: ask in the chat format of an instruct model, not in the caption format of pretraining.
            **changes: fields of `sampling` to change: `text_to_image(["a ring"], temperature=0.7)`.
        """
        sampling = replace(sampling, **changes)
        return self.draw(self.draw_prompts(prompts, chat=chat), sampling, seed=seed, tokens=tokens).images

    def edit_image(
        self, images: Tensor, instructions: Sequence[str], sampling: Sampling = Sampling(), *, seed: Seed = 0,
        tokens: int | None = None, **changes: Any,
    ) -> Tensor:  # fmt: skip
        """The images changed as the instructions say, uint8 `[B, 3, H, W]`; options as `text_to_image`."""
        sampling = replace(sampling, **changes)
        return self.draw(self.edit_prompts(images, instructions), sampling, seed=seed, tokens=tokens).images

    def draw_prompts(self, prompts: Sequence[str], *, chat: bool = True) -> Prompts:
        """LM ids of prompts to draw."""
        if not chat:
            return [self.vocab.t2i_prompt(text) for text in prompts], [self.vocab.uncond_prompt() for _ in prompts]
        return self.chat_prompts([([{"role": "user", "content": [DRAW.format(text)]}], ()) for text in prompts])

    def edit_prompts(self, images: Tensor, instructions: Sequence[str]) -> Prompts:
        """LM ids of "image, instruction"; the counterpart keeps the image. One instruction for each image."""
        if len(images) != len(instructions):
            raise ValueError(f"{len(images)} images and {len(instructions)} instructions: give one for each.")
        turns = [[{"role": "user", "content": [{"image": 0}, text]}] for text in instructions]
        return self.chat_prompts(list(zip(turns, self.encode(images).cpu()[:, None], strict=True)))

    def chat_prompts(self, conversations: Sequence[EncodedConversation]) -> Prompts:
        """LM ids of conversations that an image is to answer; the counterparts keep all images."""
        full = [self.vocab.chat_prompt(turns, ids, draw=True) for turns, ids in conversations]
        return full, [self.vocab.chat_prompt(turns, ids, draw=True, drop_text=True) for turns, ids in conversations]

    def draw(self, prompts: Prompts, sampling: Sampling, *, seed: Seed = 0, tokens: int | None = None) -> Drawing:
        """Images with plans and ids, for `draw_prompts(...)`, `edit_prompts(...)` or `chat_prompts(...)`."""
        sampling = self.settle(prompts, sampling)
        prompts, plans = self.plan(prompts, sampling, seed=seed)
        ids = self.draw_ids(prompts, replace(sampling, plan="none"), seed=seed)
        return Drawing(self.decode(ids[:, : self.length(tokens)], sampling, seed=seed), plans, ids)

    def draw_ids(self, prompts: Prompts, sampling: Sampling, *, seed: Seed = 0) -> Tensor:
        """Ids `[B, K]` in codebook order that the language model writes after each prompt, and after its plan."""
        sampling = self.settle(prompts, sampling)
        arriving = self._arriving(self.plan(prompts, sampling, seed=seed)[0], sampling, seed)
        return self.vocab.reorder(torch.stack(list(arriving), dim=1))

    def settle(self, prompts: Prompts, sampling: Sampling) -> Sampling:
        """The sampling with the plan, guidance and temperature that it leaves to the model."""
        ending = self.vocab.encode_text(f" {ROLES['assistant']}")
        chat = all(row[-len(ending) - 1 : -1] == ending for row in prompts[0])  # before [BOV]
        if (plan := sampling.plan_for(chat and self.vocab.plans)) != "none" and not chat:
            raise ValueError(f"`plan` ({plan}) needs the chat format of an instruct model.")
        return replace(sampling, plan=plan).settled(plan != "none")

    def plan(self, prompts: Prompts, sampling: Sampling, *, seed: Seed = 0) -> tuple[Prompts, list[str]]:
        """The prompts with a plan before the image that they ask for, and the plans; guidance's counterparts have none.

        With `auto` the language model decides when the image begins, at the latest after `plan_length` ids.
        """
        whole, free = prompts
        vocab, asked = self.vocab, [row[:-1] for row in whole]  # without [BOV]
        setting = self.settle(prompts, sampling).plan
        if setting == "none":
            return prompts, [""] * len(whole)
        if setting == "auto":
            seeds = [key_bits("plan", n) >> 1 for n in each_seed(seed, len(whole))]  # other draws than the image's
            written = write_plans(self.llm, vocab, asked, sampling, seeds)
        else:
            written = [vocab.encode_text(f" {setting}")] * len(whole)
        planned = [[*row, *plan, vocab.bov] for row, plan in zip(asked, written, strict=True)]
        return (planned, free), [vocab.read_text(plan) for plan in written]

    def stream(
        self, prompts: Prompts, sampling: Sampling, *, seed: Seed = 0, every: int = 4, preview: Decoding | None = None
    ) -> Iterator[Drawing]:
        """What is drawn so far, after every `every` tokens, for `draw_prompts(...)` or `edit_prompts(...)`.

        Where the language model writes coarse tokens first, only the whole image comes: the decoder needs the finest.
        The images before the whole one are decoded as `preview` says, where it is given.
        """
        partial = self.vocab.order != "coarse_to_fine"
        sampling = self.settle(prompts, sampling)
        prompts, plans = self.plan(prompts, sampling, seed=seed)
        arrived: list[Tensor] = []
        for step in self._arriving(prompts, sampling, seed):
            arrived.append(step)
            whole = len(arrived) == self.vocab.image_tokens
            if whole or (partial and len(arrived) % every == 0):
                ids = torch.stack(arrived, dim=1)  # [B, n]
                ids = self.vocab.reorder(ids) if whole else ids
                yield Drawing(self.decode(ids, sampling if whole else preview or sampling, seed=seed), plans, ids)

    def _arriving(self, prompts: Prompts, sampling: Sampling, seed: Seed) -> Iterator[Tensor]:
        """Image ids `[B]` one by one, in the language model's order."""
        vocab, free = self.vocab, prompts[1] if sampling.guidance != 1 else None
        return stream_image_ids(self.llm, prompts[0], sampling, unconditional=free, start=vocab.image_start,
                                codebook_size=vocab.codebook_size, length=vocab.image_tokens,
                                seeds=each_seed(seed, len(prompts[0])), pad=vocab.pad)  # fmt: skip

    def describe_image(
        self, images: Tensor, question: str | Sequence[str] | None = None, *, chat: bool = True, **writing: Any
    ) -> list[str]:
        """A caption of each image, or the answer to one question for all or one for each; options as `write`.

        `chat=False` is for captions of a pretrained model, which cannot be asked questions.
        """
        return self.write(self.describe_prompts(images, question, chat=chat), **writing)

    def describe_prompts(
        self, images: Tensor, question: str | Sequence[str] | None = None, *, chat: bool = True
    ) -> list[list[int]]:
        """LM ids of "image, question", without a question of the request for a caption; as `describe_image`."""
        ids = self.encode(images).cpu()
        texts = [question] * len(ids) if question is None or isinstance(question, str) else list(question)
        if len(texts) != len(ids):
            raise ValueError(f"{len(ids)} images and {len(texts)} questions: give one for all or one for each.")
        if not chat and question is not None:
            raise ValueError("Questions need the chat format of an instruct model.")
        return [
            self.vocab.chat_prompt([{"role": "user", "content": [{"image": 0}, text or DESCRIBE]}], image[None])
            if chat
            else self.vocab.caption_prompt(image)
            for text, image in zip(texts, ids, strict=True)
        ]

    def write(self, prompts: list[list[int]], **writing: Any) -> list[str]:
        """The text that the language model writes after each prompt, without its plan; options as `write_planned`."""
        return [text for _, text in self.write_planned(prompts, **writing)]

    def write_planned(
        self, prompts: list[list[int]], *, max_new_tokens: int = 48, temperature: float = 0.0, seed: Seed = 0,
        looks: int = Sampling.looks,
    ) -> list[tuple[str, str]]:  # fmt: skip
        """Plan and text that the language model writes after each prompt; the plan is empty where it makes none.

        A text ends at `max_new_tokens`, or where the model's context does; temperature 0 takes the likeliest word.
        `looks` as in `Sampling`.
        """
        planned, seeds = self.vocab.answer_plans, each_seed(seed, len(prompts))
        room = self.llm.config.max_position_embeddings - max(map(len, prompts), default=0)
        length = max(1, min(max_new_tokens + (Sampling.plan_length if planned else 0), room))
        write = partial(self.write_ids, temperature=temperature)
        written = look_again(self.llm, self.vocab, prompts, write, length, seeds, looks if planned else 0)
        return [split_plan(self.vocab.read_text(line), planned) for line in written]

    def write_ids(
        self, prompts: list[list[int]], length: int, seed: Seed = 0, *, temperature: float = 0.0
    ) -> list[list[int]]:
        """Ids of that text without EOS, cut at `length`; a ValueError where the context has no room for so many."""
        vocab, seeds = self.vocab, each_seed(seed, len(prompts))
        return text_ids(self.llm, prompts, text_size=vocab.text_size, eos=vocab.eos, pad=vocab.pad,
                        max_new_tokens=length, temperature=temperature, seeds=seeds)  # fmt: skip

    def length(self, tokens: int | None) -> int:
        """Number of ids to decode; an error names the option."""
        total = self.tokenizer.config.tokens
        if tokens is not None and not 0 <= tokens <= total:
            raise ValueError(f"`tokens` ({tokens}) must be between 0 and the tokenizer's {total}.")
        return total if tokens is None else tokens
