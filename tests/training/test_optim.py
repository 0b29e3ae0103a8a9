"""Optimiser, schedule and strict loading against closed forms and torch's own optimisers."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ddt_lightning.training.checkpoint import load_strictly, read_weights
from ddt_lightning.training.optim import OptimConfig, build_optimizer, hidden_matrices, lr_share


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(2))
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_schedule_warms_up_and_decays():
    config = OptimConfig(warmup_steps=10, decay="cosine", final_share=0.1)
    shares = [lr_share(step, config, 110) for step in range(120)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1.0
    assert shares[60] == pytest.approx(0.55)
    assert shares[110] == shares[119] == pytest.approx(0.1)
    assert lr_share(60, OptimConfig(warmup_steps=10, decay="linear", final_share=0.0), 110) == pytest.approx(0.5)
    assert lr_share(99, OptimConfig(warmup_steps=10, decay="constant"), 110) == 1.0


def test_matrices_of_blocks_go_to_muon_and_nothing_else():
    net = Net()
    assert hidden_matrices(net) == {layer.weight for block in net.blocks for layer in (block[0], block[2])}


def test_adamw_equals_torch():
    torch.manual_seed(0)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(name="adamw", lr=1e-2, warmup_steps=0, decay="constant", weight_decay=0.1)
    optimizer = build_optimizer(ours, config, 10)["optimizer"]
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    rest = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    x = torch.randn(16, 8)
    for _ in range(5):
        for net, opt in ((ours, optimizer), (theirs, reference)):
            opt.zero_grad()
            net(x).pow(2).mean().backward()
            opt.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_fused_steps_equal_those_of_plain_code(name):
    nets = []
    for fused in (False, True):
        torch.manual_seed(0)
        net = Net()
        optimizer = build_optimizer(net, OptimConfig(name=name, lr=1e-2, fused=fused), 10)["optimizer"]
        assert optimizer.param_groups[0]["fused"] is (True if fused else None)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        nets.append(net)
    for plain, fused in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(plain, fused, rtol=1e-4, atol=1e-6)


def test_fused_steps_leave_clipping_to_lightning():
    from lightning.pytorch.plugins.precision import MixedPrecision

    net = Net()
    optimizer = build_optimizer(net, OptimConfig(fused=True), 10)["optimizer"]
    net(torch.ones(2, 8)).square().sum().backward()
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1e-3)
    total = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    assert total == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_resumes_exactly(name):
    def run(interrupted):
        torch.manual_seed(0)
        net = Net()
        config = OptimConfig(name=name, warmup_steps=2)
        made = build_optimizer(net, config, 10)
        for step in range(6):
            if interrupted and step == 3:
                saved = [made["optimizer"].state_dict(), made["lr_scheduler"]["scheduler"].state_dict()]
                made = build_optimizer(net, config, 10)
                made["optimizer"].load_state_dict(saved[0])
                made["lr_scheduler"]["scheduler"].load_state_dict(saved[1])
            made["optimizer"].zero_grad()
            net(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).pow(2).mean().backward()
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.equal(run(False), run(True))


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"optim\.warmup_steps.*\(500\)"):
        OptimConfig(warmup_steps=500, total_steps=100)
    with pytest.raises(ValueError, match=r"optim\.lr"):
        OptimConfig(lr=0.0)


def test_strict_loading_names_the_first_misfit(tmp_path):
    net, weights = Net(), Net().state_dict()
    load_strictly(net, weights, "x")
    with pytest.raises(ValueError, match=r"head\.bias is missing"):
        load_strictly(net, {k: v for k, v in weights.items() if k != "head.bias"}, "x")
    with pytest.raises(ValueError, match="extra is unknown"):
        load_strictly(net, {**weights, "extra": torch.zeros(1)}, "x")
    with pytest.raises(ValueError, match=r"head\.weight is \[2, 2\], the model has \[4, 64\]"):
        load_strictly(net, {**weights, "head.weight": torch.zeros(2, 2)}, "x")
    tied = Net()
    tied.blocks[1][0].weight = tied.blocks[0][0].weight
    load_strictly(tied, {k: v for k, v in weights.items() if k != "blocks.1.0.weight"}, "x")
    assert torch.equal(tied.blocks[1][0].weight, weights["blocks.0.0.weight"])
    with pytest.raises(FileNotFoundError, match="init_from"):
        read_weights(tmp_path / "none", "lm", "llm.")
    with pytest.raises(FileNotFoundError, match="holds no lm"):
        read_weights(tmp_path, "lm", "llm.")


def test_weights_are_read_from_the_files_of_an_index(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                         num_attention_heads=4, tie_word_embeddings=True))  # fmt: skip
    model.save_pretrained(tmp_path / "one" / "lm")
    model.save_pretrained(tmp_path / "many" / "lm", max_shard_size="10KB")
    files = sorted((tmp_path / "many" / "lm").glob("*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "many" / "lm" / "model.safetensors").exists()
    one, many = (read_weights(tmp_path / name, "lm", "llm.") for name in ("one", "many"))
    assert one.keys() == many.keys() and all(one[name].equal(many[name]) for name in one)
    load_strictly(model, many, tmp_path / "many")
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"`init_from`.*{files[1].name}"):
        read_weights(tmp_path / "many", "lm", "llm.")


def test_learning_rates_by_name():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    config = OptimConfig(lr=1e-3, lrs={r"^0\.weight": 1e-4, r"^0\.": 2e-4})
    groups = build_optimizer(net, config, 10)["optimizer"].param_groups
    rates = {id(parameter): group["initial_lr"] for group in groups for parameter in group["params"]}
    assert rates[id(net[0].weight)] == 1e-4 and rates[id(net[0].bias)] == 2e-4
    assert rates[id(net[1].weight)] == rates[id(net[1].bias)] == 1e-3
    with pytest.raises(ValueError, match="'nowhere'"):
        build_optimizer(net, OptimConfig(lrs={"nowhere": 1e-4}), 10)
    with pytest.raises(ValueError, match=r"optim\.lrs"):
        OptimConfig(lrs={"x": 0.0})
