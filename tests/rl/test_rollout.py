"""Rollouts of a tiny model: what the rows hold, and which of their places belong to the policy."""

import pytest
import torch

from ddt_lightning.pipeline import Pipeline
from ddt_lightning.rl.rollout import ANSWER, GIVEN, IMAGE, PLAN, policy_rows, roll_out, same_before, variety
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.render import Scene, render
from ddt_lightning.shards.prompts import world_edits, world_questions
from tests.tiny import taught_tokenizer, tiny_model

PROMPTS = ["a red circle", "a red circle", "two crosses"]
PLANNED = Sampling(steps=1, guidance=1.0, temperature=1.0, plan="auto", plan_temperature=1.5, plan_length=9)


def asked(texts):
    return [{"tag": "prompt", "prompt": text} for text in texts]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("model"), tokenizer=taught_tokenizer(16), order="coarse_to_fine")
    return Pipeline.from_pretrained(folder)


def test_rows_are_what_the_pipeline_draws(pipeline):
    drawn = roll_out(pipeline, asked(PROMPTS), PLANNED, [5, 6, 7])
    again = pipeline.draw(pipeline.draw_prompts(PROMPTS), PLANNED, seed=[5, 6, 7])
    assert drawn.texts == again.plans and torch.equal(drawn.images, again.images)
    vocab = pipeline.vocab
    for row, start, plan, ids in zip(drawn.rows, drawn.starts, again.plans, again.ids, strict=True):
        assert row[-6:] == vocab.image_to_lm(ids) and row[-7] == vocab.bov
        assert vocab.read_text(row[start:-7]) == plan
    alone = roll_out(pipeline, asked(PROMPTS[2:]), PLANNED, [7])
    assert alone.rows == drawn.rows[2:] and torch.equal(alone.images, drawn.images[2:])


def test_places_of_each_policy(pipeline):
    vocab = pipeline.vocab
    drawn = roll_out(pipeline, asked(PROMPTS * 20), PLANNED, list(range(60)))
    assert any(drawn.cut) and not all(drawn.cut)
    ids, both = policy_rows(drawn, vocab, "both")
    _, plan = policy_rows(drawn, vocab, "plan")
    _, image = policy_rows(drawn, vocab, "ids")
    assert torch.equal(both, plan + image)
    for n, row in enumerate(drawn.rows):
        assert ids[n, : len(row)].tolist() == row and (ids[n, len(row) :] == vocab.pad).all()
        assert (both[n, : drawn.starts[n]] == GIVEN).all() and (both[n, len(row) :] == GIVEN).all()
        assert ids[n][image[n] == IMAGE].tolist() == row[-6:]
        written = row[drawn.starts[n] : -6]
        chosen = ids[n][plan[n] == PLAN].tolist()
        assert chosen == (written[:-1] if drawn.cut[n] else written)  # [BOV] is a choice, unless the plan was cut
        assert drawn.cut[n] == (len(written) == 10)


def test_without_a_plan_of_its_own_nothing_is_text(pipeline):
    for plan in ("none", "a ring |"):
        drawn = roll_out(pipeline, asked(PROMPTS), Sampling(steps=1, guidance=1.0, plan=plan), [1, 2, 3])
        assert (policy_rows(drawn, pipeline.vocab, "ids")[1] == IMAGE).sum() == 18
        assert all(drawn.cut)


def test_variety_of_images():
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    distance, distinct = variety(torch.cat([black, black + 1, white, white, white, white]), 3)
    torch.testing.assert_close(distance, torch.tensor([(1 / 255 + 1 + 254 / 255) / 3, 0.0]))
    torch.testing.assert_close(distinct, torch.tensor([2 / 3, 1 / 3]))


def test_edits_and_drawings_stand_side_by_side(pipeline):
    edit = world_edits(unseen=False)[0]
    mixed = roll_out(pipeline, [asked(PROMPTS)[0], edit, asked(PROMPTS)[2]], PLANNED, [5, 6, 7])
    drawn = roll_out(pipeline, asked(PROMPTS), PLANNED, [5, 6, 7])
    assert mixed.rows[0] == drawn.rows[0] and mixed.rows[2] == drawn.rows[2]
    source = torch.from_numpy(render(Scene.from_dict(edit["source"]), pipeline.image_size)).permute(2, 0, 1)
    alone = pipeline.draw(pipeline.edit_prompts(source[None], [edit["prompt"]]), PLANNED, seed=6)
    assert mixed.texts[1] == alone.plans[0] and torch.equal(mixed.images[1:2], alone.images)
    again = drawn.replaced([1], roll_out(pipeline, [edit], PLANNED, [6]))
    assert again.rows == [drawn.rows[0], mixed.rows[1], drawn.rows[2]]
    assert torch.equal(again.images[1], mixed.images[1]) and torch.equal(again.images[2], drawn.images[2])
    assert again.starts[1] == mixed.starts[1] and again.texts[1] == mixed.texts[1]


def test_answers_are_what_the_pipeline_writes(pipeline):
    vocab, chosen = pipeline.vocab, world_questions(unseen=True)[::220]
    each = [one for one in chosen for _ in range(30)]
    drawn = roll_out(pipeline, each, PLANNED, list(range(len(each))))
    shown = torch.stack([
        torch.from_numpy(render(Scene.from_dict(one["scene"]), pipeline.image_size)).permute(2, 0, 1) for one in each
    ])  # fmt: skip
    said = pipeline.describe_image(
        shown, [one["prompt"] for one in each], max_new_tokens=9, temperature=1.0, seed=list(range(len(each)))
    )
    assert drawn.texts == said and torch.equal(drawn.images, shown) and not drawn.drawn
    assert any(drawn.cut) and not all(drawn.cut)
    ids, kinds = policy_rows(drawn, vocab, "ids")
    for n, (row, cut) in enumerate(zip(drawn.rows, drawn.cut, strict=True)):
        chosen_ids = ids[n][kinds[n] == ANSWER].tolist()
        assert chosen_ids == row[drawn.starts[n] :] and (kinds[n, : drawn.starts[n]] == GIVEN).all()
        assert vocab.read_text(chosen_ids).strip() == drawn.texts[n]
        assert (chosen_ids[-1] != vocab.eos and len(chosen_ids) == 9) if cut else chosen_ids[-1] == vocab.eos
    assert roll_out(pipeline, each[-1:], PLANNED, [len(each) - 1]).rows == drawn.rows[-1:]


def test_texts_that_recur_in_a_group():
    assert same_before(["a", "b", "a", "a", "b", "b"], 3) == [False, False, True, False, False, True]
