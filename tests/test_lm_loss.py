"""Loss sums against float64 and torch's own mean, and the global mean against two processes."""

import socket

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from ddt_lightning.lm.loss import global_mean, next_token_loss, split_loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 22, (3, 7), generator=generator)  # text 0..9, image 10..19, [BOV] 20, [EOV] 21
    labels[0, :3], labels[2] = -100, -100
    labels[1, 2:4] = torch.tensor([20, 21])
    return 3 * torch.randn(3, 7, 22, generator=generator), labels


def test_sum_over_count_is_the_shifted_mean(batch):
    logits, labels = batch
    total, count = next_token_loss(logits, labels)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten(), ignore_index=-100)
    assert count == (labels[:, 1:] != -100).sum()
    torch.testing.assert_close((total / count).double(), expected)


def test_parts_by_id_range(batch):
    logits, labels = batch
    sums = split_loss(logits, labels, 10, 20)
    nats = {"text": [], "image": [], "special": []}
    for row, target in zip(logits[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten().tolist(), strict=True):
        if target >= 0:
            part = "text" if target < 10 else "image" if target < 20 else "special"
            nats[part].append(-row.log_softmax(-1)[target].item())
    assert nats["special"]
    assert sums.text.item() == pytest.approx(sum(nats["text"]), rel=1e-5)
    assert sums.image.item() == pytest.approx(sum(nats["image"]), rel=1e-5)
    assert sums.total.item() == pytest.approx(sum(map(sum, nats.values())), rel=1e-5)
    counts = [sums.text_count, sums.image_count, sums.count]
    assert counts == [len(nats["text"]), len(nats["image"]), sum(map(len, nats.values()))]
    total, count = next_token_loss(logits, labels)
    assert total == sums.total and count == sums.count


def test_low_precision_logits_are_summed_in_fp32(batch):
    logits, labels = batch
    with torch.autocast("cpu", torch.bfloat16):
        low = split_loss(logits.bfloat16(), labels, 10, 20).total
    assert low.dtype == torch.float32
    assert low == split_loss(logits.bfloat16().float(), labels, 10, 20).total


def test_nothing_scored_is_zero_with_a_gradient(batch):
    logits = batch[0].clone().requires_grad_()
    sums = split_loss(logits, torch.full((3, 7), -100), 10, 20)
    loss = global_mean(sums.total, sums.count)
    loss.backward()
    assert loss == 0 and logits.grad.abs().sum() == 0


def _rank(rank, port, logits, labels, results):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weight = torch.ones(22, requires_grad=True)
    loss = global_mean(*next_token_loss(logits[rank::2] * weight, labels[rank::2]))
    loss.backward()
    for value in (shared := [loss.detach().clone(), weight.grad.clone()]):
        dist.all_reduce(value)
    if rank == 0:
        results.extend([(value / 2).tolist() for value in shared])
    dist.destroy_process_group()


def test_average_over_ranks_is_one_process(batch):
    logits, labels = batch
    weight = torch.ones(22, requires_grad=True)
    loss = global_mean(*next_token_loss(logits * weight, labels))
    loss.backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").Manager().list()
    torch.multiprocessing.spawn(_rank, (port, logits, labels, results), nprocs=2)
    assert results[0] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.tensor(results[1]), weight.grad)
