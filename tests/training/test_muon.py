"""Muon against torch's own and its formula, and its work divided over processes against one process."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from ddt_lightning.training.muon import orthogonalise
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.training.parallel import ParallelConfig, shard
from ddt_lightning.training.sharded import held
from tests.training.test_optim import Net

PROCESSES = 4


def test_orthogonalised_singular_values_are_near_one():
    updates = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(updates))
    assert 0.6 < singular.min() and singular.max() < 1.3
    tall = orthogonalise(updates.transpose(1, 2))
    assert torch.allclose(tall.transpose(1, 2), orthogonalise(updates), atol=1e-4)
    coarse = orthogonalise(updates, torch.bfloat16)
    assert coarse.dtype == torch.float32
    assert 0.5 < torch.linalg.svdvals(coarse).min() and torch.linalg.svdvals(coarse).max() < 1.4


@pytest.mark.parametrize("shape", [(64, 96), (128, 64), (48, 48)])
def test_muon_equals_torch(shape, monkeypatch):
    """torch orthogonalises in bfloat16 only; without that rounding both are the same to float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    block = nn.Module()
    block.blocks = nn.ModuleList([nn.Linear(shape[1], shape[0], bias=False)])
    ours = block.blocks[0].weight
    theirs = nn.Parameter(ours.detach().clone())
    config = OptimConfig(name="muon", matrix_lr=1e-2, warmup_steps=0, decay="constant", weight_decay=0.1,
                         momentum=0.9)  # fmt: skip
    optimizer = build_optimizer(block, config, 10)["optimizer"]
    reference = torch.optim.Muon(
        [theirs], lr=1e-2, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    start = theirs.detach().clone()
    for _ in range(5):
        gradient = torch.randn(shape, generator=draw)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    moved = (theirs - start).norm()
    assert moved > 0.1 and (ours - theirs).norm() < 1e-5 * moved


def test_muon_step_is_its_formula():
    torch.manual_seed(0)
    net = Net()
    config = OptimConfig(name="muon", matrix_lr=0.1, warmup_steps=0, decay="constant", weight_decay=0.5)
    optimizer = build_optimizer(net, config, 10)["optimizer"]
    net(torch.randn(16, 8)).pow(2).mean().backward()
    weight = net.blocks[1][0].weight
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    momentum = 0.05 * gradient
    update = orthogonalise((0.05 * gradient + 0.95 * momentum)[None])[0]
    assert torch.allclose(weight, before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 128**0.5 * update, atol=1e-5)


class Uneven(nn.Module):
    """Blocks whose rows four processes, and two, cannot share evenly; five matrices of one shape and one of another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(33, 33)) for _ in range(5)])
        self.blocks.append(nn.Sequential(nn.Linear(33, 50)))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).tanh()
        return x


def trained(net: nn.Module, rank: int, processes: int) -> list[torch.Tensor]:
    """Weights and momenta after 4 steps of the mean loss over 8 rows, dealt out to the processes."""
    config = OptimConfig(name="muon", lr=1e-2, matrix_lr=1e-2, warmup_steps=0, decay="constant", weight_decay=0.1)
    optimizer = build_optimizer(net, config, 4)["optimizer"]
    rows = torch.randn(4, 8, 33, generator=torch.Generator().manual_seed(1))
    for batch in rows:
        optimizer.zero_grad()
        net(batch[rank::processes]).pow(2).mean().backward()
        optimizer.step()
    momenta = [state["momentum"] for state in optimizer.state.values() if "momentum" in state]
    assert len(momenta) == 6  # the matrices; biases are AdamW's
    found = [*net.parameters(), *momenta]
    return [one.detach().full_tensor() if isinstance(one, DTensor) else one.detach() for one in found]


def one_of_four(rank: int, folder: str) -> None:
    """A process of the test below: sharded four ways, and twice two ways."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60)
    )
    for name, shape, axes in (("flat", (4,), ("shard",)), ("copies", (2, 2), ("replicate", "shard"))):
        net = Uneven()
        shard(net, net.blocks, ParallelConfig(), init_device_mesh("cpu", shape, mesh_dim_names=axes))
        for parameter in net.parameters():  # rows as this process believes to have them
            start, local = held(parameter)[0].start, parameter.to_local()
            assert torch.equal(parameter.full_tensor()[start : start + len(local)], local)
        torch.save(trained(net, rank, PROCESSES), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def test_sharded_matrices_are_updated_as_whole_ones_with_and_without_copies(tmp_path):
    torch.multiprocessing.spawn(one_of_four, (str(tmp_path),), PROCESSES)
    whole = trained(Uneven(), 0, 1)
    for name in ("flat", "copies"):
        for rank in range(PROCESSES):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            for one, other in zip(whole, found, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
