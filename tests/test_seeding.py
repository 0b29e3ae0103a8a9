"""Draws belong to samples; stratified ones cover every global batch evenly."""

import pytest
import torch
from scipy.stats import kstest

from ddt_lightning.seeding import normal, stratified, uniform


def test_every_part_of_a_global_batch_holds_one_draw():
    for step in (0, 3):
        u = stratified("time", 0, samples=torch.arange(step * 8, step * 8 + 8), batch=8)
        assert sorted((8 * u).long().tolist()) == list(range(8))


def test_a_draw_depends_on_its_sample_alone_not_on_who_asks():
    whole = stratified("time", 0, samples=torch.arange(24), batch=8)
    for rank in range(2):
        mine = torch.arange(rank, 24, 2)
        assert torch.equal(stratified("time", 0, samples=mine, batch=8), whole[mine])
    assert not torch.equal(whole, stratified("time", 1, samples=torch.arange(24), batch=8))


def test_draws_of_one_place_are_uniform_and_below_one():
    samples = torch.arange(0, 32 * 500, 32)  # the first sample of 500 batches
    u = stratified("time", 0, samples=samples, batch=32)
    assert kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert 0 <= u.min() and u.max() < 1


def test_the_mean_over_a_batch_varies_less_than_that_of_independent_draws():
    samples = torch.arange(32 * 100)
    even = stratified("time", 0, samples=samples, batch=32).view(100, 32).mean(1).std()
    free = uniform("time", 0, samples=samples).view(100, 32).mean(1).std()
    assert even < 0.2 * free
    assert float(even) == pytest.approx((1 / 12) ** 0.5 / 32 / 32**0.5, rel=0.3)


def test_threads_draw_the_same_noise():
    samples = torch.arange(100, 109)
    alone, together = (normal((3, 4, 4), "noise", 0, samples=samples, threads=threads) for threads in (1, 4))
    assert torch.equal(alone, together) and alone.std() > 0.5
