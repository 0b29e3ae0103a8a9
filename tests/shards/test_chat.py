"""Conversations: edits and questions as turns, shares, what is scored, dropped texts."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from ddt_lightning.sampling import split_plan
from ddt_lightning.shards.chat import ChatDecoder, ChatShards, exchange, to_turns
from ddt_lightning.shards.images import ImageSample
from ddt_lightning.shards.read import Columns
from ddt_lightning.shards.rows import DESCRIBE
from ddt_lightning.shards.texts import questions
from ddt_lightning.shards.write import to_bytes, write_shards, write_tokens_json
from ddt_lightning.vocab import IGNORE, Vocab, train_text_tokenizer
from tests.reading import read_chat

K, CODES = 5, 30
PIXELS = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def vocab(tmp_path):
    made = Vocab(train_text_tokenizer(["remove the red circle, how many? two", "a red circle"] * 9, 300), CODES, K)
    made.save(tmp_path / "vocab")
    return made


def sample(images=1, texts=(), asked=(), data=None):
    return ImageSample("s.tar", "0", (PIXELS,) * images, tuple(texts), tuple(asked), data)


@pytest.fixture
def shards(tmp_path, vocab):
    rng = np.random.default_rng(0)
    edit = to_turns(sample(2, ["remove the circle"]))[0]
    asked = to_turns(sample(1, [], questions({"question": "how many?", "answers": ["two"]}, Columns())))[0]
    samples = {
        "images": [{"ids.npy": rng.integers(0, CODES, K), "txt": f"circle {i}"} for i in range(20)],
        "edits": [{"ids.npy": rng.integers(0, CODES, (2, K)), "json": {"turns": edit}} for i in range(20)],
        "questions": [{"ids.npy": rng.integers(0, CODES, (1, K)), "json": {"turns": asked}} for i in range(20)],
    }
    for kind, found in samples.items():
        write_shards(tmp_path, kind, [{"__key__": str(i), **one} for i, one in enumerate(found)], 100)
    write_tokens_json(
        tmp_path, tokenizer="abc", K=K, codebook_size=CODES, order="fine_to_coarse", transform="", source=""
    )
    return {kind: [str(tmp_path / f"{kind}-*.tar")] for kind in samples}


def test_edits_and_questions_become_turns():
    (edit,) = to_turns(sample(2, ["make it red", "another text"]))
    assert edit == [
        {"role": "user", "content": [{"image": 0}, "make it red"]},
        {"role": "assistant", "content": [{"image": 1}]},
    ]
    asked = [{"question": "a?", "answers": ["no", "yes", "yes"]}, {"question": "b?", "answer": "2", "answers": ["2"]}]
    first, second = to_turns(sample(1, [], questions(asked, Columns())))
    assert first[0]["content"] == [{"image": 0}, "a?"] and first[1]["content"] == ["yes"]
    assert second[1] == {"role": "assistant", "content": ["2"]}
    assert to_turns(sample(1, ["a caption"])) == []


def conversations(vocab, batches):
    for batch in batches:
        for ids, labels in zip(batch["ids"].tolist(), batch["labels"].tolist(), strict=True):
            turns, images = read_chat(vocab, [i for i in ids if i != vocab.pad])
            yield turns, images, [i for i, label in zip(ids, labels, strict=True) if label != IGNORE]


def kind(turns):
    shows, draws = (any(not isinstance(part, str) for part in turn["content"]) for turn in turns[:2])
    if not shows:
        return "draw"
    return "edit" if draws else "describe" if turns[1]["content"][0].startswith("circle") else "answer"


def test_shares_are_exact_and_only_answers_are_scored(tmp_path, vocab, shards):
    data = ChatShards(str(tmp_path / "vocab"), **shards, batch_size=20, workers=0, buffer=10, caption_drop=0.0)
    data.setup("fit")
    kinds, wordings = Counter(), Counter()
    for turns, images, scored in conversations(vocab, islice(data.train_dataloader(), 60)):
        kinds[kind(turns)] += 1
        assert scored[-1] == vocab.eos
        if kind(turns) in ("draw", "edit"):
            assert scored[:-1] == [vocab.bov, *vocab.image_to_lm(images[-1]), vocab.eov]
        else:
            assert vocab.read_text(scored[:-1]) == turns[1]["content"][0]
        if kind(turns) == "describe":
            wordings[turns[0]["content"][1]] += 1
    assert kinds == {"draw": 480, "describe": 180, "edit": 300, "answer": 240}
    assert wordings.most_common(1)[0][0] == DESCRIBE[0] and set(wordings) == set(DESCRIBE)


def test_conversations_without_images_need_no_image_ids(tmp_path, vocab, shards):
    turns = exchange(["a red ring 3 3 5 |", "make it blue"], ["a red ring to a blue ring |"])
    spoken = {"__key__": "0", "json": {"turns": turns}}
    write_shards(tmp_path / "words", "talk", [{**spoken, "__key__": str(i)} for i in range(20)], 100)
    talk = [str(tmp_path / "words" / "talk-*.tar")]
    folder = str(tmp_path / "vocab")
    data = ChatShards(folder, edits=shards["edits"], conversations=talk, edit=0.3, converse=0.1, workers=0)
    data.setup("fit")
    found = list(conversations(vocab, islice(data.train_dataloader(), 25)))
    said = [(scored, images) for turns, images, scored in found if "ring" in str(turns)]
    assert len(found) == 4 * len(said)
    assert all(vocab.read_text(scored[:-1]) == turns[1]["content"][0] and not len(images) for scored, images in said)
    alone = ChatShards(folder, conversations=talk, val_conversations=talk, workers=0)
    alone.setup("fit")
    assert next(iter(alone.train_dataloader()))["ids"].max() < vocab.text_size

    # beside them, shards with ids are checked as anywhere
    foreign = {"__key__": "0", "ids.npy": np.zeros((1, K), np.int64), "json": {"turns": turns}}
    write_shards(tmp_path / "words", "xfer", [foreign], 100)
    with pytest.raises(FileNotFoundError, match=r"words/tokens\.json"):
        ChatShards(folder, conversations=[str(tmp_path / "words" / "*.tar")], workers=0).setup("fit")

    shown = exchange([{"image": 0}, "what is it?"], ["a ring"])
    with pytest.raises(ValueError, match="neither a text nor one of 0 images"):
        ChatDecoder(vocab, 60, 0.0, 0)({"__key__": "0", "json": json.dumps({"turns": shown}).encode()}, "converse", 0)


def test_a_share_without_shards_does_not_count(tmp_path, vocab, shards):
    data = ChatShards(
        str(tmp_path / "vocab"), edits=shards["edits"], questions=shards["questions"], edit=0.3, answer=0.1
    )
    data.workers = 0
    data.setup("fit")
    found = Counter(kind(turns) for turns, _, _ in conversations(vocab, islice(data.train_dataloader(), 25)))
    assert found["edit"] == 3 * found["answer"]


def test_requests_are_dropped_where_the_assistant_draws(tmp_path, vocab, shards):
    data = ChatShards(str(tmp_path / "vocab"), **shards, batch_size=20, workers=0, caption_drop=1.0)
    data.setup("fit")
    for turns, images, _ in conversations(vocab, islice(data.train_dataloader(), 20)):
        texts = [part for part in turns[0]["content"] if isinstance(part, str)]
        assert len(images) == {"draw": 1, "edit": 2}.get(kind(turns), 1)
        assert bool(texts) == (kind(turns) in ("describe", "answer"))


def test_validation_takes_the_held_out_shards(tmp_path, vocab, shards):
    data = ChatShards(str(tmp_path / "vocab"), **shards, val_edits=shards["edits"], workers=0, caption_drop=1.0)
    data.setup("validate")
    found = list(conversations(vocab, data.val_dataloader()))
    assert len(found) == 20 and all("remove" in str(turns[0]) for turns, _, _ in found)
    plain = ChatShards(str(tmp_path / "vocab"), **shards)
    plain.setup("validate")
    assert plain.val_dataloader() == []


def test_long_texts_are_cut_until_the_row_fits(vocab):
    decoder = ChatDecoder(vocab, 60, 0.0, 0)
    images = np.zeros((1, K), np.int64)
    turns = [
        {"role": "user", "content": [{"image": 0}, "why? " * 200]},
        {"role": "assistant", "content": ["because of ünïcode " * 20]},
    ]
    ids, labels = decoder.fit(turns, images, drop_text=False)
    assert 30 < len(ids) <= 60 and len(labels) == len(ids)
    assert sum(vocab.image_start <= i < vocab.image_end for i in ids) == K
    with pytest.raises(ValueError, match=r"`data\.max_length` \(8\)"):
        ChatDecoder(vocab, 8, 0.0, 0).fit(turns, images, drop_text=False)


def test_wrong_shards_are_named(tmp_path, vocab, shards):
    folder = str(tmp_path / "vocab")
    with pytest.raises(ValueError, match=r"`data\.edits`: no sample in shard .*images-000000\.tar has .*turns"):
        ChatShards(folder, edits=shards["images"]).setup("fit")
    with pytest.raises(ValueError, match=r"`data\.images`.*give at least one"):
        ChatShards(folder)
    with pytest.raises(FileNotFoundError, match=r"`data\.questions`.*nothing"):
        ChatShards(folder, questions=[str(tmp_path / "nothing.tar")]).setup("fit")
    Vocab(vocab.text, CODES + 1, K).save(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"codebook_size={CODES}.*{CODES + 1}"):
        ChatShards(str(tmp_path / "other"), **shards).setup("fit")


def test_sources_of_one_kind_come_by_their_weights(tmp_path, vocab, shards):
    for name in ("a", "b"):
        turns = to_turns(sample(1, [], questions({"question": "which?", "answers": [name]}, Columns())))[0]
        ids = np.zeros((1, K), np.uint16)
        write_shards(
            tmp_path, name, [{"__key__": f"{n}", "ids.npy": ids, "json": {"turns": turns}} for n in range(9)], 9
        )
    data = ChatShards(
        str(tmp_path / "vocab"), images=shards["images"], conversations=[f"{tmp_path}/a-*.tar", f"{tmp_path}/b-*.tar"],
        weights={"conversations": [3, 1]}, draw=0.5, describe=0.0, converse=0.5, workers=0, batch_size=16,
    )  # fmt: skip
    data.setup("fit")
    found = Counter(
        kind(turns) if kind(turns) == "draw" else turns[1]["content"][0]
        for turns, *_ in conversations(vocab, islice(data.train_dataloader(), 50))
    )
    assert found == {"draw": 400, "a": 300, "b": 100}
    with pytest.raises(ValueError, match=r"data\.weights\.conversations.*2 weights"):
        ChatShards("v", conversations=["a", "b"], weights={"conversations": [1]})


def test_views_of_a_captioned_image_are_drawn(tmp_path, vocab):
    views = np.arange(3 * K, dtype=np.uint16).reshape(3, K)
    decode = ChatDecoder(vocab, 100, 0.0, seed=0)
    record = {"ids.npy": to_bytes("ids.npy", views), "txt": b"circle"}
    for label in ("draw", "describe"):
        found = Counter()
        for number in range(60):
            _, images = read_chat(vocab, decode(record, label, number)["ids"])
            assert len(images) == 1
            found[tuple(images[0])] += 1
        assert set(found) == {tuple(view) for view in views.tolist()} and min(found.values()) > 8


def planned(vocab, data, label, images=1, plans=1.0, drop=0.0, sample=0):
    """Turns of one decoded record with the given json."""
    ids = np.zeros((images, K) if images > 1 else K, np.int64)
    record = {"ids.npy": to_bytes("ids.npy", ids), "json": to_bytes("json", data)}
    example = ChatDecoder(vocab, 200, drop, 0, plans=plans)(record, label, sample)
    return read_chat(vocab, example["ids"])[0], example


def test_the_plan_of_the_caption_stands_before_the_image(vocab):
    data = {"captions": ["a red circle", "how many?"], "plan": ["red circle 5 |", "two |"]}
    for number in range(20):
        turns, example = planned(vocab, data, "draw", sample=number)
        plan = turns[1]["content"][0]
        assert turns[1]["content"] == [plan, {"image": 0}]
        asked = turns[0]["content"][0].lower()
        assert plan == ("red circle 5 |" if "circle" in asked else "two |")
        scored = [i for i in example["labels"] if i != IGNORE]
        assert vocab.read_text(scored[: scored.index(vocab.bov)]) == plan  # learned like the image
    turns, _ = planned(vocab, data, "describe")
    assert len(turns[1]["content"]) == 1  # a description has no plan
    without = {"captions": data["captions"]}
    assert planned(vocab, data, "draw", plans=0.0)[1] == planned(vocab, without, "draw")[1]
    shares = [len(planned(vocab, data, "draw", plans=0.3, sample=n)[0][1]["content"]) == 2 for n in range(300)]
    assert 0.2 < np.mean(shares) < 0.4


def test_a_dropped_request_drops_its_plan(vocab):
    data = {"caption": "a red circle", "plan": "red circle 5 |"}
    turns, _ = planned(vocab, data, "draw", drop=1.0)
    assert turns[1]["content"] == [{"image": 0}]


def test_conversations_take_a_plan_for_each_image_they_draw(vocab):
    talk = [
        *to_turns(sample(2, ["make it red"]))[0],
        {"role": "user", "content": ["how many?"]},
        {"role": "assistant", "content": ["two"]},
        {"role": "user", "content": ["again"]},
        {"role": "assistant", "content": [{"image": 1}]},
    ]
    turns, _ = planned(vocab, {"turns": talk, "plan": ["first |", "second |"]}, "edit", images=2)
    answers = [turn["content"] for turn in turns[1::2]]
    assert [answer[0] for answer in answers] == ["first |", "two", "second |"]
    with pytest.raises(ValueError, match="a list of 2 texts, one for each of its answers with an image"):
        planned(vocab, {"turns": talk, "plan": ["first |"]}, "edit", images=2)


def test_answers_in_words_take_a_plan_that_ends(vocab):
    talk = [
        {"role": "user", "content": [{"image": 0}, "how many?"]}, {"role": "assistant", "content": ["two"]},
        {"role": "user", "content": ["and red?"]}, {"role": "assistant", "content": ["one"]},
    ]  # fmt: skip
    turns, example = planned(vocab, {"turns": talk, "plan": ["red ring, red cross |", "a ring"]}, "answer")
    assert turns[1]["content"] == ["red ring, red cross | two"] and turns[3]["content"] == ["a ring | one"]
    scored = [i for i in example["labels"] if i != IGNORE]
    first = scored[: scored.index(vocab.eos)]
    written = vocab.read_text(first)
    assert split_plan(written, False) == ("", "red ring, red cross | two")
    assert split_plan(written, True) == ("red ring, red cross |", "two") and split_plan("two", True) == ("", "two")
    plain = planned(vocab, {"turns": talk}, "answer")
    assert planned(vocab, {"turns": talk, "plan": "x"}, "answer", plans=0.0)[1] == plain[1]
    with pytest.raises(ValueError, match="a list of 2 texts, one for each of its answers, not"):
        planned(vocab, {"turns": talk, "plan": ["x"]}, "answer")


def test_descriptions_take_a_plan_where_answers_do(vocab):
    sample = {"captions": ["a ring"], "plan": ["red ring |"]}
    assert planned(vocab, sample, "describe")[0][1]["content"] == ["a ring"]
    vocab.answer_plans = True
    try:
        assert planned(vocab, sample, "describe")[0][1]["content"] == ["red ring | a ring"]
        assert planned(vocab, sample, "describe", plans=0.0)[0][1]["content"] == ["a ring"]
        assert planned(vocab, {"captions": ["a ring"]}, "describe")[0][1]["content"] == ["a ring"]
    finally:
        vocab.answer_plans = False


def test_plans_in_the_data_are_told_to_the_vocabulary(tmp_path, vocab, shards):
    folder = str(tmp_path / "vocab")
    with_plan = {"ids.npy": np.zeros(K, np.uint16), "json": {"caption": "circle", "plan": "circle |"}}
    write_shards(tmp_path, "planned", [{"__key__": f"p{n}", **with_plan} for n in range(9)], 3)
    both = {**shards, "images": [*shards["images"], f"{tmp_path}/planned-*.tar"]}
    for given, share, expected in ((shards, 1.0, False), (both, 1.0, True), (both, 0.0, False)):
        data = ChatShards(folder, **given, plans=share, workers=0, buffer=10)
        data.setup("fit")
        assert data.vocab.plans == expected
    data.vocab.plans = True
    data.vocab.save(tmp_path / "told")
    assert Vocab.load(tmp_path / "told").plans and not Vocab.load(folder).plans
    told = {"turns": [{"role": "user", "content": [{"image": 0}]}, {"role": "assistant", "content": ["two"]}]}
    asked = {"ids.npy": np.zeros((1, K), np.uint16), "json": {**told, "plan": "a circle |"}}
    write_shards(tmp_path, "asked", [{"__key__": f"q{n}", **asked} for n in range(9)], 3)
    data = ChatShards(folder, **{**shards, "questions": [f"{tmp_path}/asked-*.tar"]}, workers=0, buffer=10)
    data.setup("fit")
    assert data.vocab.answer_plans and not data.vocab.plans
    data.vocab.save(tmp_path / "looks")
    assert Vocab.load(tmp_path / "looks").answer_plans and not Vocab.load(folder).answer_plans
