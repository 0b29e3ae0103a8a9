"""SD3 warm start against diffusers' own transformer."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import SD3Transformer2DModel

from ddt_lightning.stages.tokenizer import TokenizerModule
from ddt_lightning.tokens.decoder import Decoder, DecoderConfig
from ddt_lightning.tokens.encoder import EncoderConfig
from ddt_lightning.tokens.quantizer import QuantizerConfig
from ddt_lightning.tokens.sd3 import decoder_name, warm_start
from ddt_lightning.tokens.tokenizer import TokenizerConfig
from ddt_lightning.training.optim import OptimConfig

SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
SMALL = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 12,
         "caption_projection_dim": 16, "pooled_projection_dim": 6, "pos_embed_max_size": 6}  # fmt: skip


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A small random SD3 transformer and the folder it is saved in."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**SMALL, **SIZES).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.startswith("proj_out"):
                parameter.normal_(std=0.2)  # zero at the start, so nothing would be compared
    folder = tmp_path_factory.mktemp("sd3") / "transformer"
    model.save_pretrained(folder)
    return model, folder


def build(**options) -> Decoder:
    torch.manual_seed(1)
    sizes = {"depth": 2, "heads": 2, "head_dim": 8, "positions": 6}
    return Decoder(DecoderConfig(**{**sizes, **options}), tokens=5, code_dim=3, channels=4, patch=2, positions=8).eval()


@pytest.mark.parametrize("place", ["folder", "pipeline"])
def test_without_tokens_it_is_sd3_without_text(sd3, place):
    model, folder = sd3
    decoder = build()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    copied = warm_start(decoder, folder if place == "folder" else folder.parent)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0.3, 1.0])
    with torch.no_grad():
        for parameter in model.time_text_embed.text_embedder.linear_2.parameters():
            parameter.zero_()  # no pooled text
        theirs = model(x, torch.zeros(2, 0, 12), torch.zeros(2, 6), 1000 * t).sample
        ours = decoder(x, t, torch.zeros(2, 0, 3))
    assert torch.allclose(ours, theirs, atol=1e-5)
    after = decoder.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all("context" not in name and "add_" not in name for name in changed)
    parameters = dict(model.named_parameters())
    assert copied == sum(value.numel() for name, value in parameters.items() if decoder_name(name))


def test_full_size_counts():
    with torch.device("meta"):
        medium = SD3Transformer2DModel(
            sample_size=128, num_layers=24, num_attention_heads=24, attention_head_dim=64, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192,
        )  # fmt: skip
        decoder = Decoder(DecoderConfig(24, 24, 64, 192), tokens=512, code_dim=16, channels=16, patch=2, positions=32)
    copied = {decoder_name(name): value for name, value in medium.named_parameters() if decoder_name(name)}
    assert len(copied) == 346
    assert sum(value.numel() for value in copied.values()) == 1_027_444_288
    ours = {name: value.shape for name, value in decoder.named_parameters()}
    assert {name: value.shape for name, value in copied.items()} == {name: ours[name] for name in copied}
    assert medium.pos_embed.pos_embed.shape == decoder.pos_embed.pos_embed.shape


@pytest.mark.parametrize(
    ("options", "said"),
    [({"depth": 3}, "lacks"), ({"depth": 1}, "also has"), ({"positions": 8}, "decoder.positions"),
     ({"head_dim": 16}, "the decoder's sizes")],
)  # fmt: skip
def test_other_sizes_are_refused(sd3, options, said):
    with pytest.raises(ValueError, match=said):
        warm_start(build(**options), sd3[1])


def test_a_run_starts_from_it(sd3, tmp_path):
    config = TokenizerConfig(
        tokens=5, codebook_size=16, code_dim=3, latent_channels=4, latent_size=8, patch=2, head="velocity",
        encoder=EncoderConfig(1, 8, 2, 8, 2), quantizer=QuantizerConfig(warmup_steps=0),
        decoder=DecoderConfig(2, 2, 8, positions=6),
    )  # fmt: skip
    module = TokenizerModule(OptimConfig(), config, sd3=str(sd3[1]))
    module.trainer = SimpleNamespace(max_steps=1, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    module.configure_model()
    state = module.tokenizer.decoder.state_dict()
    assert torch.equal(state["transformer_blocks.1.attn.to_q.weight"], sd3[0].transformer_blocks[1].attn.to_q.weight)
    with pytest.raises(ValueError, match="velocity"):
        TokenizerModule(OptimConfig(), replace(config, head="x0"), sd3=str(sd3[1]))
    with pytest.raises(ValueError, match="name one"):
        TokenizerModule(OptimConfig(), config, sd3=str(sd3[1]), init_from="runs/other")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.sd3"):
        warm_start(build(), tmp_path)
