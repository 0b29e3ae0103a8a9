"""Stage 3, `ddt-fit instruct`: `USER: ... ASSISTANT: ...` conversations, scored on the answers only.

It starts from the pretrained weights; images may stand in any turn, so one model draws, edits, describes and answers.
Source: DDT-LLaMA section 3.4.
"""

from ddt_lightning.lm.llm import LlmConfig
from ddt_lightning.lm.lora import LoraConfig
from ddt_lightning.stages.language import LanguageModule
from ddt_lightning.training.optim import OptimConfig
from ddt_lightning.training.parallel import ParallelConfig


class InstructModule(LanguageModule):
    """Trains a `LanguageModule` on conversations; see there for the arguments. `init_from` or `llm` is needed."""

    def __init__(
        self,
        network: LlmConfig,
        optim: OptimConfig,
        llm: str | None = None,
        parallel: ParallelConfig | None = None,
        init_from: str | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
        freeze_text_embeddings: bool = False,
        codebook: str | None = None,
        z_weight: float = 0.0,
        text_weight: float = 1.0,
    ) -> None:
        if not init_from and not llm:
            raise ValueError(
                "`init_from` is needed: instruction tuning starts from a pretrain run, e.g. runs/pretrain."
            )
        super().__init__(
            network,
            optim,
            llm,
            parallel,
            init_from,
            seed,
            lora,
            freeze_text_embeddings,
            codebook,
            z_weight,
            text_weight,
        )
