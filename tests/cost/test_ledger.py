"""The ledger against sums made by hand: what lives when, of which kind, and what was multiplied."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ddt_lightning.cost.ledger import ACTIVATIONS, BACKWARD, FORWARD, HEAD, LOSS, WEIGHTS, WORKING, Ledger

KB = 1024


def test_peaks_of_each_phase_by_kind():
    with FakeTensorMode(), Ledger() as ledger:
        weight = torch.empty(16, 16)
        ledger.hold([weight], WEIGHTS)
        with ledger.phase(FORWARD, ACTIVATIONS):
            first = torch.empty(256)
            second = torch.empty(512)
            view = second[:3]  # of the same storage
            del first
        with ledger.phase(LOSS, HEAD):
            third = torch.empty(256)
            third.mul_(2)
        assert view.shape == (3,) and third.shape == (256,)
    assert ledger.peak(FORWARD) == {WEIGHTS: KB, ACTIVATIONS: 3 * KB}
    assert ledger.peak(LOSS) == {WEIGHTS: KB, ACTIVATIONS: 2 * KB, HEAD: KB}


def test_products_forward_and_backward():
    with FakeTensorMode():
        a, b = torch.empty(4, 8, requires_grad=True), torch.empty(8, 16, requires_grad=True)
        with Ledger() as ledger:
            with ledger.phase(FORWARD, ACTIVATIONS):
                c = (a @ b).sum()
            with ledger.phase(BACKWARD, WORKING):
                c.backward()
    assert ledger.flops[FORWARD] == 2 * 4 * 8 * 16 and ledger.flops[BACKWARD] == 2 * ledger.flops[FORWARD]


def test_attention_is_counted_as_its_products():
    batch, heads, length, width = 2, 3, 5, 8
    with FakeTensorMode():
        x = torch.empty(batch, heads, length, width, requires_grad=True)
        with Ledger() as ledger:
            with ledger.phase(FORWARD, ACTIVATIONS):
                y = torch.nn.functional.scaled_dot_product_attention(x, x, x).sum()
            with ledger.phase(BACKWARD, WORKING):
                y.backward()
    assert ledger.flops[FORWARD] == 2 * 2 * batch * heads * length * length * width
    assert ledger.flops[BACKWARD] == 2 * ledger.flops[FORWARD]


def test_questions_of_values_are_answered_with_the_most():
    with FakeTensorMode(), Ledger():
        x, mask = torch.empty(6, 4), torch.empty(6, dtype=torch.bool)
        assert x[mask].shape == x.shape
        assert len(mask.nonzero()) == 0
        assert x[: int(torch.zeros((), dtype=torch.long))].shape == x.shape
        assert torch.bincount(torch.zeros(6, dtype=torch.long), minlength=9).shape == (9,)
