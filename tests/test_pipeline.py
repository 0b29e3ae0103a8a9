"""The composed pipeline on a tiny random model: against its parts called by hand, and by its properties."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddt_lightning.latents.pixels import PixelLatents, to_float, to_uint8
from ddt_lightning.pipeline import DRAW, Pipeline
from ddt_lightning.sampling import Decoding, Sampling
from ddt_lightning.seeding import each_seed
from ddt_lightning.vocab import Vocab
from tests.reading import read_chat
from tests.tiny import image_ids, taught_tokenizer, tiny_model, tiny_tokenizer

PROMPTS = ["a red circle", "two crosses and a ring above them"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tokenizer=taught_tokenizer(16))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_uint8_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)


def test_encode_is_the_tokenizers_and_decode_uses_the_seed(pipeline, images):
    ids = pipeline.encode(images)
    assert torch.equal(ids, pipeline.tokenizer.encode(images.float() / 127.5 - 1))
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(7))
    by_hand = pipeline.tokenizer.decode(ids[:1], steps=3, decode_guidance=2.0, noise=noise[None])
    assert torch.equal(pipeline.decode(ids[:1], seed=7, steps=3, decode_guidance=2.0), to_uint8(by_hand))


def test_text_to_image_is_generate_then_decode(pipeline):
    vocab = pipeline.vocab
    turns = [[{"role": "user", "content": [DRAW.format(text)]}] for text in PROMPTS]
    ids = image_ids(
        pipeline.llm,
        [vocab.chat_prompt(turn, draw=True) for turn in turns],
        unconditional=[vocab.chat_prompt(turn, draw=True, drop_text=True) for turn in turns],
        start=vocab.image_start,
        codebook_size=24,
        length=6,
        guidance=2.0,
        temperature=0.5,
        seeds=[5, 6],
        pad=vocab.pad,
    )
    drawn = pipeline.text_to_image(PROMPTS, seed=5, steps=2)
    assert drawn.dtype == torch.uint8 and drawn.shape == (2, 3, 16, 16)
    assert torch.equal(drawn, pipeline.decode(ids, seed=5, steps=2))


def test_options_are_a_sampling_or_its_fields_by_name(pipeline, images):
    sampling = Sampling(steps=2, temperature=0.7, guidance=1.0, decode_guidance=3.0)
    changes = {"steps": 2, "temperature": 0.7, "guidance": 1.0, "decode_guidance": 3.0}
    drawn = pipeline.text_to_image(PROMPTS, sampling, seed=3)
    assert torch.equal(drawn, pipeline.text_to_image(PROMPTS, seed=3, **changes))
    assert torch.equal(drawn, pipeline.text_to_image(PROMPTS, Sampling(steps=2, guidance=1.0), seed=3, **changes))
    edited = pipeline.edit_image(images[:2], PROMPTS, sampling, seed=3)
    assert torch.equal(edited, pipeline.edit_image(images[:2], PROMPTS, seed=3, **changes))
    copies = pipeline.reconstruct(images, 4, Decoding(2, 3.0), seed=3)
    assert torch.equal(copies, pipeline.reconstruct(images, 4, seed=3, steps=2, decode_guidance=3.0))
    assert not torch.equal(copies, pipeline.reconstruct(images, 4, seed=3, steps=2, decode_guidance=1.0))
    with pytest.raises(TypeError, match="temprature"):
        pipeline.text_to_image(PROMPTS, temprature=0.7)
    with pytest.raises(ValueError, match=r"`top_p` \(0\)"):
        pipeline.text_to_image(PROMPTS, top_p=0)


@pytest.mark.parametrize("chat", [True, False])
def test_a_sample_does_not_depend_on_its_neighbours(pipeline, chat):
    together = pipeline.text_to_image(PROMPTS, seed=[11, 12], steps=2, chat=chat)
    alone = pipeline.text_to_image(PROMPTS[1:], seed=12, steps=2, chat=chat)
    assert (together[1].int() - alone[0].int()).abs().max() <= 1  # same ids; rounding of a batch of two


def test_stream_ends_with_the_image(pipeline, tmp_path):
    sampling = Sampling(steps=2)
    for used in (pipeline, Pipeline.from_pretrained(tiny_model(tmp_path, order="coarse_to_fine"))):
        parts = list(used.stream(used.draw_prompts(PROMPTS), sampling, seed=3, every=4))
        assert [part.ids.shape[1] for part in parts] == ([4, 6] if used is pipeline else [6])
        assert torch.equal(parts[-1].images, used.text_to_image(PROMPTS, seed=3, steps=2))
        assert torch.equal(parts[-1].ids, used.draw_ids(used.draw_prompts(PROMPTS), sampling, seed=3))


def test_stream_prefix_is_the_first_tokens(pipeline):
    ids = pipeline.draw_ids(pipeline.draw_prompts(PROMPTS), Sampling(), seed=3)
    partial = next(pipeline.stream(pipeline.draw_prompts(PROMPTS), Sampling(steps=2), seed=3))
    assert torch.equal(partial.ids, ids[:, :4])
    assert torch.equal(partial.images, pipeline.decode(ids[:, :4], seed=3, steps=2))
    assert torch.equal(partial.images, pipeline.text_to_image(PROMPTS, seed=3, steps=2, tokens=4))


def test_previews_of_a_stream_may_be_decoded_faster(pipeline):
    asked, fast = pipeline.draw_prompts(PROMPTS), Decoding(steps=1)
    first, last = pipeline.stream(asked, Sampling(steps=3), seed=3, preview=fast)
    assert torch.equal(first.images, pipeline.decode(first.ids, fast, seed=3))
    assert torch.equal(last.images, pipeline.text_to_image(PROMPTS, seed=3, steps=3))


def test_coarse_to_fine_ids_come_back_in_codebook_order(tmp_path):
    used = Pipeline.from_pretrained(tiny_model(tmp_path, order="coarse_to_fine"))
    prompts, free = used.draw_prompts(PROMPTS, chat=False)
    raw = image_ids(
        used.llm,
        prompts,
        unconditional=free,
        start=used.vocab.image_start,
        codebook_size=24,
        length=6,
        guidance=2.0,
        temperature=0.5,
        seeds=[0, 1],
        pad=0,
    )
    assert torch.equal(used.draw_ids((prompts, free), Sampling(guidance=2.0, temperature=0.5)), raw.flip(-1))


def test_edit_shows_the_image_to_the_language_model(pipeline, images):
    prompts, free = pipeline.edit_prompts(images[:1], ["make it red"])
    turns, shown = read_chat(pipeline.vocab, prompts[0][:-1])
    assert turns[0]["content"] == [{"image": 0}, "make it red"]
    assert shown == pipeline.encode(images[:1]).tolist()
    assert read_chat(pipeline.vocab, free[0][:-1])[0][0]["content"] == [{"image": 0}]
    assert pipeline.edit_image(images, ["a", "b", "c"], steps=2).shape == images.shape
    with pytest.raises(ValueError, match="3 images and 1 instructions"):
        pipeline.edit_image(images, ["a"])


def test_describe_gives_a_text_for_each_image(pipeline, images):
    captions = pipeline.describe_image(images, max_new_tokens=5)
    answers = pipeline.describe_image(images, ["how many ?", "what ?", "is it red ?"], max_new_tokens=5)
    assert len(captions) == len(answers) == 3 and all(isinstance(text, str) for text in captions + answers)
    assert captions == pipeline.describe_image(images, max_new_tokens=5)
    assert len(pipeline.describe_image(images, max_new_tokens=10_000, chat=False)) == 3  # cut at the context
    with pytest.raises(ValueError, match="3 images and 2 questions"):
        pipeline.describe_image(images, ["a", "b"])


def test_reconstruct_by_number_of_tokens(pipeline, images):
    ids = pipeline.encode(images)
    assert torch.equal(pipeline.reconstruct(images, 2, steps=2), pipeline.decode(ids[:, :2], steps=2))
    assert torch.equal(pipeline.reconstruct(images, steps=2), pipeline.reconstruct(images, 6, steps=2))
    with pytest.raises(ValueError, match=r"`tokens` \(7\).*6"):
        pipeline.reconstruct(images, 7)


def test_wrong_images_are_refused(pipeline, images):
    for wrong in (images.float(), images[:, :1], images[..., :8]):
        with pytest.raises(ValueError, match="16, 16"):
            pipeline.encode(wrong)


def test_parts_that_do_not_belong_together(pipeline, folder):
    other = tiny_tokenizer(seed=1)
    with pytest.raises(ValueError, match=f"{pipeline.vocab.tokenizer}|{other.fingerprint()}") as error:
        Pipeline(other, pipeline.llm, pipeline.vocab)
    assert other.fingerprint() in str(error.value) and pipeline.tokenizer.fingerprint() in str(error.value)


def test_a_folder_without_a_language_model_reconstructs(tmp_path, images):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    used = Pipeline.from_pretrained(tmp_path)
    assert used.reconstruct(images, steps=1).shape == images.shape
    assert list(used.fingerprints()) == ["tokenizer"]
    with pytest.raises(ValueError, match=r"language model|vocabulary"):
        used.text_to_image(["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        Pipeline.from_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"`folder` \(.*none\) is neither a folder nor a shipped model"):
        Pipeline.from_pretrained(tmp_path / "none")


def test_live_modules_and_fingerprints(pipeline, folder):
    again = Pipeline(pipeline.tokenizer, pipeline.llm, pipeline.vocab, vae=PixelLatents())
    assert again.fingerprints() == pipeline.fingerprints()
    with torch.no_grad():
        loaded = Pipeline.from_pretrained(folder)
        next(loaded.llm.parameters()).add_(1e-3)
    assert loaded.fingerprints()["lm"] != pipeline.fingerprints()["lm"]


def test_seeds():
    assert each_seed(4, 3) == [4, 5, 6] and each_seed([9, 2], 2) == [9, 2]
    with pytest.raises(ValueError, match="2 numbers for 3"):
        each_seed([1, 2], 3)


def test_what_is_left_open_depends_on_whether_the_image_is_planned():
    assert Sampling().settled(planned=True) == Sampling(guidance=1.0, temperature=0.0)
    assert Sampling().settled(planned=False) == Sampling(guidance=2.0, temperature=0.5)
    for planned in (True, False):
        assert Sampling(guidance=3.0, temperature=0.2).settled(planned) == Sampling(guidance=3.0, temperature=0.2)


def test_a_given_plan_stands_before_the_image(pipeline):
    vocab, plan = pipeline.vocab, "blue circle, teal |"
    drawn = pipeline.draw(pipeline.draw_prompts(PROMPTS), Sampling(plan=plan, steps=1), seed=3)
    assert drawn.plans == [plan] * 2
    by_hand = []
    for text in PROMPTS:
        turns = [{"role": "user", "content": [text]}, {"role": "assistant", "content": [plan, {"image": 0}]}]
        ids, _ = vocab.conversation(turns, [[0] * 6])
        by_hand.append(ids[: ids.index(vocab.bov) + 1])  # a whole answer, cut where its image begins
    (planned, free), _ = pipeline.plan(pipeline.draw_prompts(PROMPTS), Sampling(plan=plan))
    assert planned == by_hand
    assert free == pipeline.draw_prompts(PROMPTS)[1]  # guidance compares with neither prompt nor plan
    greedy = Sampling(guidance=1.0, temperature=0.0)  # the default behind a plan
    assert torch.equal(drawn.ids, pipeline.draw_ids((by_hand, free), greedy, seed=3))
    assert torch.equal(drawn.images, pipeline.text_to_image(PROMPTS, seed=3, plan=plan, steps=1))
    assert torch.equal(drawn.images, pipeline.decode(drawn.ids, seed=3, steps=1))


def test_the_model_plans_for_each_sample_alone(pipeline, images):
    sampling = Sampling(plan="auto", plan_temperature=1.0, plan_length=12, steps=1)
    drawn = pipeline.draw(pipeline.draw_prompts(PROMPTS), sampling, seed=3)
    assert any(drawn.plans)  # random weights hardly ever begin an image at once
    alone = pipeline.draw(pipeline.draw_prompts(PROMPTS[1:]), sampling, seed=4)
    assert alone.plans == drawn.plans[1:] and torch.equal(alone.images, drawn.images[1:])
    assert pipeline.draw(pipeline.draw_prompts(PROMPTS), sampling, seed=30).plans != drawn.plans
    edited = pipeline.draw(pipeline.edit_prompts(images, ["red"] * 3), sampling, seed=3)
    assert torch.equal(edited.images, pipeline.edit_image(images, ["red"] * 3, sampling, seed=3))
    *_, last = pipeline.stream(pipeline.draw_prompts(PROMPTS), sampling, seed=3)
    assert last.plans == drawn.plans and torch.equal(last.images, drawn.images)


def test_an_image_is_read_greedily_and_a_prompt_leaves_much_open(pipeline, images):
    short = Sampling(plan="auto", plan_length=12)
    drawing, editing = pipeline.draw_prompts(PROMPTS), pipeline.edit_prompts(images, ["red"] * 3)
    for prompts, usual in ((drawing, 0.7), (editing, 0.0)):
        plans = pipeline.plan(prompts, short, seed=3)[1]
        assert plans == pipeline.plan(prompts, replace(short, plan_temperature=usual), seed=3)[1]
        assert plans != pipeline.plan(prompts, replace(short, plan_temperature=1.5), seed=3)[1]
    both = tuple(a + b for a, b in zip(drawing, editing, strict=True))
    apart = [pipeline.plan(drawing, short, seed=3)[1], pipeline.plan(editing, short, seed=5)[1]]
    assert pipeline.plan(both, short, seed=3)[1] == [*apart[0], *apart[1]]


def test_a_plan_that_may_get_too_long_is_refused(folder):
    short = tiny_model(folder.parent / "short", max_length=60, tokenizer=taught_tokenizer(16))
    pipeline = Pipeline.from_pretrained(short)
    prompts = pipeline.draw_prompts(PROMPTS)
    room = 60 - max(map(len, prompts[0])) - 6  # beside the prompt with its [BOV] and the image
    with pytest.raises(ValueError, match=rf"`plan_length` \({room + 1}\) must be at most {room}:"):
        pipeline.draw(prompts, Sampling(plan="auto", plan_length=room + 1))
    drawn = pipeline.draw(prompts, Sampling(plan="auto", plan_length=room, plan_temperature=1.0, steps=1))
    assert drawn.ids.shape == (2, 6)


def test_a_pretrained_model_makes_no_plans(pipeline):
    with pytest.raises(ValueError, match=r"`plan` \(auto\) needs the chat format"):
        pipeline.text_to_image(PROMPTS, chat=False, plan="auto")
    with pytest.raises(ValueError, match=r"`plan` \(a ring \|\) needs the chat format"):
        pipeline.draw(pipeline.draw_prompts(PROMPTS, chat=False), Sampling(plan="a ring |"))


def test_a_model_plans_as_it_was_trained(folder, pipeline):
    for kind in ("lm", "tokenizer"):
        shutil.copytree(folder / kind, folder.parent / "planning" / kind)
    vocab = Vocab.load(folder / "vocab")
    assert not vocab.plans
    vocab.plans = True
    vocab.save(folder.parent / "planning" / "vocab")
    planning = Pipeline.from_pretrained(folder.parent / "planning")
    sampling = Sampling(plan_temperature=1.0, plan_length=12, steps=1)
    asked = pipeline.draw_prompts(PROMPTS)
    auto = pipeline.draw(asked, replace(sampling, plan="auto"), seed=3)
    plain = pipeline.draw(asked, sampling, seed=3)
    assert any(auto.plans) and not any(plain.plans)
    assert planning.draw(asked, sampling, seed=3).plans == auto.plans
    assert torch.equal(planning.draw(asked, replace(sampling, plan="none"), seed=3).ids, plain.ids)
    drawn = planning.draw(planning.draw_prompts(PROMPTS, chat=False), sampling, seed=3)
    assert not any(drawn.plans)  # there are no plans in the format of pretraining


def test_a_model_that_plans_its_answers_has_room_for_plans(pipeline, monkeypatch):
    images = torch.zeros(2, 3, pipeline.image_size, pipeline.image_size, dtype=torch.uint8)
    prompts = pipeline.describe_prompts(images, "how many ?")
    assert [plan for plan, _ in pipeline.write_planned(prompts, max_new_tokens=3)] == ["", ""]
    asked = []

    def text_ids(*_, max_new_tokens, **__):
        asked.append(max_new_tokens)
        return [pipeline.vocab.encode_text(" red ring | two"), pipeline.vocab.encode_text(" two")]

    monkeypatch.setattr("ddt_lightning.pipeline.text_ids", text_ids)
    monkeypatch.setattr(pipeline.vocab, "answer_plans", True)
    assert pipeline.write_planned(prompts, max_new_tokens=3, looks=0) == [("red ring |", "two"), ("", "two")]
    assert pipeline.describe_image(images, "how many ?", max_new_tokens=3, looks=0) == ["two", "two"]
    room = pipeline.llm.config.max_position_embeddings - max(map(len, prompts))
    assert asked == [min(3 + Sampling.plan_length, room)] * 2
