"""What `ddt doctor --config` says of a training run, against counts made by hand on real tensors."""

import pytest
import torch
import yaml

from ddt_lightning.cli import main
from ddt_lightning.settings import merge, read_yaml
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.training_cost import tokenizer_cost

TINY = {
    "tokens": 8, "codebook_size": 32, "code_dim": 4, "latent_size": 16, "patch": 4,
    "encoder": {"depth": 1, "image_width": 16, "image_heads": 2, "query_width": 32, "query_heads": 2},
    "decoder": {"depth": 2, "heads": 2, "head_dim": 16},
}  # fmt: skip


def test_counts_are_those_of_the_real_network():
    cost = tokenizer_cost({"model": {"tokenizer": TINY}, "data": {"batch_size": 6}})
    tokenizer = Tokenizer(TokenizerConfig.from_dict(TINY)).eval()
    trained = sum(p.numel() for p in tokenizer.parameters() if p.requires_grad)
    assert sum(cost.parts.values()) == trained and cost.state == 16 * trained and cost.batch == 6
    products = [2 * 32 * 4 * 8]  # features against the codebook

    def linear(module, inputs, output):
        products.append(2 * module.weight.numel() * output.numel() // output.shape[-1])

    def patches(module, inputs, output):
        products.append(2 * module.weight.numel() * output[0, 0].numel())

    for module in tokenizer.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(patches)
    x = torch.zeros(1, 3, 16, 16)
    tokenizer.output(x, torch.zeros(1), tokenizer.embed(tokenizer.encode(x)), None)
    # queries attend to 16 patches and 8 tokens; patches and tokens in the decoder to one another
    attention = 4 * 8 * 24 * 32 + 4 * 24 * 24 * 32 + 4 * 16 * 24 * 32
    assert cost.forward == sum(products) + attention


def test_averaged_weights_and_overlays_count(tmp_path, capsys):
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}
    base = {"model": {"tokenizer": TINY}, "trainer": {"callbacks": [average]}, "data": {"batch_size": 4, "lanes": 2}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "over.yaml").write_text(yaml.safe_dump({"data": {"batch_size": 8}}))
    settings = read_yaml([str(tmp_path / "base.yaml"), str(tmp_path / "over.yaml")])
    assert settings["data"] == {"batch_size": 8, "lanes": 2}
    with_average, without = tokenizer_cost(settings), tokenizer_cost({"model": {"tokenizer": TINY}})
    assert with_average.state == without.state * 5 // 4
    main(["doctor", "--config", str(tmp_path / "base.yaml"), "--tflops", "2"])
    assert "2 TFLOP/s" in capsys.readouterr().out
    into = {"a": {"b": 1, "c": [1]}}
    merge(into, {"a": {"c": [2]}})
    assert into == {"a": {"b": 1, "c": [2]}}


def test_other_stages_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--config", "stages/pretrain.yaml"])
    assert stop.value.code == 1 and "model.tokenizer" in capsys.readouterr().err
