"""Second looks: with planted likelihoods, whose best reading is known, and by the shipped model at held-out scenes."""

from functools import partial
from pathlib import Path

import pytest
import torch

from ddt_lightning import second_look
from ddt_lightning.emoji import language as emoji
from ddt_lightning.evaluation.plan import shows
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import PLAN_END, PLAN_TURN, Sampling
from ddt_lightning.scenes import layout
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import val_edit
from ddt_lightning.scenes.tasks import EDITS
from ddt_lightning.second_look import improved, last_image, look_again, target_reconsidered
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.vocab import Vocab

TRUTH = "red ring and two blue circles"
SHIPPED = Path(__file__).parents[1] / "data" / "pretrained" / "scenes"


@pytest.fixture(scope="module")
def vocab() -> Vocab:
    """The shipped one, which has an id for each of these words."""
    return Vocab.load(SHIPPED / "vocab")


@pytest.fixture
def planted(monkeypatch, vocab):
    """Every text is as likely as any other; an image is likelier by 5 nats for every word of the truth."""
    asked: list[list[list[int]]] = []

    def drawn(_, prompts, texts, *, start, size, pad):
        if start == 0:
            return torch.zeros(len(prompts))
        assert start == vocab.image_start and all(len(image) == vocab.image_tokens for image in texts)
        asked.append([list(prompt) for prompt in prompts])
        texts = [vocab.read_text([i for i in prompt if i < vocab.text_size]) for prompt in prompts]
        plans = [text.split("ASSISTANT:")[-1].strip().removesuffix(f" {PLAN_END}") for text in texts]
        return torch.tensor([5.0 * sum(map(str.__eq__, plan.split(), TRUTH.split())) for plan in plans])

    def read(_, prompt, words, *, text_size):
        return torch.full((len(words), text_size), -3.0)

    monkeypatch.setattr("ddt_lightning.second_look.ALTERNATIVES", vocab.text_size)
    monkeypatch.setattr("ddt_lightning.second_look.likelihoods", drawn)
    monkeypatch.setattr("ddt_lightning.second_look.word_likelihoods", read)
    return asked


def expect(monkeypatch, vocab: Vocab, word: str, nats: float, anyway: float) -> None:
    """Texts with the word are likelier by some nats behind their prompt, by others behind a request for anything."""
    before, i = second_look.likelihoods, vocab.encode_text(f" {word}")[0]
    anything = vocab.chat_prompt([{"role": "user", "content": [second_look.ANYTHING]}])

    def likely(model, prompts, texts, *, start, size, pad):
        value = before(model, prompts, texts, start=start, size=size, pad=pad)
        if start == 0:
            more = [anyway if list(prompt) == anything else nats for prompt in prompts]
            value += torch.tensor([more[n] * (i in text) for n, text in enumerate(texts)])
        return value

    monkeypatch.setattr("ddt_lightning.second_look.likelihoods", likely)


def prompt_with_image(vocab: Vocab) -> list[int]:
    turn = {"role": "user", "content": [{"image": 0}, "describe"]}
    return vocab.chat_prompt([turn], torch.arange(vocab.image_tokens)[None].numpy())


def misread(vocab: Vocab, places: int) -> list[int]:
    """The truth with its first words replaced."""
    truth = vocab.encode_text(f" {TRUTH}")
    other = vocab.encode_text(" square")[0]
    return [other] * places + truth[places:]


def test_reading_that_draws_the_image_best_is_found(planted, vocab):
    prompt, truth = prompt_with_image(vocab), vocab.encode_text(f" {TRUTH}")
    image = last_image(vocab, prompt)
    assert vocab.image_to_lm(range(vocab.image_tokens)) == image
    find = partial(improved, None, vocab, prompt, end=PLAN_END, image=image)
    assert find(misread(vocab, 3), 1) == truth  # all places change at once where that is better
    assert find(truth, 4) == truth
    assert find(misread(vocab, 3), 0) == misread(vocab, 3)
    said = vocab.read_text(truth)
    request = [*vocab.chat_prompt([{"role": "user", "content": [said]}]),
               *vocab.encode_text(f" {said} {PLAN_END}"), vocab.bov]  # fmt: skip
    assert planted[0].count(request) == 0 and request in planted[1]  # asked to draw it, with the plan before it


@pytest.mark.parametrize(("nats", "anyway", "kept"), [(4.5, 0, False), (5.5, 0, True), (5.5, 2, False)])
def test_reading_is_weighed_against_what_draws_the_image(planted, vocab, monkeypatch, nats, anyway, kept):
    """One word draws the image better by 5 nats. A share of what would be said anyway is taken off."""
    prompt, wrong = prompt_with_image(vocab), misread(vocab, 1)
    expect(monkeypatch, vocab, "square", nats, anyway)
    found = improved(None, vocab, prompt, wrong, 1, PLAN_END, last_image(vocab, prompt))
    assert (found == wrong) is kept and (kept or found == vocab.encode_text(f" {TRUTH}"))


