"""Two things of a kind in one place relative to a third: scenes, captions and prompts agree; nothing held out shows."""

from collections import Counter

import numpy as np
import pytest

from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.scenes.check import detect
from ddt_lightning.scenes.combinations import held, shows
from ddt_lightning.scenes.groups import group_captions, group_scene, group_suite, groups
from ddt_lightning.scenes.language import OPPOSITE, parse_caption
from ddt_lightning.scenes.layout import plan_objects, read_plan, write_plan
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import truth
from ddt_lightning.scenes.world import World

WORLD = World()


def test_training_scenes_of_groups_show_nothing_held_out_and_captions_are_true():
    rng, places = np.random.default_rng(3), Counter()
    for _ in range(60):
        scene, group = group_scene(rng, WORLD)
        kind, where, other = group
        assert shows(scene, WORLD) and group in groups(WORLD, seen=True)
        assert Counter(shape.kind for shape in scene.shapes) == {kind: 2, other: 1}
        (third,) = (shape for shape in scene.shapes if shape.kind == other)
        for shape in scene.shapes:
            if shape.kind == kind:  # nearer to the named axis than 60 degrees, whatever GenEval's margins are
                across, down = shape.x - third.x, shape.y - third.y
                along = {"left of": -across, "right of": across, "above": -down, "below": down}[where]
                assert along > 0.5 * np.hypot(across, down) - 1e-6
        texts = group_captions(scene, group, rng)
        assert f"s {where} a" in texts[0] and f" {OPPOSITE[where]} two " in texts[1]
        for text in texts:
            said = parse_caption(text)
            assert said is not None and sum(count for _, _, count in said) == 3
            assert {name for name, _, _ in said} == {kind, other}
            for name, colour, _ in said:
                assert colour in (None, *(shape.colour for shape in scene.shapes if shape.kind == name))
            assert read_plan(write_plan(scene, text)) is not None
        places[where] += 1
    assert min(places.values()) >= 5 and len(places) == 4


@pytest.mark.parametrize("seen", [True, False])
def test_prompts_of_groups_fit_their_truth_alone(seen):
    rows, planned = group_suite(seen, WORLD), []
    assert rows == group_suite(seen, WORLD) and len(rows) == len(groups(WORLD, seen)) > 10
    for n, row in enumerate(rows):
        single, pair = row["include"]
        fact = (pair["class"], pair["position"][0], single["class"])
        assert (fact in held(WORLD).positions) == (not seen)
        scene = truth(row, np.random.default_rng(n), seen, WORLD)
        assert shows(scene, WORLD) == seen
        assert evaluate(detect(render(scene, 64)).objects, row)[0]
        planned.append(evaluate(plan_objects(read_plan(write_plan(scene, row["prompt"]))), row)[0])
        turned = {**row, "include": [single, {**pair, "position": [OPPOSITE[fact[1]], 0]}]}
        assert not evaluate(detect(render(scene, 64)).objects, turned)[0]
        fewer = {**row, "include": [single, {**pair, "count": 3}], "exclude": []}
        assert not evaluate(detect(render(scene, 64)).objects, fewer)[0]
    assert np.mean(planned) > 0.8  # the grid of plans is coarse, and some stand at the edge of a relation
