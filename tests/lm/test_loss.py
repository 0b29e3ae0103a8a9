"""The chunked loss against plain logits in float64, its gradients included, on one process and on two."""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.loss import global_mean, linear_cross_entropy, split_loss
from ddt_lightning.training.parallel import ParallelConfig, forward_method, shard

N, V, D = 23, 22, 5


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, V, (3, 7), generator=generator)  # text 0..9, image 10..19, [BOV] 20, [EOV] 21
    labels[0, :3], labels[2] = -100, -100
    labels[1, 2:4] = torch.tensor([20, 21])
    return 3 * torch.randn(3, 7, D, generator=generator), torch.randn(V, D, generator=generator), labels


def plain(hidden, weight, targets, softcap=None, z_weight=0.0, weights=1.0):
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (weights * (losses + z_weight * logits.logsumexp(-1).square())).sum(), losses


@pytest.mark.parametrize("rows", [None, 1, 7, 64])
@pytest.mark.parametrize(("softcap", "z_weight"), [(None, 0.0), (2.0, 0.0), (None, 0.3), (2.0, 0.3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_sum_and_gradients_are_those_of_plain_logits(rows, softcap, z_weight, weighted):
    torch.manual_seed(0)
    hidden, weight = 2 * torch.randn(N, D), torch.randn(V, D)
    targets = torch.randint(V, (N,))
    weights = 3 * torch.rand(N) if weighted else None
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    total, losses = linear_cross_entropy(*ours, targets, softcap, z_weight, rows, weights)
    expected, each = plain(*theirs, targets, softcap, z_weight, 1.0 if weights is None else weights.double())
    (total * 0.7).backward()
    (expected * 0.7).backward()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.double(), each, rtol=1e-5, atol=1e-6)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-5, atol=1e-5)
    assert not losses.requires_grad


def test_one_chunk_of_logits_is_the_most_that_exists(batch):
    hidden, weight, _ = batch
    seen = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(t.shape for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor))
            return out

    rows, many = 4, hidden.flatten(0, 1).requires_grad_()
    with Shapes():
        linear_cross_entropy(many, weight.requires_grad_(), torch.zeros(21, dtype=torch.long), rows=rows)[0].backward()
    assert max(shape[0] for shape in seen if shape[-1:] == (V,) and shape[0] != D) == rows  # D: the head, transposed


def test_a_frozen_head_or_body_gets_no_gradient():
    hidden, weight, targets = torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,))
    for frozen in (0, 1):
        inputs = [hidden.clone().requires_grad_(frozen != 0), weight.clone().requires_grad_(frozen != 1)]
        reference = [value.detach().clone().requires_grad_(value.requires_grad) for value in inputs]
        linear_cross_entropy(*inputs, targets)[0].backward()
        plain(*reference, targets)[0].backward()
        assert inputs[frozen].grad is None
        torch.testing.assert_close(inputs[1 - frozen].grad, reference[1 - frozen].grad)


def test_the_gradient_can_be_asked_for_once():
    hidden, weight = torch.randn(N, D, requires_grad=True), torch.randn(V, D)
    total, _ = linear_cross_entropy(hidden, weight, torch.randint(V, (N,)))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        total.backward()
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, torch.randint(V, (N,)))[0].requires_grad


def test_autocast_products_are_low_and_sums_are_not():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,))
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = linear_cross_entropy(*ours, targets, rows=6)
        logits = F.linear(*theirs)
    expected = F.cross_entropy(logits.float(), targets, reduction="sum")
    assert logits.dtype == torch.bfloat16 and total.dtype == losses.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    total.backward()
    expected.backward()
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0.02, atol=0.02)


