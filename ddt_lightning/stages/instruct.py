"""Stage 3, `ddt-fit instruct`: `USER: ... ASSISTANT: ...` conversations, scored on the answers only.

It starts from the pretrained weights; images may stand in any turn, so one model draws, edits, describes and answers.
Source: DDT-LLaMA section 3.4.
"""

from ddt_lightning.stages.language import LanguageModule


class InstructModule(LanguageModule):
    """Trains a `LanguageModule` on conversations; see there for the arguments. `init_from` or `llm` is needed."""

    fresh = False
