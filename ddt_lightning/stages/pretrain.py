"""Stage 2, `ddt-fit pretrain`: one language of text and image tokens, plain next-token prediction.

Rows come from token shards in four formats: text to image, image to text, image only and text only. Source: DDT-LLaMA
section 3.3.
"""

from ddt_lightning.stages.language import LanguageModule


class PretrainModule(LanguageModule):
    """Trains a `LanguageModule` on rows of token shards; see there for the arguments."""
