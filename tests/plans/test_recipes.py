"""Options that depend on the processor, and overlays."""

import time

import pytest
import torch

from ddt_lightning.plans import recipes
from ddt_lightning.plans.recipes import overlaid


@pytest.mark.parametrize(
    ("flags", "faster", "expected"),
    [
        (
            {"avx512_bf16"},
            torch.bfloat16,
            ["--trainer.precision=bf16-mixed", "--model.optim.orthogonalise_in=bfloat16"],
        ),
        ({"avx512_bf16"}, torch.float32, []),
        ({"avx2"}, torch.bfloat16, []),
    ],
)
def test_bf16_only_where_it_is_measured_to_be_faster(monkeypatch, flags, faster, expected):
    def product(a, b):
        time.sleep(0.0005 if a.dtype == faster else 0.003)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(recipes, "processor_flags", lambda: flags)
    recipes.bf16_pays.cache_clear()
    try:
        assert recipes.mixed_precision() == expected
    finally:
        recipes.bf16_pays.cache_clear()


def test_overlays_do_not_share_what_they_hold():
    base = {"a": {"b": 1, "c": [1]}}
    merged = overlaid(base, {"a": {"b": 2}})
    merged["a"]["c"].append(2)
    assert base == {"a": {"b": 1, "c": [1]}} and merged == {"a": {"b": 2, "c": [1, 2]}}
