"""Prompts to practise on: sources, order, processes and continued runs."""

import json
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest

from ddt_lightning.scenes.language import NUMBERS
from ddt_lightning.scenes.render import Scene
from ddt_lightning.scenes.suite import held_out, suite
from ddt_lightning.scenes.tasks import QUESTIONS
from ddt_lightning.shards.prompts import PromptStream, read_prompts, spread


def stream(vocab="x", step=0, rank=0, world=1, **options):
    data = PromptStream(vocab, **options)
    strategy = SimpleNamespace(distributed_sampler_kwargs={"rank": rank, "num_replicas": world})
    data.trainer = SimpleNamespace(strategy=strategy, global_step=step, accumulate_grad_batches=1)
    return data


def batches(data, count):
    return list(islice(data.train_dataloader(), count))


def test_the_world_has_three_sources():
    assert read_prompts("seen", "x") == suite(seen=True) and read_prompts("held_out", "x") == suite()
    assert read_prompts("all", "x") == [*suite(seen=True), *suite()]
    groups = read_prompts(["groups", "held_out_groups"], "x")
    assert {prompt["tag"] for prompt in groups} == {"groups"} and all(" two " in prompt["prompt"] for prompt in groups)


def test_edits_and_questions_of_the_world_are_seen_or_held_out():
    for seen, unseen in (("edits", "held_out_edits"), ("questions", "held_out_questions")):
        one, two = read_prompts(seen, "x"), read_prompts(unseen, "x")
        assert len(set(Counter(prompt["tag"] for prompt in one).values())) == 1
        shown = "source" if seen == "edits" else "scene"
        assert not any(held_out(Scene.from_dict(prompt[shown])) for prompt in one)
        assert all(held_out(Scene.from_dict(prompt[shown])) for prompt in two)
    assert {prompt["tag"] for prompt in one} == set(QUESTIONS)
    asked = [prompt for prompt in one if prompt["tag"] == "count" and prompt["prompt"] == "how many shapes are there?"]
    assert len(asked) > 5
    assert all(NUMBERS[len(Scene.from_dict(prompt["scene"]).shapes)] == prompt["answer"] for prompt in asked)


def test_several_sources_are_practised_together():
    both = read_prompts(["seen", "edits"], "x")
    assert both == [*read_prompts("seen", "x"), *read_prompts("edits", "x")]
    counts = Counter(len(prompt["source"]["shapes"]) for prompt in both if "source" in prompt)
    assert min(counts[count] for count in (1, 2, 3)) > 300
    tags = [prompt["tag"] for batch in batches(stream(prompts=["seen", "edits"], batch_size=100), 13)
            for prompt in batch["prompt"]]  # fmt: skip
    assert len(set(tags)) == 13 and all(60 < tags.count(tag) < 140 for tag in set(tags))
    with pytest.raises(ValueError, match=r"`x` \(seen, questions\).*split questions and drawings"):
        read_prompts(["seen", "questions"], "x")
    with pytest.raises(ValueError, match=r"`x` \(\[\]\) names no prompts"):
        read_prompts([], "x")


def test_prompts_belong_to_their_number():
    whole = batches(stream(batch_size=6), 5)
    assert [batch["sample"] for batch in whole] == [list(range(6 * n, 6 * n + 6)) for n in range(5)]
    later = batches(stream(batch_size=6, step=3), 2)
    assert later == whole[3:]
    halves = [batches(stream(batch_size=6, rank=rank, world=2), 5) for rank in (0, 1)]
    for n, batch in enumerate(whole):
        both = {k: p for half in halves for k, p in zip(half[n]["sample"], half[n]["prompt"], strict=True)}
        assert both == dict(zip(batch["sample"], batch["prompt"], strict=True))
    assert batches(stream(batch_size=6, seed=1), 5) != whole
    tags = [prompt["tag"] for batch in batches(stream(batch_size=100), 12) for prompt in batch["prompt"]]
    assert all(140 < tags.count(tag) < 260 for tag in set(tags)) and len(set(tags)) == 6


def test_prompts_to_watch_are_read_once_by_all_processes_together():
    data = stream(batch_size=8, val_samples=19)
    found = [prompt for batch in data.val_dataloader() for prompt in batch["prompt"]]
    assert found == data.watched and len(found) == 19 and len({prompt["tag"] for prompt in found}) == 6
    counts = [len(list(stream(batch_size=8, val_samples=19, rank=r, world=2).val_dataloader())) for r in (0, 1)]
    assert counts[0] == counts[1] == 3
    assert [len(spread(suite(), n)) for n in (1, 6, 19, 60, 150, 900)] == [1, 6, 19, 60, 150, 150]
    assert Counter(prompt["tag"] for prompt in spread(suite(), 36)).most_common()[-1][1] == 6
    assert stream(val_prompts=None).val_dataloader() == []


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a cat", "boxes": [1]}) + "\n\n" + json.dumps({"prompt": "b", "tag": "t"}))
    assert read_prompts(str(path), "x") == [
        {"prompt": "a cat", "tag": "prompt", "boxes": [1]}, {"prompt": "b", "tag": "t"}
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"`data\.prompts` \(nowhere\) must be one of seen, held_out, all"):
        PromptStream("x", prompts="nowhere")
    path.write_text(json.dumps({"prompt": "a cat"}) + "\n" + json.dumps({"prompt": "how many?", "scene": {}}))
    with pytest.raises(ValueError, match='has a "scene" for some prompts alone'):
        PromptStream("x", prompts=str(path))
    path.write_text("{}")
    with pytest.raises(ValueError, match="line 1 is no json"):
        PromptStream("x", val_prompts=str(path))
    path.write_text("")
    with pytest.raises(ValueError, match="holds no prompt"):
        PromptStream("x", prompts=str(path))