@pytest.mark.parametrize(("nats", "anyway", "kept"), [(3, 0, True), (3, 8, True), (3, 9, False)])
def test_target_of_an_edit_is_freed_from_habit(planted, vocab, monkeypatch, nats, anyway, kept):
    expect(monkeypatch, vocab, "square", nats, anyway)
    prompt, plan = prompt_with_image(vocab), vocab.encode_text(f" red ring to two square {PLAN_END}")
    found = target_reconsidered(None, vocab, prompt, plan, 1)
    assert (found == plan) is kept
    assert vocab.read_text(found).startswith("red ring to two") and vocab.read_text(found).endswith(f" {PLAN_END}")
    for other in (f" red ring {PLAN_END}", " red ring to two square"):  # no target, and half a one
        ids = vocab.encode_text(other)
        assert target_reconsidered(None, vocab, prompt, ids, 1) == ids
    assert target_reconsidered(None, vocab, vocab.chat_prompt([{"role": "user", "content": ["two"]}]), plan, 1) == plan


@pytest.mark.parametrize("end", [PLAN_END, PLAN_TURN])
def test_only_what_is_seen_changes_and_the_text_goes_on_behind_it(planted, vocab, end):
    with_image, without = prompt_with_image(vocab), vocab.chat_prompt([{"role": "user", "content": ["draw"]}])
    reading = vocab.read_text(misread(vocab, 2))
    first = vocab.encode_text(f" {reading} {end.strip()} three")
    prompts, seeds = [without, with_image, with_image], [7, 8, 9]
    calls = []

    def write(rows, length, seeds):
        calls.append((rows, length, seeds))
        if len(calls) == 1:
            return [list(first), list(first), vocab.encode_text(f" {reading}")]
        return [vocab.encode_text(f" {end.strip()} two")]

    found = look_again(None, vocab, prompts, write, 40, seeds, 2, end)
    truth = vocab.encode_text(f" {TRUTH}")
    assert found[0] == first  # no image to look at
    assert found[1] == [*truth, *vocab.encode_text(f" {end.strip()} two")]
    assert vocab.read_text(found[2]) == reading  # nothing ends it: it may be an answer
    assert calls[1] == ([[*with_image, *truth]], 40 - len(truth), [8])
    calls.clear()
    assert look_again(None, vocab, prompts, write, 40, seeds, 0, end)[1] == first and len(calls) == 1


def test_ends_are_those_of_plans_of_scenes_and_emoji():
    for plans in (layout, emoji):
        assert plans.TURN == PLAN_TURN and plans.END.strip() == PLAN_END


def test_looks_out_of_range():
    with pytest.raises(ValueError, match=r"`looks` \(-1\) must be 0"):
        Sampling(looks=-1)


def test_words_read_with_certainty_are_left_alone(planted, vocab, monkeypatch):
    prompt, wrong = prompt_with_image(vocab), misread(vocab, 2)

    def certain(_, prompt, words, *, text_size):
        logs = torch.full((len(words), text_size), -50.0)
        logs[torch.arange(len(words)), words] = 0.0
        return logs

    monkeypatch.setattr("ddt_lightning.second_look.word_likelihoods", certain)
    assert improved(None, vocab, prompt, wrong, 4, PLAN_END, last_image(vocab, prompt)) == wrong and not planted


def test_each_text_goes_on_as_long_as_if_it_were_alone(vocab, monkeypatch):
    """A longer reading in the same batch takes nothing from what follows a shorter one."""
    prompt = prompt_with_image(vocab)
    readings = [vocab.encode_text(text) for text in (" red ring", " red ring and two blue circles")]
    monkeypatch.setattr("ddt_lightning.second_look.improved", lambda *given: [*given[3][:-1], readings[0][0]])
    lengths = []

    def write(rows, length, seeds):
        lengths.append((length, seeds))
        return [[*readings[seed], *vocab.encode_text(f" {PLAN_END} two")] for seed in seeds]

    look_again(None, vocab, [prompt, prompt], write, 40, [0, 1], 2)
    assert lengths == [(40, [0, 1]), (40 - len(readings[0]), [0]), (40 - len(readings[1]), [1])]


def test_shipped_model_reads_held_out_scenes_better_at_a_second_look():
    pipeline = Pipeline.from_pretrained(SHIPPED)
    edits = [val_edit(numpy_rng("eval edit", 0, n), EDITS[n % len(EDITS)]) for n in range(16)]
    images = torch.stack([torch.from_numpy(render(one.source, 64)).permute(2, 0, 1) for one in edits])
    prompts = pipeline.edit_prompts(images, [one.instruction for one in edits])
    right = {}
    for looks in (0, 2):
        sampling = Sampling(plan="auto", plan_temperature=0.0, looks=looks)
        plans = [layout.read_edit_plan(plan) for plan in pipeline.plan(prompts, sampling)[1]]
        right[looks] = sum(bool(plan and shows(plan[0], one.source, background=False))
                           for plan, one in zip(plans, edits, strict=True))  # fmt: skip
    assert right[2] >= right[0] + 3
