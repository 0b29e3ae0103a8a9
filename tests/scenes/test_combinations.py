import hashlib
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ddt_lightning.metrics.geneval import evaluate
from ddt_lightning.scenes.check import RELATIONS, relations
from ddt_lightning.scenes.combinations import HeldOut, held, held_places, kinds_of, pairs_of, seen_pairs, shows
from ddt_lightning.scenes.language import OPPOSITE, caption
from ddt_lightning.scenes.layout import plan_objects
from ddt_lightning.scenes.render import box, sample_scene
from ddt_lightning.scenes.suite import suite, train_edit, train_question, train_scene, train_text, truth, val_scene
from ddt_lightning.scenes.world import World

LARGER = [World(12, "both", 0.5), World(12, "both", 0.95), World(18, "both"), World(6, "both", 0.65)]


def test_the_smallest_world_stays_as_it_is():
    """Scores are compared over time: neither prompts nor training scenes may change."""

    def mark(data):
        return hashlib.blake2b(json.dumps(data).encode(), digest_size=8).hexdigest()

    rng = np.random.default_rng(1)
    scenes = [train_scene(rng).to_dict() for _ in range(30)]
    assert (mark(suite()), mark(suite(seen=True))) == ("fad8650ca2cbaf25", "5c11c568d2955105")
    assert mark(scenes) == "d6d8fd4240771e64"
    assert suite(world=World(held_out="both")) == suite()  # what is asked beside it changes no prompt


def test_kinds_and_colours_alone_decide_but_for_places():
    whole, rng = held(World(held_out="both")), np.random.default_rng(7)
    nowhere, turned_down = replace(whole, positions=frozenset()), Counter()
    for _ in range(400):
        scene = sample_scene(rng)
        looks = [(shape.kind, shape.colour) for shape in scene.shapes]
        assert nowhere.shown_by(scene) == whole.shown_by_looks(looks) == whole.shown_by_looks(looks[::-1])
        assert whole.shown_by(scene) or not whole.shown_by_looks(looks)
        turned_down[whole.shown_by(scene), whole.shown_by_looks(looks)] += 1
    assert len(turned_down) == 3


def both_ways(facts):
    return {frozenset((a, b)) for a, _, b in facts}


def test_places_of_the_two_splits():
    world = World(held_out="both")
    mirror, novel = (set(held_places(world, split)) for split in ("mirror", "novel"))
    assert held(World()).positions == mirror and held(World(held_out="novel")).positions == novel
    assert held(world).positions == mirror | novel and not mirror & novel
    for a, where, b in mirror | novel:
        shown_turned = (a, OPPOSITE[where], b) not in mirror | novel
        assert shown_turned == ((a, where, b) in mirror)
    assert Counter(fact[1] for fact in novel) == dict.fromkeys(RELATIONS, 4)


@pytest.mark.parametrize("world", [World(held_out="both"), World(12, "both"), World(18, "both", 0.95)])
def test_every_kind_is_seen_in_every_place(world):
    unseen = held(world).positions
    seen = {(a, where) for pair in seen_pairs(world) for a, b in (pair, pair[::-1])
            for where in RELATIONS if (a, where, b) not in unseen}  # fmt: skip
    assert seen == {(kind, where) for kind in kinds_of(world) for where in RELATIONS}


@pytest.mark.parametrize("world", LARGER)
def test_pairs_are_held_out_evenly_and_in_the_asked_share(world):
    pairs, lost = pairs_of(world), Counter(kind for pair in held(world).pairs for kind in pair)
    assert len(pairs) == world.kinds * (world.kinds - 1) / 2
    assert abs(len(seen_pairs(world)) / len(pairs) - world.pairs_shown) <= 0.5 / len(pairs) + 1e-9
    assert max(lost.values()) - min(lost[kind] for kind in kinds_of(world)) <= 2


def test_prompts_of_the_smallest_world_are_held_out_in_the_others():
    least, rng = World(held_out="both"), np.random.default_rng(2)
    asked = [row for row in [*suite(world=least), *suite(world=least, split="novel")] if row["tag"] != "single_object"]
    for world in LARGER:
        assert held(world).covers(held(least))
        assert not any(shows(truth(row, rng), world) for row in asked[::3])
    assert not held(World(6, "both", 0.95)).covers(held(least))
    assert not held(World()).covers(held(least)) and held(least).covers(held(World()))
    nothing = HeldOut(*[frozenset()] * 5)
    assert held(least).covers(nothing) and not nothing.covers(held(least))


@pytest.mark.parametrize("world", [World(held_out="novel"), LARGER[0]])
def test_novel_places_are_nowhere_in_training(world):
    """Neither pictures nor texts of training relate the two kinds along that axis; read by the test's own rules."""
    lost = {}
    for a, where, b in held_places(world, "novel"):
        lost.setdefault(frozenset((a, b)), set()).add(where)
    rng, scenes, texts = np.random.default_rng(3), [], []
    for number in range(400):
        scenes.append(train_scene(rng, world))
        texts.append(caption(scenes[-1], rng))
        if number % 4 == 0:
            edit, asked = train_edit(rng, world=world), train_question(rng, world=world)
            scenes += [edit.source, edit.target, asked.scene]
            texts.append(train_text(rng, world))
    together = 0
    for scene in scenes:
        for n, a in enumerate(scene.shapes):
            for b in scene.shapes[:n]:
                axis = lost.get(frozenset((a.kind, b.kind)), set())
                together += bool(axis)
                assert not axis & set(relations(box(a), box(b)))
    assert together > 5  # along the other axis
    names = "|".join(kinds_of(world))
    said = re.compile(rf"({names})\b.*?\b(left of|right of|above|below|over|under)\b.*?\b({names})\b")
    same = {"over": "above", "under": "below"}
    for text in texts:
        if found := said.search(text):
            a, where, b = found.groups()
            assert same.get(where, where) not in lost.get(frozenset((a, b)), set()), text


def test_novel_prompts_have_truths_and_are_asked_for_only_where_held_out():
    world, rng = World(held_out="both"), np.random.default_rng(4)
    rows = suite(world=world, split="novel")
    assert len(rows) == 16 and {row["tag"] for row in rows} == {"position"}
    for row in rows:
        assert evaluate(plan_objects(truth(row, rng)), row) == (True, "")
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in [*suite(), *suite(True, world)]}
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in suite(seen=True)}  # the usual world shows them
    assert {row["tag"] for row in suite(world=World(held_out="novel"))} == {row["tag"] for row in suite()} - {
        "position"
    }
    for options in ({}, {"seen": True, "world": world}):
        with pytest.raises(ValueError, match=r"`split` \(novel\)"):
            suite(split="novel", **options)


def test_validation_of_a_larger_world():
    world, rng = LARGER[0], np.random.default_rng(5)
    assert not any(shows(val_scene(rng, True, world), world) for _ in range(20))
    assert all(shows(val_scene(rng, False, world), world) for _ in range(20))


@pytest.mark.parametrize("options", [{"kinds": 7}, {"held_out": "none"}, {"pairs_shown": 0.4}, {"pairs_shown": 1.0}])
def test_worlds_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        World(**options)