def test_low_precision_weights_get_gradients_of_their_kind():
    hidden, weight = torch.randn(N, D).bfloat16().requires_grad_(), torch.randn(V, D).bfloat16().requires_grad_()
    linear_cross_entropy(hidden, weight, torch.randint(V, (N,)))[0].backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_parts_by_id_range(batch):
    hidden, weight, labels = batch
    sums = split_loss(hidden, weight, labels, 10, 20)
    nats = {"text": [], "image": [], "special": []}
    logits = (hidden @ weight.T)[:, :-1].flatten(0, 1).double()
    for row, target in zip(logits, labels[:, 1:].flatten().tolist(), strict=True):
        if target >= 0:
            part = "text" if target < 10 else "image" if target < 20 else "special"
            nats[part].append(-row.log_softmax(-1)[target].item())
    assert nats["special"]
    assert sums.text.item() == pytest.approx(sum(nats["text"]), rel=1e-5)
    assert sums.image.item() == pytest.approx(sum(nats["image"]), rel=1e-5)
    assert sums.total.item() == pytest.approx(sum(map(sum, nats.values())), rel=1e-5)
    counts = [sums.text_count, sums.image_count, sums.count]
    assert counts == [len(nats["text"]), len(nats["image"]), sum(map(len, nats.values()))]


def test_text_counts_more_where_it_is_weighed_more(batch):
    hidden, weight, labels = batch
    hidden, head = hidden.requires_grad_(), weight
    sums = split_loss(hidden, head, labels, 10, 20, text_weight=5.0)
    even = split_loss(hidden, head, labels, 10, 20)
    assert sums.text == even.text
    assert sums.image == even.image
    assert sums.text_count == even.text_count > 0
    torch.testing.assert_close(sums.total, even.total + 4 * even.text)
    assert sums.count == even.count + 4 * even.text_count


def test_nothing_scored_is_zero_with_a_gradient(batch):
    hidden, weight = batch[0].requires_grad_(), batch[1].requires_grad_()
    sums = split_loss(hidden, weight, torch.full((3, 7), -100), 10, 20)
    loss = global_mean(sums.total, sums.count)
    loss.backward()
    assert loss == 0 and hidden.grad.abs().sum() == 0 and weight.grad.abs().sum() == 0


def loss_and_gradients(tied, ids, labels, mesh, config):
    """Of a small Llama, this rank's loss and the whole gradients."""
    torch.manual_seed(1)
    sizes = LlmConfig(width=16, depth=2, heads=2, kv_heads=2, ffn_width=32, tie_embeddings=tied)
    model = build_llm(sizes, V, 1, 2, 3)
    shard(model, model.model.layers, config, mesh)
    hidden = forward_method(model, hidden_states)(ids)
    sums = split_loss(hidden, model.get_output_embeddings().weight, labels, 10, 20, softcap=2.0, z_weight=1e-2)
    loss = global_mean(sums.total, sums.count)
    loss.backward()
    whole = {n: getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for n, p in model.named_parameters()}
    return loss.detach(), {name.replace("_checkpoint_wrapped_module.", ""): grad for name, grad in whole.items()}


def _rank(rank, meeting, ids, labels, results):
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    config = ParallelConfig(activation_checkpointing=True)
    for tied in (True, False):
        loss, gradients = loss_and_gradients(tied, ids[rank::2], labels[rank::2], mesh, config)
        dist.all_reduce(loss)
        if rank == 0:
            results[tied] = (loss / 2).item(), {name: grad.tolist() for name, grad in gradients.items()}
    dist.barrier()
    dist.destroy_process_group()


def test_two_sharded_processes_equal_one(batch, tmp_path):
    labels = batch[2]
    ids = labels.clamp(min=0)
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_rank, (tmp_path / "meeting", ids, labels, results), nprocs=2)
    for tied in (True, False):
        loss, gradients = loss_and_gradients(tied, ids, labels, None, ParallelConfig())
        shared, gathered = results[tied]
        assert shared == pytest.approx(loss.item(), rel=1e-5)
        assert gathered.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(torch.tensor(gathered[name]), gradient, rtol=1e-4, atol=1e-5)
