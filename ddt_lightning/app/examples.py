"""Examples to click: prompts, instructions and questions about the two embedded worlds, shapes and emoji.

A model is shown those whose every word its training texts hold.
"""

from collections.abc import Sequence

from ddt_lightning.vocab import Vocab

PROMPTS = (
    "a photo of two red circles",
    "a photo of a green triangle",
    "a photo of a blue square above a yellow ring",
    "a photo of three white diamonds on a teal background",
    "a photo of a purple cross left of a brown circle",
    "woman firefighter, dark skin, twemoji style",
    "grinning face, noto style",
    "red apple, noto style",
    "man pilot, light skin, noto style",
)
INSTRUCTIONS = (
    "change the background to teal",
    "make the circle green",
    "turn day into night",
    "put a black diamond at the bottom left",
    "make the skin dark",
    "draw it in twemoji style",
    "turn it into a woman",
)
QUESTIONS = (
    "how many shapes are there?",
    "which shape is blue?",
    "is it day or night?",
    "what color is the circle?",
    "what is it?",
    "which skin tone is it?",
)


def known(texts: Sequence[str], vocab: Vocab) -> list[str]:
    """Those of `texts` that hold no word which training never showed; all where a vocabulary does not know."""
    return [text for text in texts if not vocab.unknown_words(text)]
