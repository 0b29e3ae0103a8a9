"""Options that several verbs share, as plain dataclasses; `main` spreads their fields over a verb's own options."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loading:
    """Which model, where.

    Args:
        model: model folder, with tokenizer/, lm/ and vocab/; or the folder of a run.
        tokenizer: tokenizer folder, or the run of one, where the model folder has none (as after pretraining).
        renderer: renderer folder, or the run of one, where the model folder has none; `none` decodes by diffusion even
            where it has. Whole images are then drawn in one step.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: images at a time.
    """

    model: str = "runs/demo/model"
    tokenizer: str | None = None
    renderer: str | None = None
    device: str = "auto"
    batch: int = 64


@dataclass(frozen=True)
class Coding:
    """How a tokenizer runs over shards.

    Args:
        vae: folder of the diffusers AutoencoderKL that makes the latents; none for a tokenizer of pixels.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        batch: samples at a time.
        processes: worker processes, a shard at a time each.
    """

    vae: str | None = None
    device: str = "auto"
    batch: int = 64
    processes: int = 2


@dataclass(frozen=True)
class Decoding:
    """How ids become images.

    Args:
        steps: Euler steps of the diffusion decoder.
        decode_guidance: guidance of the diffusion decoder; 1 for none.
    """

    steps: int = 16
    decode_guidance: float = 1.5


@dataclass(frozen=True)
class Drawing:
    """How the language model draws ids, and how they become images.

    Args:
        guidance: guidance of the language model; 1 for none.
        temperature: of the language model; 0 takes the likeliest id.
        top_k: sample among this many ids; 0 for all.
        top_p: sample among the likeliest ids that hold this share of the probability.
        steps: Euler steps of the diffusion decoder.
        decode_guidance: guidance of the diffusion decoder; 1 for none.
        compile: compile the language model's step: slow at first, then faster; for many images on a GPU.
    """

    guidance: float = 2.0
    temperature: float = 0.5
    top_k: int = 0
    top_p: float = 1.0
    steps: int = 16
    decode_guidance: float = 1.5
    compile: bool = False


@dataclass(frozen=True)
class Networks:
    """Frozen networks that look at images, by their files.

    Args:
        inception: torch-fidelity's Inception weights, for FID, KID, precision and recall; without them these are left
            out.
        encoder: encoder that `ddt study encoder` wrote; the shipped one, of scenes, if not given.
        lpips: torchvision's weights of AlexNet or VGG-16, for LPIPS; without them it is left out.
    """

    inception: str | None = None
    encoder: str | None = None
    lpips: str | None = None


@dataclass(frozen=True)
class Setup:
    """What every job of an evaluation shares.

    Args:
        loading: which model.
        drawing: how to draw.
    """

    loading: Loading
    drawing: Drawing

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoder's part of the options."""
        return {"steps": self.drawing.steps, "decode_guidance": self.drawing.decode_guidance}
