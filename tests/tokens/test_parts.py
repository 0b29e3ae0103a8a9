"""Layers against those of diffusers: the same names, the same weights from the same seed, the same values."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models import attention, attention_processor, embeddings, normalization
from torch import Tensor, nn

from ddt_lightning.tokens import parts

WIDTH = 32
X, CONDITION = torch.randn(2, 9, WIDTH), torch.randn(2, WIDTH)


def joint(last: bool) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    return (
        lambda: parts.JointAttention(WIDTH, WIDTH, 4, last),
        lambda: attention_processor.Attention(
            query_dim=WIDTH, added_kv_proj_dim=WIDTH, dim_head=8, heads=4, out_dim=WIDTH, context_pre_only=last,
            bias=True,
        ),
    )  # fmt: skip


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "feed forward": (
        lambda: parts.FeedForward(WIDTH),
        lambda: attention.FeedForward(WIDTH, activation_fn="gelu-approximate"),
        (X,),
    ),
    "attention": (*joint(False), ()),
    "last attention": (*joint(True), ()),
    "patches": (
        lambda: parts.PatchEmbed(6, 4, 3, WIDTH),
        lambda: embeddings.PatchEmbed(24, 24, 4, 3, WIDTH, pos_embed_max_size=6),
        (torch.randn(2, 3, 16, 12),),
    ),
    "times": (
        lambda: parts.Timesteps(256),
        lambda: embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0),
        (torch.tensor([0.0, 0.5, 999.0]),),
    ),
    "time embedding": (
        lambda: parts.TimestepEmbedding(16, WIDTH),
        lambda: embeddings.TimestepEmbedding(16, WIDTH),
        (torch.randn(3, 16),),
    ),
    "norm zero": (
        lambda: parts.AdaLayerNormZero(WIDTH),
        lambda: normalization.AdaLayerNormZero(WIDTH),
        (X, CONDITION),
    ),
    "norm": (
        lambda: parts.AdaLayerNormContinuous(WIDTH),
        lambda: normalization.AdaLayerNormContinuous(WIDTH, WIDTH, elementwise_affine=False, eps=1e-6),
        (X, CONDITION),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_equals_that_of_diffusers(name):
    build, build_theirs, inputs = PAIRS[name]
    torch.manual_seed(0)
    ours = build()
    torch.manual_seed(0)
    theirs = build_theirs()
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in state)
    if inputs:
        options = {"emb": inputs[1]} if name == "norm zero" else {}
        found, wanted = ours(*inputs), theirs(*inputs[: 1 if options else None], **options)
        pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
        assert all(torch.equal(one, other) for one, other in pairs)


def test_more_patches_than_positions_are_refused():
    with pytest.raises(ValueError, match="7 x 2 patches"):
        parts.PatchEmbed(6, 4, 3, WIDTH)(torch.zeros(1, 3, 28, 8))
