"""Rewards of rendered truths, of nothing, and of what is partly right; how rewards are named."""

import numpy as np
import pytest
import torch

from ddt_lightning.rl.rewards import (
    LAYOUT_SHARE,
    all_right,
    demands,
    edit_kept,
    edit_right,
    exact_answer,
    find_rewards,
    plan_right,
    shapes,
    shapes_or_edit,
    share_right,
    worth,
)
from ddt_lightning.scenes.layout import write_edit_plan, write_plan
from ddt_lightning.scenes.render import Background, Scene, Shape, render
from ddt_lightning.scenes.suite import as_circles, suite, truth
from ddt_lightning.scenes.tasks import Edit
from ddt_lightning.shards.prompts import EDITS_OF_A_KIND, world_edits

GROUND = Background("grey", "day")
PROMPT = {
    "tag": "position",
    "include": [
        {"class": "square", "count": 1, "color": "blue"},
        {"class": "ring", "count": 1, "position": ["above", 0]},
    ],
    "exclude": [{"class": "square", "count": 2}],
}


def images(*scenes):
    return torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)


def test_truths_are_worth_one_and_circles_their_layout():
    rng = np.random.default_rng(0)
    asked = suite(seen=True)[::9]
    scenes = [truth(prompt, rng, seen=True) for prompt in asked]
    assert shapes(images(*scenes), asked) == pytest.approx([1.0] * len(asked))
    assert all_right(images(*scenes), asked) == share_right(images(*scenes), asked) == [1.0] * len(asked)
    square = [n for n, prompt in enumerate(asked) if all(one["class"] != "circle" for one in prompt["include"])]
    blobs, named = images(*(as_circles(scenes[n]) for n in square)), [asked[n] for n in square]
    assert shapes(blobs, named) == pytest.approx([LAYOUT_SHARE] * len(square))
    empty = images(*[Scene((), GROUND)] * len(asked))
    assert shapes(empty, asked) == [0.0] * len(asked)


def test_each_thing_that_is_asked_for_counts():
    assert len(demands(PROMPT)) == 5  # square, blue square, ring, ring above it, no second square
    ring, square = Shape("ring", "red", 20, 15, 10), Shape("square", "blue", 20, 45, 10)
    below = Shape("ring", "red", 20, 50, 10)
    scenes = [
        Scene((ring, square), GROUND),
        Scene((below, Shape("square", "blue", 20, 18, 10)), GROUND),  # the ring below
        Scene((ring, Shape("square", "red", 20, 45, 10)), GROUND),  # another colour
        Scene((ring,), GROUND),
        Scene((ring, square, Shape("square", "blue", 50, 45, 10)), GROUND),
    ]
    found = share_right(images(*scenes), [PROMPT] * 5)
    # without the square there is no place to be above of; too many squares break the number alone
    assert found == pytest.approx([1.0, 0.8, 0.8, 0.4, 0.8])


def test_rewards_are_found_by_path_and_weighed():
    path = "ddt_lightning.rl.rewards"
    found = find_rewards({f"{path}.all_right": 2.0, f"{path}.share_right": 0.5})
    scene = Scene((Shape("ring", "red", 20, 15, 10),), GROUND)
    assert worth(found, images(scene), [PROMPT]) == pytest.approx([2.0 * 0 + 0.5 * 0.4])
    with pytest.raises(
        ValueError, match=r"`model\.rewards` \(ddt_lightning\.rl\.rewards\.nothing\) cannot be imported"
    ):
        find_rewards({f"{path}.nothing": 1.0})
    with pytest.raises(ValueError, match="is no function"):
        find_rewards({f"{path}.LAYOUT_SHARE": 1.0})
    with pytest.raises(ValueError, match="is empty"):
        find_rewards({})
    with pytest.raises(ValueError, match="one gives 0 values for 1 images"):
        worth({"one": (lambda images, prompts: [], 1.0)}, images(scene), [PROMPT])


def test_edits_are_worth_their_target():
    asked = world_edits(unseen=False)[:: EDITS_OF_A_KIND // 2]  # two of each kind
    targets, sources = (images(*(Scene.from_dict(one[name]) for one in asked)) for name in ("target", "source"))
    everywhere = [one["tag"] in ("background", "daynight") for one in asked]
    assert len({one["tag"] for one in asked}) == 7
    assert edit_right(targets, asked) == [1.0] * len(asked)
    assert edit_right(sources, asked) == [0.0] * len(asked)
    drawing = {"tag": "x", "prompt": "a red circle", "include": [{"class": "circle", "count": 1, "color": "red"}]}
    mixed = torch.cat([targets[:1], sources[:1], sources[:1]])
    assert shapes_or_edit(mixed, [asked[0], drawing, asked[0]]) == [1.0, *shapes(sources[:1], [drawing]), 0.0]
    assert shapes_or_edit(targets, asked) == [1.0] * len(asked)
    kept = edit_kept(targets, asked)
    assert kept == [float(not one) for one in everywhere]
    inverted = edit_kept(255 - targets, asked)
    assert all(0 <= bad < good for bad, good in zip(inverted, kept, strict=True) if good)


def test_plans_are_right_where_the_image_shows_them():
    first = Scene((Shape("ring", "red", 18, 22, 10), Shape("square", "blue", 46, 42, 10)), GROUND)
    moved = Scene((Shape("ring", "red", 18, 50, 10), Shape("square", "blue", 46, 22, 10)), GROUND)
    night = Scene(first.shapes, Background("grey", "night"))
    plans = [{"plan": write_plan(scene)} for scene in (first, moved, night)]
    assert plan_right(images(first, moved, night), plans) == [1.0, 1.0, 1.0]
    assert plan_right(images(moved, night, first), plans) == [0.0, 0.0, 0.0]
    edit = {"plan": write_edit_plan(Edit("daynight", first, "make it night", night))}
    assert plan_right(images(first, night), [edit, edit]) == [0.0, 1.0]
    assert plan_right(images(first, first), [{"plan": "red ring"}, {"plan": None}]) == [0.0, 0.0]


def test_answers_are_compared_after_normalisation():
    asked = [{"written": said, "answer": "three"} for said in ("Three.", "3", "four", "")]
    assert exact_answer(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), asked) == [1.0, 1.0, 0.0, 0.0]


def test_a_reward_that_does_not_fit_its_prompts_is_named():
    found = find_rewards({"ddt_lightning.rl.rewards.shapes": 1.0})
    with pytest.raises(ValueError, match=r"`model\.rewards`: shapes needs 'include'.*'how many\?'"):
        worth(found, images(Scene((), GROUND)), [{"prompt": "how many?", "tag": "count"}])
