"""How images are drawn: options of the language model's sampling and of the diffusion decoder."""

from dataclasses import dataclass


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
class Sampling:
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
    steps: int = Decoding.steps
    decode_guidance: float = Decoding.decode_guidance
    compile: bool = False

    @property
    def decoding(self) -> Decoding:
        """The decoder's part."""
        return Decoding(self.steps, self.decode_guidance)
