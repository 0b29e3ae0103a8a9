"""Selftok's official layout: the golden tensors of the published code, and what is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddt_lightning.cli import main
from ddt_lightning.tokens.flow import flow_error, interpolate
from ddt_lightning.tokens.schedule import visible_mask
from ddt_lightning.tokens.selftok import SelftokSizes, convert, convert_name, published_sizes
from ddt_lightning.tokens.tokenizer import Tokenizer

TINY = SelftokSizes(
    K=12, codebook_size=20, code_dim=6, stages="300,1000", tokens_per_stage="8,4", encoder_depth=2, image_width=8,
    image_heads=2, query_width=16, query_heads=4, decoder_depth=2, decoder_heads=2, head_dim=8, latent_size=6,
    latent_channels=4, patch_size=2, encoder_positions=5, pos_embed_max_size=7,
)  # fmt: skip


OWN = Path(__file__).parents[1] / "golden"
"""What this package computed from random weights when it equalled the published code; rewritten by
`python -m tests.commands.test_import_selftok`, only where a change of results is meant."""


@pytest.fixture(scope="module", params=["published", "own"])
def golden(request) -> Path:
    """Folder of reference tensors: of the published code (named by `DDT_GOLDEN`, or a skip), and our own."""
    if request.param == "own":
        return OWN
    if "DDT_GOLDEN" not in os.environ:
        pytest.skip("DDT_GOLDEN is not set")
    return Path(os.environ["DDT_GOLDEN"])


def official(sizes: SelftokSizes) -> dict[str, torch.Tensor]:
    """Random weights under the official names and in the official shapes, dead tensors included."""
    g = torch.Generator().manual_seed(0)
    image, query, width = sizes.image_width, sizes.query_width, sizes.decoder_heads * sizes.head_dim
    area = sizes.latent_channels, sizes.patch_size, sizes.patch_size
    linears = {
        "encoder.quantizer.project_in": (sizes.code_dim, query),
        "model.context_embedder": (width, sizes.code_dim),
        "model.t_embedder.mlp.0": (width, 256),
        "model.t_embedder.mlp.2": (width, width),
        "model.final_layer.linear": (sizes.latent_channels * sizes.patch_size**2, width),
        "model.final_layer.adaLN_modulation.1": (2 * width, width),
        "model.y_embedder.mlp.0": (width, sizes.code_dim),
    }
    for b in range(sizes.encoder_depth):
        linears |= {
            f"encoder.blocks.{b}.{name}": shape
            for name, shape in {
                "attn.qkv": (3 * image, image), "attn.proj": (image, image), "attn.to_query_kv": (2 * query, image),
                "attn.query_linear": (3 * query, query), "attn.query_proj": (query, query),
                "mlp.fc1": (4 * image, image), "mlp.fc2": (image, 4 * image), "q_mlp.fc1": (4 * query, query),
                "q_mlp.fc2": (query, 4 * query), "adaLN_modulation.1": (6 * query, query),
                "t_embedder.mlp.0": (query, 256), "t_embedder.mlp.2": (query, query),
            }.items()
        }  # fmt: skip
    for i in range(sizes.decoder_depth):
        last = i == sizes.decoder_depth - 1
        streams = {
            "x_block.attn.qkv": (3 * width, width), "x_block.attn.proj": (width, width),
            "x_block.adaLN_modulation.1": (6 * width, width), "x_block.mlp.fc1": (4 * width, width),
            "x_block.mlp.fc2": (width, 4 * width), "context_block.attn.qkv": (3 * width, width),
            "context_block.adaLN_modulation.1": ((2 if last else 6) * width, width),
            "context_block.t_embedder.mlp.0": (width, 256), "context_block.t_embedder.mlp.2": (width, width),
        }  # fmt: skip
        if not last:
            streams |= {
                "context_block.attn.proj": (width, width), "context_block.mlp.fc1": (4 * width, width),
                "context_block.mlp.fc2": (width, 4 * width),
            }  # fmt: skip
        linears |= {f"model.joint_blocks.{i}.{name}": shape for name, shape in streams.items()}
    state = {}
    for name, shape in linears.items():
        scale = 2.0 if name.endswith("to_query_kv") else 0.2  # large where the image enters, so that ids depend on it
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=g)
        state[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=g)
    k, c, d = sizes.K, sizes.codebook_size, sizes.code_dim
    built = Tokenizer(sizes.config())
    state |= {
        "encoder.x_embedder.proj.weight": torch.randn(image, *area, generator=g),
        "encoder.x_embedder.proj.bias": torch.randn(image, generator=g),
        "model.x_embedder.proj.weight": torch.randn(width, *area, generator=g),
        "model.x_embedder.proj.bias": torch.randn(width, generator=g),
        "encoder.query_tokens": torch.randn(1, k, query, generator=g),
        "encoder.pos_embed": built.encoder.patch_embed.pos_embed.clone(),
        "model.pos_embed": built.decoder.pos_embed.pos_embed.clone(),
        "model.context_pos_embed": built.decoder.token_table[None].clone(),
        "encoder.final_layer_norm3.weight": torch.randn(d, generator=g),
        "encoder.final_layer_norm3.bias": torch.randn(d, generator=g),
        "encoder.final_layer_norm.weight": torch.ones(query),
        "encoder.quantizer._codebook.embed": torch.nn.functional.normalize(torch.randn(1, c, d, generator=g), dim=-1),
        "encoder.quantizer._codebook.embed_avg": torch.randn(1, c, d, generator=g),
        "encoder.quantizer._codebook.cluster_size": torch.rand(1, c, generator=g),
        "encoder.quantizer._codebook.timestep_p_over_c": torch.rand(1, k, c, generator=g),
        "encoder.quantizer._codebook.initted": torch.ones(1),
        "diffusion.scheduled_t": torch.rand(100, generator=g),
    }
    return state


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def computed(tokenizer: Tokenizer, given: dict[str, torch.Tensor], steps: int) -> dict[str, torch.Tensor]:
    """What a tokenizer makes of the images, noises, times and visible tokens of a golden file."""
    x0, x_t, t, noise = (given[name] for name in ("x0", "x_t", "t", "noise"))
    ids = tokenizer.encode(x0)
    tokens = tokenizer.embed(ids)
    with torch.no_grad():
        velocity = tokenizer.velocity(x_t, t, tokens, given["visible"])
        return {
            "indices": ids.int(),
            "query_features": tokenizer.encoder(x0),
            "unit_features": tokenizer.features(x0),
            "token_embeddings": tokens,
            "velocity": velocity,
            "velocity_unconditional": tokenizer.velocity(x_t, t, tokens[:, :0]),
            "flow_loss_per_sample": flow_error(velocity, x_t, x0, noise, t, "velocity", "velocity"),
            "sampled_latent": tokenizer.decode(ids, steps=steps, noise=noise),
        }


def write_golden(folder: Path, sizes: SelftokSizes, steps: int = 5) -> None:
    """Write a golden folder in the layout of the published one."""
    folder.mkdir(exist_ok=True)
    state, g = official(sizes), torch.Generator().manual_seed(1)
    shape = (3, sizes.latent_channels, sizes.latent_size, sizes.latent_size)
    given = {"x0": torch.randn(shape, generator=g), "noise": torch.randn(shape, generator=g)}
    given["t"] = torch.tensor([0.15, 0.6, 1.0])
    config = sizes.config()
    given["visible"] = visible_mask(config.schedule, config.tokens, given["t"])
    given["x_t"] = interpolate(given["x0"], given["noise"], given["t"])
    (folder / "selftok_tiny_config.json").write_text(
        json.dumps({**vars(sizes), "sample_steps": steps}, indent=1) + "\n"
    )
    save_file(state, folder / "selftok_tiny_checkpoint.safetensors")
    expected = given | computed(convert(state, sizes), given, steps)
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "selftok_tiny_expected.safetensors")


def test_golden_tensors(golden, tmp_path):
    main([
        "import-selftok", str(golden / "selftok_tiny_checkpoint.safetensors"), str(tmp_path / "ours"),
        "--config", str(golden / "selftok_tiny_config.json"),
    ])  # fmt: skip
    tokenizer = Tokenizer.from_pretrained(tmp_path / "ours")
    facts = json.loads((golden / "selftok_tiny_config.json").read_text())
    expected = load_file(golden / "selftok_tiny_expected.safetensors")
    ours = computed(tokenizer, expected, facts["sample_steps"])
    assert torch.equal(ours.pop("indices"), expected["indices"])
    assert {name: relative(value, expected[name]) for name, value in ours.items()} == pytest.approx(
        dict.fromkeys(ours, 0.0), abs=1e-5
    )


def test_every_tensor_arrives_in_its_place():
    state = official(TINY)
    tokenizer = convert(state, TINY)
    weights = tokenizer.state_dict()
    qkv = state["model.joint_blocks.0.x_block.attn.qkv.weight"]
    width = len(qkv) // 3
    assert torch.equal(weights["decoder.transformer_blocks.0.attn.to_k.weight"], qkv[width : 2 * width])
    final = state["model.final_layer.adaLN_modulation.1.bias"]
    assert torch.equal(weights["decoder.norm_out.linear.bias"], torch.cat([final[width:], final[:width]]))
    first = state["model.joint_blocks.0.context_block.adaLN_modulation.1.bias"]
    assert torch.equal(weights["decoder.transformer_blocks.0.norm1_context.linear.bias"], first)
    last = state["model.joint_blocks.1.context_block.adaLN_modulation.1.bias"]
    swapped = torch.cat([last[width:], last[:width]])
    assert torch.equal(weights["decoder.transformer_blocks.1.norm1_context.linear.bias"], swapped)
    assert tokenizer.encoder.patch_embed.pos_embed.shape[1] == 25
    assert tokenizer.decoder.pos_embed.pos_embed.shape[1] == 49
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    assert tokenizer.decode(tokenizer.encode(x), steps=2).isfinite().all()


@pytest.mark.parametrize("form", ["plain", "wrapped", "pickled"])
def test_forms_of_the_file(form, tmp_path, capsys):
    state = official(TINY)
    if form == "plain":
        path = tmp_path / "c.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "c.pth"
        named = {f"module.{name}": value for name, value in state.items()}
        torch.save({"state_dict": named, "iter": 7} if form == "wrapped" else state, path)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(vars(TINY)))
    main(["import-selftok", str(path), str(tmp_path / "out"), "--config", str(sizes)])
    assert "12 tokens" in capsys.readouterr().out
    converted = Tokenizer.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, converted[name]) for name, value in convert(state, TINY).state_dict().items())


def refused(capsys, tmp_path, state, *args: str) -> str:
    path = tmp_path / "c.pth"
    torch.save(state, path)
    with pytest.raises(SystemExit) as stop:
        main(["import-selftok", str(path), str(tmp_path / "out"), *args])
    assert stop.value.code == 1 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


class Settings:
    """Stands for the configuration object that training files carry."""


def test_what_does_not_fit_is_refused_by_name(capsys, tmp_path):
    state = official(TINY)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(vars(TINY)))
    config = ["--config", str(sizes)]
    assert "encoder.mystery" in refused(capsys, tmp_path, {**state, "encoder.mystery": torch.ones(1)}, *config)
    fewer = {name: value for name, value in state.items() if "blocks.1.q_mlp" not in name}
    assert "encoder.blocks.1.query_ff.net.0.proj.bias" in refused(capsys, tmp_path, fewer, *config)
    other = {**state, "encoder.quantizer._codebook.embed": torch.ones(1, 21, 6)}
    assert "quantizer.codebook is [21, 6]" in refused(capsys, tmp_path, other, *config)
    assert "could run code" in refused(capsys, tmp_path, {"state_dict": state, "cfg": Settings()}, *config)
    assert "`config` is needed" in refused(capsys, tmp_path, state)
    long = {**state, "encoder.query_tokens": torch.ones(1, 1024, 512)}
    assert "1024 tokens" in refused(capsys, tmp_path, long)
    sizes.write_text(json.dumps({**vars(TINY), "heads": 3}))
    assert "heads" in refused(capsys, tmp_path, state, *config)


def test_published_sizes_are_those_of_the_paper():
    sizes = published_sizes({"encoder.query_tokens": torch.empty(1, 512, 512)})
    with torch.device("meta"):
        tokenizer = Tokenizer(sizes.config())
    # counts of the published encoder without its dead norms, and of the decoder's used part
    trained = sum(p.numel() for p in tokenizer.encoder.parameters())
    trained += sum(p.numel() for p in [*tokenizer.quantizer.parameters(), *tokenizer.token_norm.parameters()])
    assert trained == 84_063_344
    assert sum(p.numel() for p in tokenizer.decoder.parameters()) == 2_079_931_456
    assert tokenizer.encoder.patch_embed.pos_embed.shape == (1, 64 * 64, 64)
    assert tokenizer.decoder.pos_embed.pos_embed.shape == (1, 192 * 192, 1536)


def test_names_of_the_last_block_are_its_own():
    x = torch.arange(4.0)
    assert convert_name("model.joint_blocks.3.context_block.t_embedder.mlp.0.weight", x, 3) == {}
    assert convert_name("model.joint_blocks.2.context_block.t_embedder.mlp.0.weight", x, 3) != {}
    assert convert_name("model.joint_blocks.3.context_block.other", x, 3) is None


if __name__ == "__main__":
    write_golden(OWN, TINY)
