"""New rows of a vocabulary, and a model built on the meta device and filled shard by shard against a whole one."""

import pytest
import torch
import torch.distributed as dist

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states
from ddt_lightning.lm.weights import FolderWeights, new_rows
from ddt_lightning.training.parallel import ParallelConfig, forward_method, materialise, plain, shard
from tests.lm.test_llm import MAKERS, ROWS, SPECIAL, VOCAB

IDS = torch.arange(4, VOCAB)[None].repeat(2, 1)


def test_new_rows_have_the_spread_of_the_text():
    text = 3 + torch.randn(400, 16) * torch.linspace(0.5, 2, 16)
    codes = torch.randn(300, 4)
    codes[7] = codes[8]
    for rows in (new_rows(text, 302, 0), new_rows(text, 302, 0, codes)):
        assert rows.shape == (302, 16)
        torch.testing.assert_close(rows.mean(0), text.mean(0), atol=0.5, rtol=0)
        torch.testing.assert_close(rows.std(0), text.std(0), atol=0, rtol=0.2)
    assert rows[7].equal(rows[8]) and not rows[6].equal(rows[7])
    # neighbours stay neighbours: distances of rows follow those of the codes
    standard = (rows[:300] - text.mean(0)) / text.std(0)
    distances = torch.stack([torch.cdist(codes, codes).flatten(), torch.cdist(standard, standard).flatten()])
    assert torch.corrcoef(distances)[0, 1] > 0.7
    assert not new_rows(text, 302, 1)[0].equal(new_rows(text, 302, 0)[0])


def test_codes_start_the_rows_of_images(tmp_path):
    MAKERS["llama_untied"]().save_pretrained(tmp_path)
    codes = torch.randn(VOCAB - ROWS - 2, 4)
    codes[1] = codes[0]
    grown = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=tmp_path, text_size=ROWS, codes=codes)
    fresh = build_llm(LlmConfig(), VOCAB, **SPECIAL, text_size=ROWS, codes=codes)
    tables = [model.get_input_embeddings().weight for model in (grown, fresh)]
    for table in (*tables, grown.get_output_embeddings().weight):
        assert table[ROWS].equal(table[ROWS + 1]) and not table[ROWS].equal(table[ROWS + 2])
        assert not table[-1].equal(table[-2])


def test_reader_gives_the_rows_of_the_whole_model(tmp_path):
    MAKERS["llama_untied"]().save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    state = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=tmp_path, text_size=ROWS - 3).state_dict()
    weights = FolderWeights(tmp_path, VOCAB, ROWS - 3)
    for name, whole in state.items():
        for start, end in ((0, 7), (ROWS - 5, ROWS + 2), (VOCAB - 4, VOCAB), (3, 3)):
            assert weights.read(name, start, end).equal(whole[start:end]), name
    weights.check(set(state))
    with pytest.raises(ValueError, match="first at lm_head"):
        weights.check(set(state) - {"lm_head.weight"})
    with pytest.raises(ValueError, match=rf"{ROWS} rows.*5 pieces"):
        FolderWeights(tmp_path, VOCAB, 5)
    with pytest.raises(FileNotFoundError, match=r"safetensors"):
        FolderWeights(tmp_path / "none", VOCAB, ROWS)


def _rank(rank, meeting, folder, results):
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for name in MAKERS:
        with torch.device("meta"):
            model = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=folder / name)
        config = ParallelConfig(activation_checkpointing=name == "gemma2")
        shard(model, model.model.layers, config, mesh)
        weights = FolderWeights(folder / name, VOCAB, ROWS)
        weights.check({plain(key) for key, _ in model.named_parameters()})
        materialise(model, torch.device("cpu"), weights.read)
        held = sum(p.to_local().numel() for p in model.parameters()) / sum(p.numel() for p in model.parameters())
        with torch.no_grad():
            states = forward_method(model, hidden_states)(IDS)
            logits = model(IDS).logits
        if rank == 0:
            results[name] = held, states.tolist(), logits.tolist()
    dist.barrier()
    dist.destroy_process_group()


def test_model_filled_in_shards_equals_a_whole_one(tmp_path):
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make().save_pretrained(tmp_path / name)
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_rank, (tmp_path / "meeting", tmp_path, results), nprocs=2)
    for name in MAKERS:
        whole = build_llm(LlmConfig(), VOCAB, **SPECIAL, folder=tmp_path / name)
        held, states, logits = results[name]
        assert held == pytest.approx(0.5, abs=0.05)
        with torch.no_grad():
            assert torch.tensor(states).equal(hidden_states(whole, IDS)), name
            assert torch.tensor(logits).equal(whole(IDS).logits), name
