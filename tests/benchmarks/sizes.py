"""The sizes that the benchmarks of the tokenizer share: a quarter of the published width and a third of its blocks."""

from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.flow import TimesConfig
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.schedule import ScheduleConfig
from ddt_lightning.tokens.tokenizer import TokenizerConfig


def benchmark_config(prefix_groups: int = 1) -> TokenizerConfig:
    """Width 384, 8 decoder blocks, 256 patches, K=512, the published schedule, 32,768 codes of 16."""
    return TokenizerConfig(
        tokens=512,
        codebook_size=32768,
        code_dim=16,
        latent_channels=16,
        latent_size=32,
        patch=2,
        head="velocity",
        prefix_groups=prefix_groups,
        token_dropout=0.0,
        times=TimesConfig(power=1.0, fall_steps=0),
        schedule=ScheduleConfig([200, 400, 600, 800, 1000], [192, 184, 72, 48, 16]),
        encoder=EncoderConfig(depth=1, image_width=64, image_heads=4, query_width=384, query_heads=6),
        quantizer=QuantizerConfig(warmup_steps=0, commit_weight=1.0, diversity_weight=1.0),
        decoder=DecoderConfig(depth=8, heads=6, head_dim=64),
    )
