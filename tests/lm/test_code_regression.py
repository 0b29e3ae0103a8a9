import numpy as np
import pytest
import torch

from ddt_lightning.lm.code_regression import CodeRegression


def test_error_is_that_of_standardised_codes_of_the_next_ids():
    torch.manual_seed(0)
    codes, start = torch.randn(5, 3) * 4 + 7, 10
    net = CodeRegression(8, codes)
    hidden, labels = torch.randn(2, 4, 8), torch.tensor([[12, 10, -100, 14], [3, 9, 15, 11]])
    total, count = net(hidden, labels, start)
    table = codes.numpy()
    table = (table - table.mean(0)) / table.std(0, ddof=1)
    weight, bias = (one.detach().numpy() for one in net.to_codes.parameters())
    expected = 0.0
    for row, place in ((0, 1), (0, 3), (1, 3)):  # 12 is predicted by nothing, 3, 9 and 15 are no image ids
        guess = hidden[row, place - 1].numpy() @ weight.T + bias
        expected += np.mean((guess - table[int(labels[row, place]) - start]) ** 2)
    assert int(count) == 3 and total.item() == pytest.approx(expected, rel=1e-5)
    assert net.state_dict().keys() == {"to_codes.weight", "to_codes.bias"}


def test_a_batch_without_images_costs_nothing():
    net = CodeRegression(8, torch.randn(5, 3))
    total, count = net(torch.randn(1, 3, 8), torch.tensor([[1, 2, -100]]), 10)
    total.backward()
    assert total == count == 0 and not net.to_codes.weight.grad.any()


def test_the_map_learns_and_sends_its_gradient_back():
    torch.manual_seed(1)
    codes = torch.randn(6, 3)
    net, hidden = CodeRegression(16, codes), torch.randn(1, 7, 16, requires_grad=True)
    labels = torch.tensor([[0, 0, 1, 2, 3, 4, 5]])
    optimizer = torch.optim.Adam([*net.parameters(), hidden], 0.05)
    losses = []
    for _ in range(60):
        total, count = net(hidden, labels, 0)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append((total / count).item())
    assert 0.3 < losses[0] < 4 and losses[-1] < 0.1 * losses[0]
