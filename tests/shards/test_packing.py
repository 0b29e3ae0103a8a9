"""Packed rows hold every document whole; a document in a packed row is as it is alone, in every family."""

from itertools import pairwise

import pytest
import torch

from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states, softcap
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.shards.packing import check_row_length, level_rows, make_rows, pack_rows, shortest_first
from ddt_lightning.shards.rows import ROUND, pad_rows
from ddt_lightning.vocab import IGNORE
from tests.lm.test_llm import MAKERS

PAD = 3


def documents(seed=0, count=9, size=40):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        ids = torch.randint(4, size, (int(torch.randint(1, 15, (), generator=generator)),), generator=generator)
        labels = ids.clone()
        labels[:2] = IGNORE
        found.append({"ids": ids.tolist(), "labels": labels.tolist()})
    return found


def split(batch):
    """`(ids, labels)` of the documents of packed rows, padding last in its row."""
    found = []
    for ids, labels, positions in zip(*(batch[name].tolist() for name in ("ids", "labels", "positions")), strict=True):
        starts = [n for n, position in enumerate(positions) if position == 0] + [len(positions)]
        for start, end in pairwise(starts):
            assert positions[start:end] == list(range(end - start))
            found.append((ids[start:end], labels[start:end]))
    return found


def test_every_document_is_in_one_row():
    examples = documents(count=40)
    batch = pack_rows(examples, PAD, 32)
    assert batch["ids"].shape[1] <= 32 and batch["ids"].shape[1] % ROUND == 0
    found = split(batch)
    padding = [pair for pair in found if set(pair[0]) == {PAD}]
    whole = sorted(pair for pair in found if set(pair[0]) != {PAD})
    assert whole == sorted((e["ids"], [IGNORE, *e["labels"][1:]]) for e in examples)
    assert all(set(labels) == {IGNORE} for _, labels in padding)
    assert pack_rows(examples, PAD, 32)["ids"].equal(batch["ids"])


def test_rows_are_what_placing_one_document_after_the_other_gives():
    examples = documents(count=30)
    lengths = [len(example["ids"]) for example in examples]
    batch, rows = pack_rows(examples, PAD, 32), level_rows(lengths, 32)
    expected = {"ids": torch.full_like(batch["ids"], PAD), "labels": torch.full_like(batch["labels"], IGNORE)}
    expected["positions"] = torch.zeros_like(batch["positions"])
    assert len(rows) == len(batch["ids"]) < len(examples)
    for number, row in enumerate(rows):
        place = 0
        for i in row:
            for position, (token, label) in enumerate(zip(examples[i]["ids"], examples[i]["labels"], strict=True)):
                expected["ids"][number, place] = token
                expected["labels"][number, place] = label if position else IGNORE
                expected["positions"][number, place] = position
                place += 1
        expected["positions"][number, place:] = torch.arange(batch["ids"].shape[1] - place)
    assert all(batch[name].dtype == torch.int64 and batch[name].equal(rows) for name, rows in expected.items())


def test_rows_are_nearly_full():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 60, (200,), generator=generator).tolist()
    rows = level_rows(lengths, 128)
    assert sorted(i for row in rows for i in row) == list(range(200))
    held = [sum(lengths[i] for i in row) for row in rows]
    assert max(held) <= 128
    assert sum(lengths) >= 0.95 * len(rows) * max(held)
    with pytest.raises(ValueError, match=r"61 ids.*`data\.row_length` \(60\)"):
        level_rows([61], 60)


def test_rows_that_cannot_be_shared_hold_one_document_each():
    assert sorted(level_rows([50, 60, 55], 64)) == [[0], [1], [2]]


def test_dealing_out_is_within_a_third_of_the_best():
    lengths = [7, 7, 6, 6, 5, 4, 4, 4]  # three rows: 43 ids, 15 at best by (7, 4, 4), (7, 7), (6, 5, 4) and the like
    rows, longest = shortest_first(lengths, 3)
    assert sorted(i for row in rows for i in row) == list(range(8))
    best = -(-sum(lengths) // 3)
    assert best <= longest <= best * 4 / 3
    with pytest.raises(ValueError, match=r"`data\.row_length` \(60\).*`data\.max_length` \(61\)"):
        check_row_length(60, 61)


def test_without_a_row_length_rows_are_padded():
    padded = make_rows(documents(), PAD, None)
    assert padded.keys() == {"ids", "labels"} and len(padded["ids"]) == 9
    assert make_rows(documents(), PAD, 32)["positions"].shape[0] < 9


@pytest.fixture(params=MAKERS)
def model(request, tmp_path):
    torch.manual_seed(0)
    MAKERS[request.param]().save_pretrained(tmp_path / "base")
    return build_llm(LlmConfig(), 60, bos=1, eos=2, pad=PAD, folder=tmp_path / "base").eval()


def test_a_document_sees_itself_alone(model):
    """Longer than the sliding window (4) of the Gemmas, which therefore counts within a document."""
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randint(4, 60, (length,), generator=generator) for length in (9, 1, 7)]
    ids, positions = torch.cat(parts)[None], torch.cat([torch.arange(len(part)) for part in parts])[None]
    packed = hidden_states(model, ids, positions)
    alone = [hidden_states(model, part[None]) for part in parts]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)
    changed = ids.clone()
    changed[0, 2] += 1
    other = hidden_states(model, changed, positions)
    assert other[0, 9:].equal(packed[0, 9:]) and not other[0, 2:9].allclose(packed[0, 2:9])
    head = model.get_output_embeddings().weight
    logits = packed @ head.T
    if softcap(model):
        logits = softcap(model) * (logits / softcap(model)).tanh()
    torch.testing.assert_close(logits[:, :9], model(parts[0][None]).logits, rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_are_those_of_padded_rows(model):
    found = []
    for batch in (pad_rows(documents(), PAD), pack_rows(documents(), PAD, 24)):
        model.zero_grad()
        hidden = hidden_states(model, batch["ids"], batch.get("positions"))
        head = model.get_output_embeddings().weight
        sums = split_loss(hidden, head, batch["labels"], 20, 58, softcap(model))
        (sums.total / sums.count).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((torch.stack([sums.total, sums.count, sums.text, sums.image]).detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
